"""Rims of things: given back where the views show them, on scenes that are worked out pixel by pixel."""

import numpy as np
import pytest
import torch
from einops import rearrange

import lfkit
from lfkit import rims
from lfkit.evidence import ViewEvidence, block_sums
from lfkit.sweep import look_closer

HIGH, WIDE, EDGE = 24, 40, 20  # sides of a view, and the column where the thing ends
WALL, THING = -1.0, 1.0        # disparities
EVIDENCE = ViewEvidence(9)


def wall(y, x):
    return 0.30 + 0.02 * np.sin(0.9 * y + 0.5 * x)


def thing(y, x):
    return 0.60 + 0.10 * np.sin(1.1 * y + 0.7 * x)


def rim(y, x):
    return 0.24 + 0.01 * np.sin(0.8 * y)


def views(parts: list[tuple[float, float, float, object]]) -> torch.Tensor:
    """Centred views '1 n c h w' of a wall and, before it, parts of (disparity, first column, column after the last, colour of points), the later before the earlier: each pixel by four rays of its own."""
    lf = np.zeros((9, 9, HIGH, WIDE))
    for u in range(9):
        for v in range(9):
            du, dv = 4 - u, 4 - v
            for aside in (-0.375, -0.125, 0.125, 0.375):
                i, j = np.mgrid[:HIGH, :WIDE] + np.array([0, aside])[:, None, None]
                seen = wall(i - du * WALL, j - dv * WALL)
                for disp, first, end, colour in parts:
                    y, x = i - du * disp, j - dv * disp
                    seen = np.where((x >= first - 0.5) & (x < end - 0.5), colour(y, x), seen)
                lf[u, v] += seen / 4
    return torch.from_numpy(lf).float().reshape(1, 81, 1, HIGH, WIDE).repeat(1, 1, 3, 1, 1) - 0.5


def edge_at(column: int) -> torch.Tensor:
    """A map 'b h w' with the thing up to this column."""
    return torch.where(torch.arange(WIDE) < column, THING, WALL).expand(1, HIGH, WIDE).clone()


def given(x: torch.Tensor, disp: torch.Tensor) -> torch.Tensor:
    return rims.with_rims(x, disp, 0.5, EVIDENCE)


def columns(disp: torch.Tensor) -> set[int]:
    """Where a map differs from that whose thing ends before a rim of two pixels, in any row but those at the border."""
    return set((disp != edge_at(EDGE - 2))[0, 4:-4].any(0).nonzero()[:, 0].tolist())


WITH_RIM = [(THING, -99, EDGE - 2, thing), (THING, EDGE - 2, EDGE, rim)]


def test_a_rim_darker_than_the_wall_is_given_back():
    found = given(views(WITH_RIM), edge_at(EDGE - 2))
    assert torch.equal(found[:, 4:-4], edge_at(EDGE)[:, 4:-4])


def test_nothing_else_changes_where_the_map_is_right():
    assert torch.equal(given(views(WITH_RIM), edge_at(EDGE)), edge_at(EDGE))


def test_a_wire_before_the_wall_is_no_rim():
    wire = [(THING, -99, EDGE - 2, thing), (2.5, EDGE - 2, EDGE, rim)]
    found = given(views(wire), edge_at(EDGE - 2))
    assert (found != edge_at(EDGE - 2))[0, 4:-4, EDGE - 2:EDGE].float().mean() < 0.15


def test_what_a_leaf_hides_is_no_rim():
    leaf = [(THING, -99, EDGE - 2, thing), (3.0, EDGE - 6, EDGE + 2, lambda y, x: 0.25 + 0.1 * np.sin(2 * y + x))]
    assert not columns(given(views(leaf), edge_at(EDGE - 2)))


def test_a_pixel_that_mixes_both_belongs_to_the_one_that_it_has_more_of():
    for share, changed in ((0.3, set()), (0.7, {EDGE - 2})):
        mixed = lambda y, x, share=share: share * thing(y, EDGE - 3) + (1 - share) * 0.30
        scene = views([(THING, -99, EDGE - 2, thing), (THING, EDGE - 2, EDGE - 1, mixed)])
        assert columns(given(scene, edge_at(EDGE - 2))) == changed, share


def test_a_rim_of_the_walls_colour_stays_lost(monkeypatch):
    monkeypatch.setitem(globals(), "wall", lambda y, x: 0.30 + 0 * y)
    assert not columns(given(views([(THING, -99, EDGE - 2, thing), (THING, EDGE - 2, EDGE, wall)]), edge_at(EDGE - 2)))
    assert columns(given(views(WITH_RIM), edge_at(EDGE - 2))) == {EDGE - 2, EDGE - 1}


def test_a_rim_is_given_back_up_to_its_greatest_width():
    scene = views([(THING, -99, EDGE - 6, thing), (THING, EDGE - 6, EDGE, rim)])
    found = given(scene, edge_at(EDGE - 6))
    assert torch.equal(found[:, 4:-4], edge_at(EDGE - 6 + rims.WIDEST)[:, 4:-4])


@pytest.mark.parametrize("fall", [0.0, 0.2, 0.4])
def test_a_rim_that_falls_away_has_its_own_disparity(monkeypatch, fall):
    monkeypatch.setitem(globals(), "wall", lambda y, x: 0.50 + 0.02 * np.sin(0.9 * y + 0.5 * x))
    grained = lambda y, x: 0.22 + 0.03 * np.sin(1.3 * y + 0.9 * x)
    scene = views([(THING - fall, -99, EDGE, grained)])  # all of it, so that nothing of it hides the rim
    found = given(scene, edge_at(EDGE - 2))[0, 4:-4, EDGE - 2]
    assert (found - (THING - fall)).abs().max() < 0.11


def by_hand(x: torch.Tensor, disp: torch.Tensor) -> torch.Tensor:
    """What `with_rims` does, a pixel at a time; how views are read and the colour of what lies behind are the library's."""
    (h, w), colours = disp.shape[1:], x[0, 40].double()
    things, found = colours.clone(), disp.clone()
    behind = torch.empty_like(colours)
    def unlike(views, reach, i, j):
        seen = reach[0, :, i, j]
        return ((views[0, seen, :, i, j].double() - colours[:, i, j]) ** 2).mean()
    for _ in range(3):
        before, before_things = found.clone(), things.clone()
        around = [[[(a, b) for a in range(max(i - 1, 0), min(i + 2, h)) for b in range(max(j - 1, 0), min(j + 2, w))] for j in range(w)] for i in range(h)]
        best = [[max(around[i][j], key=lambda p: float(before[0][p])) for j in range(w)] for i in range(h)]
        far = torch.tensor([[min(float(before[0][p]) for p in around[i][j]) for j in range(w)] for i in range(h)])[None]
        near = torch.tensor([[float(before[0][best[i][j]]) for j in range(w)] for i in range(h)])[None]
        at_far = look_closer(x, far)
        behind = EVIDENCE(block_sums(*at_far, EVIDENCE.members), x[:, 40])[0][0, -4:-1].double()
        at_near = {fall: look_closer(x, near - fall) for fall in rims.FALLS}
        for i in range(h):
            for j in range(w):
                if near[0, i, j] - before[0, i, j] <= 0.5:
                    continue
                own, back, front = colours[:, i, j], behind[:, i, j], before_things[(slice(None), *best[i][j])]
                square = ((own - back) ** 2).mean()
                along = ((own - back) * (front - back)).sum() / ((front - back) ** 2).sum()
                off = ((own - back - along * (front - back)) ** 2).mean()
                if abs(along) >= 1.5 or 0 < along < 0.5 and off < 0.1 * square:
                    continue
                left = {fall: unlike(*views, i, j) for fall, views in at_near.items()}
                fall = min(left, key=left.get)
                if left[fall] < min(0.5 * square, 0.05 * unlike(*at_far, i, j)) - 1e-6:
                    found[0, i, j] = near[0, i, j] - fall
                    things[:, i, j] = front
    return found


@pytest.mark.parametrize("seed", [19, 24, 25])
def test_it_is_what_a_loop_over_pixels_gives(seed):
    scene = lfkit.synthesize(seed, 48)
    x = rearrange(torch.from_numpy(scene.lf).float() / 255, "u v h w c -> 1 (u v) c h w") - 0.5
    truth = torch.from_numpy(scene.bg_disp)[None] + 1e-4 * torch.rand((1, 48, 48), generator=torch.Generator().manual_seed(0))
    disp = -torch.nn.functional.max_pool2d(-truth, 5, 1, 2)  # everything has lost two pixels all around
    found = rims.with_rims(x, disp, 0.5, EVIDENCE)
    assert torch.equal(found, by_hand(x, disp)) and (found != disp).sum() > 20


def test_noise_alone_makes_no_rims():
    noise = 0.02 * torch.randn((1, 81, 3, HIGH, WIDE), generator=torch.Generator().manual_seed(0))
    assert not columns(given(views([(THING, -99, EDGE - 2, thing)]) + noise, edge_at(EDGE - 2)))


def test_scenes_of_a_batch_do_not_meddle():
    x, disp = torch.cat([views(WITH_RIM), views([(THING, -99, EDGE - 2, thing)])]), edge_at(EDGE - 2).repeat(2, 1, 1)
    together = given(x, disp)
    assert torch.equal(together, torch.cat([given(x[k:k + 1], disp[k:k + 1]) for k in range(2)]))
    assert columns(together[:1]) == {EDGE - 2, EDGE - 1} and not columns(together[1:])


def test_views_that_do_not_reach_have_no_say():
    rng = np.random.default_rng(0)
    values, colour, reach = rng.random((1, 9, 3, 1, 5)), rng.random((1, 3, 5)), rng.random((1, 9, 1, 5)) < 0.6
    reach[:, 0] = True
    found = rims._unlike(*map(torch.from_numpy, (values * reach[:, :, None], reach, colour)))
    wanted = [np.mean([((values[0, n, :, 0, p] - colour[0, :, p]) ** 2).mean() for n in range(9) if reach[0, n, 0, p]]) for p in range(5)]
    np.testing.assert_allclose(found[0], wanted, rtol=1e-6)


@pytest.mark.parametrize("enlarge, times", [(1, 1), (1.5, 2)])
def test_the_network_gives_rims_back_in_use_and_not_while_training(monkeypatch, enlarge, times):
    calls = []
    def marked(x, disp, spacing, evidence):
        calls.append((x.shape[-2:], spacing))
        assert disp.shape[-2:] == x.shape[-2:] and evidence is model.evidence
        return disp + 0.25
    model = lfkit.DeoccNet(4, 3, 1, 1).eval()
    model.enlarge = enlarge
    x = torch.rand(1, 9, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = model.stages(x)
        monkeypatch.setattr("lfkit.model.with_rims", marked)
        found = model.stages(x)
    assert len(calls) == times and calls[-1] == ((16, 16), 0.5)
    assert calls[0] == ((24, 24), 0.75) or enlarge == 1
    inside = (plain["depth_map"].abs() < 0.5)
    assert inside.any() and torch.equal(found["fifth"], plain["fifth"]) and (found["depth_map"] > plain["depth_map"])[inside].all()
    calls.clear()
    model.train()(x)
    assert not calls


def test_nothing_moves_farther_away_whatever_the_levels():
    x, disp = torch.cat([views(WITH_RIM), views([(0.0, -99, 99, thing)])], -1), torch.cat([edge_at(EDGE - 2), torch.where(torch.arange(WIDE) < EDGE, 0.4, 0.2).expand(1, HIGH, WIDE)], -1)
    found = rims.with_rims(x, disp, 0.125, EVIDENCE)
    assert (found >= disp).all() and (found > disp).any()


def test_what_the_centre_view_alone_shows_is_no_rim():
    x = torch.rand((1, 9, 3, 4, 4), generator=torch.Generator().manual_seed(0)) - 0.5
    disp = torch.zeros(1, 4, 4)
    disp[..., :2] = 8
    assert torch.equal(rims.with_rims(x, disp, 0.5, ViewEvidence(3)), disp)

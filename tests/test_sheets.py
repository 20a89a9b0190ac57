import pytest
import torch

from lfkit.canvas import Canvas
from lfkit.sheets import Sheet, render


def test_a_plane_is_shifted_by_its_disparity_exactly():
    """A textured plane at d = 2: view (0, 0) of a 9 x 9 grid shows the centre's pixels 8 further down and right."""
    canvas = Canvas(32, 20, torch.Generator().manual_seed(0), torch.device("cpu"))
    sheet = Sheet((2.0, 0.0, 0.0), canvas.noise(1.0, 3) * 0.1 + 0.5, torch.ones_like(canvas.y))
    parts = render(canvas, [sheet], 9)
    assert torch.allclose(parts["lf"][0, 0, 8:, 8:], parts["lf"][4, 4, :-8, :-8], atol=1e-4)
    assert torch.allclose(parts["lf"][4, 8, :, :-8], parts["lf"][4, 4, :, 8:], atol=1e-4)
    assert (parts["fg_disp"] == 2).all()


def test_a_slanted_wavy_sheet_solves_the_ray():
    """Brute force: along the ray of a view pixel, the sheet's point is where d(y, x) meets the d that led there."""
    canvas = Canvas(32, 20, torch.Generator().manual_seed(0), torch.device("cpu"))
    sheet = Sheet((1.0, 0.01, -0.008), canvas.noise(1.0, 3), torch.ones_like(canvas.y), waves=[(0.15, 0.05, 0.04, 0.3)])
    i, j, du, dv = torch.tensor(5.0), torch.tensor(27.0), torch.tensor(4.0), torch.tensor(-4.0)
    y, x, d = sheet.solve(i, j, du, dv)
    candidates = torch.linspace(-4, 4, 800001, dtype=torch.float64)
    residual = sheet.disp(5 - 4 * candidates, 27 + 4 * candidates) - candidates
    assert float(d) == pytest.approx(float(candidates[residual.abs().argmin()]), abs=1e-3)
    assert float(sheet.disp(y, x)) == pytest.approx(float(d), abs=1e-3)


def test_the_nearer_sheet_hides_the_farther_and_an_occluder_does_not_change_the_background():
    canvas = Canvas(16, 20, torch.Generator().manual_seed(0), torch.device("cpu"))
    flat = lambda value: torch.full((3, canvas.side, canvas.side), value)
    half = (canvas.x < 7.5).float()
    back = Sheet((-1.0, 0.0, 0.0), flat(0.2), torch.ones_like(canvas.y))
    thing = Sheet((-2.0, 0.0, 0.0), flat(0.9), torch.ones_like(canvas.y))  # behind the back: never seen
    front = Sheet((3.0, 0.0, 0.0), flat(0.6), half, occluder=True)
    parts = render(canvas, [front, thing, back], 3)
    assert torch.equal(parts["mask"], (torch.arange(16) < 8).expand(16, 16))
    assert torch.equal(parts["fg_disp"], torch.where(parts["mask"], 3.0, -1.0)) and (parts["bg_disp"] == -1).all()
    assert torch.allclose(parts["gt_data"], torch.tensor(0.2))
    # view column 0 is at offset c - v = 1: the front's edge moves from 7.5 by +3
    assert (parts["lf"][1, 0, :, :10] > 0.59).all() and (parts["lf"][1, 0, :, 12:] < 0.21).all()


def test_a_pixel_that_a_sheet_touches_by_an_eighth_is_the_sheets_and_light_adds_up():
    """Columns 0 to 15 are covered by 0, 1/15, ... 1: from 2/15 on they count as the front's; its light is 0.64, the back's 0.04."""
    canvas = Canvas(16, 4, torch.Generator().manual_seed(0), torch.device("cpu"))
    flat = lambda value: torch.full((3, canvas.side, canvas.side), value)
    cover = (canvas.x / 15).clamp(0, 1)
    parts = render(canvas, [Sheet((0.0, 0.0, 0.0), flat(0.2), torch.ones_like(cover)), Sheet((1.0, 0.0, 0.0), flat(0.8), cover)], 3)
    assert torch.equal(parts["fg_disp"][3], (torch.arange(16) >= 2).float())
    part = torch.arange(1, 15) / 15  # at the first and the last column the samples beside them are clamped
    assert torch.allclose(parts["lf"][1, 1, 3, 1:-1, 0], (0.04 + part * 0.6).sqrt(), atol=1e-5)


def test_a_spot_drifts_over_its_surface_and_sheen_grows_with_the_view():
    canvas = Canvas(32, 8, torch.Generator().manual_seed(0), torch.device("cpu"))
    sheet = Sheet((0.0, 0.0, 0.0), torch.full((3, canvas.side, canvas.side), 0.2), torch.ones_like(canvas.y), sheen=(0.1, 0.0),
                  spot=(0.5, 16.0, 12.0, 2.0, 0.0, 3.0))
    lf = render(canvas, [sheet], 3)["lf"][..., 0]
    brightest = [divmod(int(lf[1, v].argmax()), 32) for v in range(3)]
    assert brightest == [(16, 15), (16, 12), (16, 9)]  # at offsets c - v = 1, 0, -1
    assert lf[0, 1, 0, 0] == pytest.approx(0.22) and lf[2, 1, 0, 0] == pytest.approx(0.18)

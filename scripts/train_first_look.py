"""Trains the first look of given weights alone, for occluders that they were not trained on, on processors: the looks after it stay as they are.

    python scripts/train_on_gpu.py render POOL --processes 2 --first_seed 440000 --scenes 660
    python scripts/train_first_look.py render BARS --first_seed 430000 --scenes 710
    python scripts/train_first_look.py train POOL BARS out --start_from lfkit/weights/deoccnet.pkl --seconds 4500 --threads 2

POOL holds scenes of the whole generator, BARS scenes behind a sheet of bars or a mesh, closer together than the generator's and up to 60 % of the picture. A step takes
`--share` of its crops from BARS. On the others the features that the later looks read are held to what they were, so that these looks still know them.
`benchmarks/bars.py --weights out/last.pkl` scores the result.
"""

import argparse
import copy
import os
import sys
import time
from functools import partial
from pathlib import Path

import torch
from einops import rearrange

import lfkit
from lfkit import canvas as drawing

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "benchmarks")]
import bars  # noqa: E402
import train_on_gpu as gpu  # noqa: E402

LATER = ("second_look", "closer_look", "outline_look")


DENSE = partial(drawing.bars, apart=(8, 20), thinnest=0, parts=(0.18, 0.3))
SUPPORTS = partial(drawing.bars, apart=(8, 44), thinnest=1, parts=(0, 0.3)), DENSE, DENSE, partial(drawing.fence, apart=(8, 24), thinnest=0, parts=(0.08, 0.16))


def behind(seed: int, size: int) -> lfkit.Scene:
    """A procedural scene behind one of SUPPORTS."""
    return bars.behind(SUPPORTS[seed % len(SUPPORTS)], seed, size)


def first_look(model: lfkit.DeoccNet, volume: torch.Tensor, guide: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Features '(b d) f h w', both distributions 'b d h w' over the levels, and the first map 'b h w', of the evidence '(b d) f h w' and the picture's features."""
    out, features = model.aggregate(volume, guide)
    both, background = rearrange(out, "(b d) k h w -> k b d h w", b=len(guide)).float().softmax(2)
    over_levels = (torch.einsum("bfhw,fd->bdhw", part, model.to_coarse) for part in (both, background))
    return features, *over_levels, model.local_expectation(background)


def apart(ours: torch.Tensor, theirs: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The squared difference of features '(b k) f h w' on the crops that are `kept` (b,), in parts of their mean square."""
    weights = kept.float().repeat_interleave(len(ours) // len(kept))[:, None, None, None]
    return ((ours - theirs).square() * weights).mean() / theirs.square().mean()


def loss_of(model: lfkit.DeoccNet, before: lfkit.DeoccNet, batch: tuple[torch.Tensor, ...], known: torch.Tensor, hold: float) -> torch.Tensor:
    """The losses of the first look's distributions and map, and `hold` times how far its features have moved from the weights' before on the crops of `known` (b,) kinds."""
    views, fg_disp, bg_disp = batch
    centre = views[:, views.shape[1] // 2] - 0.5
    with torch.no_grad():
        volume, guide_before = model.cost_volume(views - 0.5), before.guide(centre)
        features_before = before.aggregate(volume, guide_before)[1]
    guide = model.guide(centre)
    features, both, background, first = first_look(model, volume, guide)
    return gpu.loss_of_looks(model, both, background, [first], fg_disp, bg_disp) + hold * (apart(features, features_before, known) + apart(guide, guide_before, known))


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    device, out = lfkit.choose_device(options.device), Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    run = gpu.Training(options, device)
    before, dense = copy.deepcopy(run.model).eval(), gpu.Pool(Path(options.bars), device, options.seed + 1, options.patch_size)
    if empty := [pool for pool in (run.pool, dense) if not pool.grow()]:
        raise SystemExit(f"{empty[0].folder}: no scene in it; render some first")
    run.learn([parameter for name, parameter in run.model.named_parameters() if not name.startswith(LATER)])
    start, number, total = time.perf_counter(), 0, 0.0
    while (done := (time.perf_counter() - start) / options.seconds) < 1:
        known = run.pool.rng.random(options.batch_size) >= options.share
        halves = [pool.crops(int(count)) for pool, count in ((run.pool, known.sum()), (dense, (~known).sum())) if count]
        batch = tuple(torch.cat(kinds) for kinds in zip(*halves))
        loss = loss_of(run.model, before, batch, torch.tensor(sorted(known, reverse=True), device=device), options.hold)
        run.model.zero_grad()
        loss.backward()
        run.move(number, done)
        number, total = number + 1, total + loss.item()
        if number % options.report_every == 0:
            print(f"{time.perf_counter() - start:6.0f} s, step {number}, loss {total / options.report_every:.4f}", flush=True)
            run.keep(out / "last.pkl", number)
            total = 0.0
    run.keep(out / "last.pkl", number)
    print(f"{number} steps of {options.batch_size} crops, {len(run.pool.scenes)} and {len(dense.scenes)} scenes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    rendering, training = modes.add_parser("render"), modes.add_parser("train")
    rendering.add_argument("bars", metavar="BARS", help="folder of scenes behind bars and meshes")
    rendering.add_argument("--first_seed", type=int, default=430_000)
    rendering.add_argument("--scenes", type=int, default=710)
    training.add_argument("pool", metavar="POOL", help="folder of scenes of the whole generator")
    training.add_argument("bars", metavar="BARS")
    training.add_argument("out", metavar="OUT", help="folder of the weights")
    training.add_argument("--start_from", required=True, metavar="CHECKPOINT")
    for name, kind, default in (("lr", float, 7e-4), ("average", float, 0.99), ("seed", int, 0), ("seconds", float, 4500), ("share", float, 0.2), ("hold", float, 1.0), ("batch_size", int, 2),
                                ("patch_size", int, 96), ("report_every", int, 100), ("threads", int, os.cpu_count()), ("device", str, "cpu")):
        training.add_argument(f"--{name}", type=kind, default=default)
    options = parser.parse_args()
    if options.mode == "render":
        Path(options.bars).mkdir(parents=True, exist_ok=True)
        gpu.render(Path(options.bars), range(options.first_seed, options.first_seed + options.scenes), behind)
    else:
        train(options)


if __name__ == "__main__":
    main()

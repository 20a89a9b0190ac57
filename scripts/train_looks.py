"""Trains weights on for kinds of scenes that they were not trained on, on processors, without losing the others: the first look and those after it apart.

    python scripts/train_on_gpu.py render POOL --processes 2 --first_seed 440000 --scenes 660
    python scripts/train_looks.py render BARS --kind bars --first_seed 430000 --scenes 1140
    python scripts/train_looks.py render TRACED --kind traced --first_seed 1000 --scenes 80     # needs pip install -e ".[bench]"
    python scripts/train_looks.py train out POOL BARS TRACED --shares 0.5 0.2 0.3 --start_from lfkit/weights/deoccnet.pkl --seconds 2900 --threads 2

POOL holds scenes of the whole generator; BARS such behind a sheet of bars or a mesh, closer together than the generator's and up to 60 % of the picture; TRACED those of
`benchmarks/path_traced.py`, moved to disparities anywhere within the network's. A step takes `--shares` of its crops from each. The first look learns from its own losses alone, and on POOL's crops what the later looks read of it is held
to what it was; the later looks learn from what it gives. With `--looks first` or `--looks later` the others stay as they are; with `--enlarge 1.5` the later ones also learn on
views enlarged so, from what they found before, as the network is used. POOL may be all there is.
"""

import argparse
import copy
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

import lfkit
from lfkit import canvas as drawing
from lfkit.config import number, whole
from lfkit.faults import one_sentence
from lfkit.layers import in_full
from lfkit.model import LATER, POOLING, smaller

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "benchmarks")]
import bars  # noqa: E402
import path_traced  # noqa: E402
import train_on_gpu as gpu  # noqa: E402

DENSE = partial(drawing.bars, apart=(8, 20), thinnest=0, parts=(0.18, 0.3))
SUPPORTS = partial(drawing.bars, apart=(8, 44), thinnest=1, parts=(0, 0.3)), DENSE, DENSE, partial(drawing.fence, apart=(8, 24), thinnest=0, parts=(0.08, 0.16))
SAMPLES = 16, 25, 36, 49  # rays a pixel
REACH = 3.9               # largest disparity of a path-traced scene, of either sign, in px per view step


def behind(seed: int, size: int) -> lfkit.Scene:
    """A procedural scene behind one of SUPPORTS."""
    return bars.behind(SUPPORTS[seed % len(SUPPORTS)], seed, size)


def traced(seed: int, size: int) -> lfkit.Scene:
    """A path-traced scene, whose truth calls a pixel near from the same share on as the generator's, at disparities anywhere within the network's: in the benchmark most walls lie at one."""
    rng, (least, most) = np.random.default_rng(seed), path_traced.limits(seed, size)
    samples, moved = int(rng.choice(SAMPLES)), float(rng.uniform(-REACH - least, max(REACH - most, -REACH - least)))
    return path_traced.render(seed, size, samples, lfkit.sheets.TOUCHED, moved)


def apart(ours: torch.Tensor, theirs: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The squared difference of features '(b k) f h w' on the crops that are `kept` (b,), in parts of their mean square."""
    weights = kept.float().repeat_interleave(len(ours) // len(kept))[:, None, None, None]
    return ((ours - theirs).square() * weights).mean() / theirs.square().mean()


def loss_of(model: lfkit.DeoccNet, before: lfkit.DeoccNet, batch: tuple[torch.Tensor, ...], known: torch.Tensor, hold: float, looks: str, enlarge: float = 1) -> torch.Tensor:
    """The losses of the looks that learn, the later ones' also on views enlarged by `enlarge` where that is above 1; the first one's with `hold` times how far its features have moved from those of the weights `before` on the crops of `known` (b,) kinds."""
    views, fg_disp, bg_disp = batch
    x = views - 0.5
    centre, loss = x[:, x.shape[1] // 2], 0
    with torch.no_grad():
        volume = model.cost_volume(x)
    guide = model.guide(centre)
    seen, context, features = model.first_look(volume, guide)
    if looks != "later":
        with torch.no_grad():
            guide_before = before.guide(centre)
            features_before = before.aggregate(volume, guide_before)[1]
        over_levels = (in_full(torch.einsum)("bfhw,fd->bdhw", seen[name], model.to_coarse) for name in ("both", "background"))
        loss = loss + gpu.loss_of_looks(model, *over_levels, [seen["first"]], fg_disp, bg_disp) + hold * (apart(features, features_before, known) + apart(guide, guide_before, known))
    if looks != "first":
        def later(views: torch.Tensor, maps: list[torch.Tensor], before_last: torch.Tensor, factor: float) -> torch.Tensor:
            found = [*maps, model.look_at_outlines(views, maps[-1], before_last, apart=True)]
            *found, last = (model.bounded(smaller(disp, factor)) for disp in found)
            return gpu.loss_of_maps(model, found, fg_disp, bg_disp) + gpu.loss_of_last(model, last, fg_disp, bg_disp)

        maps, before_last = model.look_again(x, seen["first"].detach(), context.detach())
        loss = loss + later(x, maps, before_last, 1)
        if enlarge > 1:
            maps, before_last, enlarged = model.look_again_enlarged(x, maps[-1].detach(), context.detach(), enlarge)
            loss = loss + later(enlarged, maps, before_last, enlarge)
    return loss


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    device, out = lfkit.choose_device(options.device), Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    run = gpu.Training(options, device)
    before = copy.deepcopy(run.model).eval()
    pools = [run.pool, *(gpu.Pool(Path(folder), device, options.seed + k, options.patch_size) for k, folder in enumerate(options.more, 1))]
    if empty := [pool for pool in pools if not pool.grow()]:
        raise ValueError(f"{empty[0].folder}: no scene in it; render some first")
    if len(options.shares) != len(pools) or not sum(options.shares):
        raise ValueError(f"--shares has {len(options.shares)} numbers for {len(pools)} folders of scenes, of a sum of {sum(options.shares):g}; give one for each, and a sum above 0")
    before.enlarge = options.enlarge  # for its `pooling`
    if options.patch_size % before.pooling:
        raise ValueError(f"--patch_size must be a multiple of {before.pooling}: got {options.patch_size}")
    shares, rng = np.array(options.shares) / sum(options.shares), np.random.default_rng(options.seed)
    for name, parameter in run.model.named_parameters():
        parameter.requires_grad_(options.looks in ("all", "later" if name.startswith(LATER) else "first"))
    run.learn([parameter for parameter in run.model.parameters() if parameter.requires_grad])
    learning = sorted({name.split(".")[0] for name, parameter in run.model.named_parameters() if parameter.requires_grad})
    keep = partial(run.keep, out / "last.pkl", precision="float32", train_only="" if options.looks == "all" else ",".join(learning))
    start, number, total = time.perf_counter(), 0, 0.0
    while (done := (time.perf_counter() - start) / options.seconds) < 1:
        chosen = rng.choice(len(pools), options.batch_size, p=shares)
        batch = tuple(torch.cat(parts) for parts in zip(*(pools[k].crops(1) for k in chosen)))
        loss = loss_of(run.model, before, batch, torch.from_numpy(chosen == 0).to(device), options.hold, options.looks, options.enlarge)
        run.model.zero_grad()
        loss.backward()
        run.move(number, done)
        number, total = number + 1, total + loss.item()
        if number % options.report_every == 0:
            print(f"{time.perf_counter() - start:6.0f} s, step {number}, loss {total / options.report_every:.4f}", flush=True)
            keep(number)
            total = 0.0
    keep(number)
    print(f"{number} steps of {options.batch_size} crops, scenes: {', '.join(str(len(pool.scenes)) for pool in pools)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    rendering, training = modes.add_parser("render"), modes.add_parser("train")
    rendering.add_argument("pool", metavar="FOLDER")
    rendering.add_argument("--kind", choices=("bars", "traced"), required=True)
    rendering.add_argument("--first_seed", type=whole(0), required=True)
    rendering.add_argument("--scenes", type=whole(1), required=True)
    training.add_argument("out", metavar="OUT", help="folder of the weights")
    training.add_argument("pool", metavar="POOL", help="folder of scenes of the kinds that the weights know")
    training.add_argument("more", metavar="MORE", nargs="*", help="folders of scenes of other kinds")
    training.add_argument("--shares", type=number(0), nargs="+", default=[1.0], help="of each folder's crops, POOL's first")
    training.add_argument("--looks", choices=("all", "first", "later"), default="all", help="which learn")
    training.add_argument("--start_from", required=True, metavar="CHECKPOINT")
    for name, kind, default in (("lr", number(0), 6e-4), ("average", number(0, below=1), 0.995), ("seed", whole(0), 0), ("seconds", number(1), 2900), ("hold", number(0), 1.0), ("enlarge", number(1), 1.0), ("batch_size", whole(1), 2),
                                ("patch_size", whole(POOLING), 96), ("report_every", whole(1), 100), ("threads", whole(1), os.cpu_count()), ("device", str, "cpu")):
        training.add_argument(f"--{name}", type=kind, default=default)
    options = parser.parse_args()
    if options.mode == "render":
        Path(options.pool).mkdir(parents=True, exist_ok=True)
        gpu.render(Path(options.pool), range(options.first_seed, options.first_seed + options.scenes), {"bars": behind, "traced": traced}[options.kind])
    else:
        train(options)


if __name__ == "__main__":
    with one_sentence():
        main()

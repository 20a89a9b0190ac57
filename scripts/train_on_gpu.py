"""Trains weights on procedural scenes as fast as a GPU does, while the machine's processors render more and more of them.

    python scripts/train_on_gpu.py render POOL --processes 14 --first_seed 200000        # until it is stopped, or --scenes are there; in the background
    python scripts/train_on_gpu.py train POOL out --start_from lfkit/weights/deoccnet.pkl --batch_size 16 --lr 2e-3 --seconds 480
    python scripts/train_on_gpu.py measure POOL --start_from lfkit/weights/deoccnet.pkl  # steps a second, by batch size, with and without a graph

`python -m lfkit train` does the same from a folder of scenes, with all that a run leaves behind; this keeps the scenes on the GPU, cuts and changes crops
there, and replays each step as one CUDA graph. A run lasts a number of seconds, over which the rate falls along half a cosine. It writes the
averaged weights as checkpoints, the last one after all steps.
"""

import argparse
import itertools
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import lfkit
from lfkit import augment
from lfkit.checkpoint import read_checkpoint, scored_weights
from lfkit.config import number, whole
from lfkit.disparity import MAX_DISP, on_levels
from lfkit.faults import one_sentence
from lfkit.files import write_whole
from lfkit.losses import EARLIER_WEIGHT, HUBER_WEIGHT, LOG_ERROR_SCALE
from lfkit.optim import Muon

SIZE, PATCH = 160, 128  # sides of a scene and of a crop, in pixels
LOSS3_WEIGHT, HIDDEN_WEIGHT, CLIP, JOLT, WARM_UP = 2.0, 1.0, 1.0, 0.5, 30
WAIT_FOR = 64          # scenes, before training starts
NEW_SCENES_EVERY = 16  # steps
KEPT_AT = 0.5, 0.75, 0.9  # parts of the run


def render(pool: Path, seeds: range, make: Callable[[int, int], lfkit.Scene] = lfkit.synthesize) -> None:
    """Scenes of these seeds into the pool, a file each; `make` is called with a seed and a size."""
    torch.set_num_threads(1)
    os.nice(5)
    for seed in seeds:
        scene = make(seed, SIZE)
        path = pool / f"{seed}.npz"
        with open(path.with_suffix(".part"), "wb") as file:
            np.savez(file, lf=scene.lf, fg_disp=scene.fg_disp if scene.two_layers else scene.bg_disp, bg_disp=scene.bg_disp)
        path.with_suffix(".part").rename(path)


def moved(lf: torch.Tensor, by: int, top: int, left: int, size: int) -> torch.Tensor:
    """The crop there of views 'u v h w c', each moved by whole pixels so that all disparities are so much larger; the centre view stays."""
    middle, (u, v, h, w, c) = len(lf) // 2, lf.stride()
    return lf.as_strided((*lf.shape[:2], size, size, lf.shape[4]), (u + by * h, v + by * w, h, w, c), lf.storage_offset() + (top - middle * by) * h + (left - middle * by) * w)


class Pool:
    """The scenes rendered so far, on the GPU, and random crops of them."""

    def __init__(self, folder: Path, device: torch.device, seed: int, patch: int = PATCH):
        self.folder, self.device, self.rng, self.patch = folder, device, np.random.default_rng(seed), patch
        self.known, self.scenes, self.moves = set(), [], []

    def grow(self) -> int:
        """Takes in the files that are new; gives the number of scenes."""
        for path in sorted(set(self.folder.glob("*.npz")) - self.known):
            with np.load(path) as file:
                lf, fg_disp, bg_disp = (file[name] for name in ("lf", "fg_disp", "bg_disp"))
            if self.patch > min(lf.shape[2:4]):
                raise ValueError(f"{path}: {lf.shape[2]} x {lf.shape[3]} pixels, too few for crops of {self.patch}; use --patch_size {min(lf.shape[2:4])} or less")
            moves = [by for by in (-1, 0, 1) if by == 0 or (bg_disp.min() + by >= -MAX_DISP and fg_disp.max() + by <= MAX_DISP)]
            self.moves.append(moves)
            self.scenes.append([torch.from_numpy(part).to(self.device) for part in (lf, fg_disp, bg_disp)])
            self.known.add(path)
        return len(self.scenes)

    def wait_for(self, count: int) -> None:
        """Until there are so many scenes; says at first that it waits."""
        found = self.grow()
        if found < count:
            print(f"waiting for {count} scenes in {self.folder}, {found} so far; `render` makes them", flush=True)
        while self.grow() < count:
            time.sleep(1)

    def crops(self, count: int) -> tuple[torch.Tensor, ...]:
        """Random crops, turned and mirrored, with all disparities one more or less where they stay within the network's: lf 'b n c h w' in [0, 1], with changed colours and light, fg_disp and bg_disp 'b h w'."""
        items = []
        for _ in range(count):
            which = int(self.rng.integers(len(self.scenes)))
            lf, *maps = self.scenes[which]
            room = (min(lf.shape[2:4]) - self.patch) // 2 // (len(lf) // 2)  # that views can be moved in
            by = int(self.rng.choice([by for by in self.moves[which] if abs(by) <= room]))
            margin = len(lf) // 2 * abs(by)
            top, left = (int(self.rng.integers(margin, extent - self.patch - margin + 1)) for extent in lf.shape[2:4])
            turns, mirrored = int(self.rng.integers(4)), self.rng.random() < 0.5
            lf, maps = moved(lf, by, top, left, self.patch), [m[top:top + self.patch, left:left + self.patch] + by for m in maps]
            lf, maps = lf.rot90(turns, (0, 1)).rot90(turns, (2, 3)), [m.rot90(turns) for m in maps]
            items.append((lf.permute(1, 0, 3, 2, 4), *(m.T for m in maps)) if mirrored else (lf, *maps))
        lf, fg_disp, bg_disp = (torch.stack(parts) for parts in zip(*items))
        return self.recoloured(rearrange(lf, "b u v h w c -> b (u v) c h w").float() / 255), fg_disp, bg_disp

    def recoloured(self, lf: torch.Tensor) -> torch.Tensor:
        """What `augment.augment_colour` does, of a batch."""
        rng, count = self.rng, len(lf)
        mixes = [np.eye(3)[rng.permutation(3)] if rng.random() >= augment.GREY_SHARE else np.repeat(rng.dirichlet(np.ones(3))[None], 3, axis=0) for _ in range(count)]
        numbers = lambda low, high: self.on_device(rng.uniform(low, high, (count, 1, 1, 1, 1)))
        brightness, contrast, gamma = numbers(*augment.BRIGHTNESS), numbers(*augment.CONTRAST), numbers(*augment.GAMMA)
        lf = torch.einsum("bij,bnjhw->bnihw", self.on_device(np.stack(mixes)), lf).clamp(0, 1)
        mean = reduce(lf, "b n c h w -> b 1 1 1 1", "mean")
        lf = ((lf * contrast + mean * (1 - contrast)) * brightness).clamp(0, 1) ** gamma
        sigma = numbers(0, augment.NOISE_MAX) * self.on_device(rng.random((count, 1, 1, 1, 1)) < augment.NOISE_SHARE)
        lf = (lf + sigma * torch.randn_like(lf)).clamp(0, 1)
        for crop in lf:
            if rng.random() < augment.ERASE_SHARE:
                n = int(rng.choice([k for k in range(len(crop)) if k != len(crop) // 2]))
                tall, wide = (max(1, round(self.patch * rng.uniform(*augment.ERASED))) for _ in range(2))
                top, left = rng.integers(self.patch - tall + 1), rng.integers(self.patch - wide + 1)
                alike = rng.random() < 0.5
                crop[n, :, top:top + tall, left:left + wide] = torch.rand((3, 1, 1) if alike else (3, tall, wide), device=lf.device)
        return lf

    def on_device(self, values: np.ndarray) -> torch.Tensor:
        """As float32 on the GPU."""
        return torch.from_numpy(values.astype(np.float32)).to(self.device, non_blocking=True)


def loss_of(model: lfkit.DeoccNet, lf: torch.Tensor, fg_disp: torch.Tensor, bg_disp: torch.Tensor) -> torch.Tensor:
    """`lfkit.training_loss` with criteria l1_huber and ce, weights 1, 1 and LOSS3_WEIGHT, and HIDDEN_WEIGHT, by weights in place of choices, for which a GPU would be waited for."""
    with torch.autocast(lf.device.type, torch.bfloat16):
        both, background, last, *earlier = model(lf, earlier=True)
    return loss_of_looks(model, both, background, earlier, fg_disp, bg_disp) + loss_of_last(model, last, fg_disp, bg_disp)



def means(model: lfkit.DeoccNet, fg_disp: torch.Tensor, bg_disp: torch.Tensor) -> Callable:
    """A function of values 'b h w': their mean over the pixels whose background (or, with `both`, whose both layers) lies within the levels, and HIDDEN_WEIGHT times that over the hidden ones of these."""
    hidden, within = (fg_disp > bg_disp).float(), (bg_disp.abs() <= model.max_disp).float()
    within_both = within * (fg_disp.abs() <= model.max_disp)
    mean = lambda values, weights: (values * weights).sum() / weights.sum().clamp(min=1)
    def over(values: torch.Tensor, both: bool = False) -> torch.Tensor:
        weights = within_both if both else within
        return mean(values, weights) + HIDDEN_WEIGHT * mean(values, weights * hidden)
    return over


def loss_of_looks(model: lfkit.DeoccNet, both: torch.Tensor, background: torch.Tensor, maps: Sequence[torch.Tensor], fg_disp: torch.Tensor, bg_disp: torch.Tensor) -> torch.Tensor:
    """The part of `loss_of` that the two distributions 'b d h w' have, and the maps 'b h w' of all looks but the last."""
    cross_entropy = lambda found, target: -(target * found.float().clamp(min=1e-6).log()).sum(1)
    target, over = on_levels(bg_disp, model.levels), means(model, fg_disp, bg_disp)
    loss = over(cross_entropy(both, (on_levels(fg_disp, model.levels) + target) / 2), both=True) + over(cross_entropy(background, target))
    return loss + loss_of_maps(model, maps, fg_disp, bg_disp)


def loss_of_maps(model: lfkit.DeoccNet, maps: Sequence[torch.Tensor], fg_disp: torch.Tensor, bg_disp: torch.Tensor) -> torch.Tensor:
    """The part that the maps 'b h w' of all looks but the last have."""
    over = means(model, fg_disp, bg_disp)
    return LOSS3_WEIGHT * EARLIER_WEIGHT * sum(over(LOG_ERROR_SCALE * torch.log1p((disp.float() - bg_disp).abs() / LOG_ERROR_SCALE)) for disp in maps)


def loss_of_last(model: lfkit.DeoccNet, disp: torch.Tensor, fg_disp: torch.Tensor, bg_disp: torch.Tensor) -> torch.Tensor:
    """The part that the last look's map 'b h w' has."""
    error = (disp.float() - bg_disp).abs()
    huber = torch.where(error < 1, error.square() / 2, error - 0.5)
    return LOSS3_WEIGHT * means(model, fg_disp, bg_disp)(error + HUBER_WEIGHT * huber)



class Step:
    """Gradients of a batch; on a GPU by replaying a graph of the first batch's operations."""

    def __init__(self, model: lfkit.DeoccNet, batch: tuple[torch.Tensor, ...], graphed: bool):
        self.model, self.batch, self.graph = model, [part.clone() for part in batch], None
        if graphed:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    self.gradients()
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            model.zero_grad()
            with torch.cuda.graph(self.graph):
                self.loss = loss_of(model, *self.batch)
                self.loss.backward()

    def gradients(self) -> None:
        self.model.zero_grad()
        self.loss = loss_of(self.model, *self.batch)
        self.loss.backward()

    def __call__(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The loss; gradients are then in the parameters."""
        for part, new in zip(self.batch, batch):
            part.copy_(new)
        if self.graph:
            self.graph.replay()
        else:
            self.gradients()
        return self.loss.detach()


class Training:
    """A network, the rule by which it moves, its average, and the scenes."""

    def __init__(self, options: argparse.Namespace, device: torch.device):
        torch.manual_seed(options.seed)
        self.options, self.source = options, read_checkpoint(options.start_from)
        self.model = lfkit.DeoccNet(32)
        self.model.load_state_dict(scored_weights(self.source))
        self.model.jolt = JOLT
        self.model.to(device).train()
        self.learn(list(self.model.parameters()))
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(options.average))
        self.pool = Pool(Path(options.pool), device, options.seed, options.patch_size)

    def learn(self, parts: list[torch.nn.Parameter]) -> None:
        """From now on these parameters move."""
        self.parts, self.optimizer = parts, Muon(parts, self.options.lr)

    def move(self, number: int = WARM_UP, done: float = 0.0) -> torch.Tensor:
        """A step along the gradients, of a rate that rises over the first steps and falls along half a cosine as the run gets done; gives their norm."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.lr * min((number + 1) / WARM_UP, 0.5 * (1 + math.cos(math.pi * done)))
        gradients = [p.grad for p in self.parts]
        for gradient in gradients:
            gradient.nan_to_num_(0, 0, 0)
        norm = torch.nn.utils.get_total_norm(gradients)
        torch.nn.utils.clip_grads_with_norm_(self.parts, CLIP, norm)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return norm

    def keep(self, path: Path, steps: int, **others) -> None:
        """The averaged weights as a checkpoint; `others` are arguments that differ."""
        weights = {name: value.detach().cpu().clone() for name, value in self.average.module.state_dict().items()}
        options = self.options
        args = self.source["args"] | {"patch_size": self.pool.patch, "epoch": 1, "optimizer": "muon", "schedule": "cosine", "warm_up": WARM_UP, "criterion": "l1_huber", "criterion1": "ce",
                                      "loss1_weight": 1.0, "loss2_weight": 1.0, "loss3_weight": LOSS3_WEIGHT, "hidden_weight": HIDDEN_WEIGHT, "train_only": "", "jolt": JOLT, "clip": CLIP, "precision": "bf16",
                                      **{name: getattr(options, name) for name in ("batch_size", "lr", "average", "seed")}, **others}
        known = {"format": self.source["format"], "architecture": self.source["architecture"], "args": args, "epoch": 1, "steps": steps}
        write_whole(path, lambda file: torch.save({**known, "model_state_dict": weights, "optimizer_state_dict": {}, "scheduler_state_dict": {}}, file))


def train(options: argparse.Namespace, device: torch.device) -> None:
    run, out = Training(options, device), Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    run.pool.wait_for(WAIT_FOR)
    step = Step(run.model, run.pool.crops(options.batch_size), bool(options.graph))
    start, kept, losses = time.perf_counter(), 0, []
    for number in itertools.count():
        done = (time.perf_counter() - start) / options.seconds
        while kept < len(KEPT_AT) and done >= KEPT_AT[kept]:
            run.keep(out / f"at_{round(100 * KEPT_AT[kept])}.pkl", number)
            kept += 1
        if done >= 1:
            break
        losses.append(step(run.pool.crops(options.batch_size)).clone())
        norm = run.move(number, done)
        if number % NEW_SCENES_EVERY == 0:
            scenes = run.pool.grow()
            if device.type == "cuda":
                torch.cuda.synchronize()  # the queue, and with it the clock, stays within some steps
        if number % options.report_every == 0:
            print(f"{time.perf_counter() - start:6.1f} s, step {number}, {scenes} scenes, rate {run.optimizer.param_groups[0]['lr']:.2e}, loss {torch.stack(losses).nanmean().item():.4f}, gradient {norm.item():.2f}", flush=True)
            losses = []
    run.keep(out / "last.pkl", number)
    print(f"{number} steps of {options.batch_size} crops in {time.perf_counter() - start:.0f} s, {run.pool.grow()} scenes")


def measure(options: argparse.Namespace, device: torch.device) -> None:
    run = Training(options, device)
    run.pool.wait_for(WAIT_FOR)
    print("| batch | graph | ms a step | of these, crops | crops / s | memory (GiB) |\n|---|---|---|---|---|---|")
    for graph, batch in itertools.product((1, 0), options.batches):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            step = Step(run.model, run.pool.crops(batch), bool(graph))
            for warm in (True, False):
                torch.cuda.synchronize()
                start = time.perf_counter()
                for _ in range(2 if warm else 8):
                    step(run.pool.crops(batch))
                    run.move()
                torch.cuda.synchronize()
            seconds = (time.perf_counter() - start) / 8
            start = time.perf_counter()
            for _ in range(4):
                run.pool.crops(batch)
            torch.cuda.synchronize()
            print(f"| {batch} | {graph} | {1000 * seconds:.0f} | {250 * (time.perf_counter() - start):.0f} | {batch / seconds:.1f} | {torch.cuda.max_memory_allocated() / 2**30:.1f} |", flush=True)
        except Exception as error:  # a table with a gap says more than none
            print(f"| {batch} | {graph} | {type(error).__name__}: {str(error)[:300]} |", flush=True)
            torch.cuda.synchronize()
        step = None
        run.model.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    rendering, training, measuring = (modes.add_parser(name) for name in ("render", "train", "measure"))
    for mode in (rendering, training, measuring):
        mode.add_argument("pool", metavar="POOL", help="folder of scenes")
    rendering.add_argument("--processes", type=whole(1), default=max(1, (os.cpu_count() or 2) - 2))
    rendering.add_argument("--first_seed", type=whole(0), default=200_000)
    rendering.add_argument("--scenes", type=whole(1), default=100_000)
    training.add_argument("out", metavar="OUT", help="folder of the weights")
    for mode in (training, measuring):
        mode.add_argument("--start_from", required=True, metavar="CHECKPOINT")
        mode.add_argument("--lr", type=number(0), default=2e-3)
        mode.add_argument("--average", type=number(0, below=1), default=0.995)
        mode.add_argument("--seed", type=whole(0), default=0)
        mode.add_argument("--patch_size", type=whole(8), default=PATCH)
        mode.add_argument("--device", default="cuda")
    training.add_argument("--batch_size", type=whole(1), default=16)
    training.add_argument("--seconds", type=number(1), default=480)
    training.add_argument("--graph", type=int, default=1, choices=(0, 1))
    training.add_argument("--report_every", type=whole(1), default=50)
    measuring.add_argument("--batches", type=whole(1), nargs="+", default=[8, 16, 32, 64])
    options = parser.parse_args()
    if options.mode == "render":
        Path(options.pool).mkdir(parents=True, exist_ok=True)
        end, every = options.first_seed + options.scenes, options.processes
        workers = [multiprocessing.Process(target=render, args=(Path(options.pool), range(options.first_seed + k, end, every))) for k in range(every)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise SystemExit(1)
    else:
        torch.backends.cudnn.benchmark = True
        (train if options.mode == "train" else measure)(options, lfkit.choose_device(options.device))


if __name__ == "__main__":
    with one_sentence():
        main()

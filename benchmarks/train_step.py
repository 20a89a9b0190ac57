"""Crops a second of a training step with each knob, in one run, and the loss after a fixed number of steps.

    python benchmarks/train_step.py [--device cpu] [--steps 24] [--patch 32] [--channels 16] [--batch 2] [--only NAME ...] [--compile]

The same procedural crops, kept in memory, the same initial weights and order for every row. The loss is that of the network (where weights are
averaged, of the average) in float32 on those crops after the last step.
On a CUDA device each row's peak of allocated memory is printed too. The first row is run again at the end: what differs between the two is noise.
"""

import argparse
import platform
import statistics
import sys
import time
from itertools import islice

import torch
from torch import nn

import lfkit
from lfkit.devices import choose_device
from lfkit.losses import CRITERIA, WEIGHT_NAMES
from lfkit.optim import make_average, make_scaler

WEIGHTS = dict.fromkeys(WEIGHT_NAMES, 1.0)
WARM = 4  # steps that are not timed
ROWS = {
    "baseline": [],
    "--precision bf16": ["--precision", "bf16"],
    "--precision fp16": ["--precision", "fp16"],
    "--channels_last 1": ["--channels_last", "1"],
    "--fused 1": ["--fused", "1"],
    "--clip 1": ["--clip", "1"],
    "--accumulate 2, half the batch": ["--accumulate", "2"],
    "--average 0.9": ["--average", "0.9"],
    "--warm_up 4 --schedule cosine": ["--warm_up", "4", "--schedule", "cosine", "--decay_unit", "batch", "--epoch", "1"],
    "--pin_memory 0": ["--pin_memory", "0"],
    "--compile 1": ["--compile", "1"],
    "baseline again": [],
}


class Crops(torch.utils.data.Dataset):
    """Procedural crops that are rendered once."""

    def __init__(self, args: argparse.Namespace, count: int, repeats: int):
        dataset = lfkit.dataset.SyntheticLF(args, augment=False)
        self.items = [dataset[k] for k in range(count)]
        self.repeats, self.describe = repeats, dataset.describe

    def set_epoch(self, epoch: int) -> None:
        """Nothing changes from epoch to epoch."""

    def __len__(self) -> int:
        return len(self.items) * self.repeats

    def __getitem__(self, index: int) -> tuple:
        return self.items[index % len(self.items)]


def final_loss(model: nn.Module, args: argparse.Namespace, dataset: Crops, device: torch.device) -> float:
    """The mean loss over the crops, in float32."""
    losses = []
    with torch.no_grad():
        for lf, _, _, fg_disp, bg_disp in (tuple(part[None].to(device) for part in item) for item in dataset.items):
            outputs = model(lf.flatten(1, 2).movedim(-1, 2))
            losses.append(lfkit.training_loss(outputs, fg_disp, bg_disp, nn.L1Loss(), CRITERIA["ce"](), WEIGHTS, args.max_disp, args.step)[1]["loss"])
    return statistics.mean(losses)


def measure(flags: list[str], options: argparse.Namespace, dataset: Crops, device: torch.device) -> tuple[float, float, float]:
    """Crops a second, from the median step; the loss after the last one; and the peak of CUDA memory in MiB."""
    accumulate = int(dict(zip(flags[::2], flags[1::2])).get("--accumulate", 1))
    args = lfkit.get_parser(["--patch_size", str(options.patch), "--channels", str(options.channels), "--views_num", str(options.views),
                             "--batch_size", str(options.batch // accumulate), "--lr", "1e-3", *flags])
    model, optimizer, scheduler = lfkit.build(args, device, options.steps)
    net, average = torch.compile(model) if args.compile else model, make_average(args, model)
    times = []
    def clock(*_):
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())
    optimizer.register_step_post_hook(clock)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    lfkit.train_epoch(args, net, nn.L1Loss(), CRITERIA["ce"](), optimizer, scheduler, 0, WEIGHTS, device, dataset, make_scaler(args, device), average)
    step = statistics.median(b - a for a, b in zip(times[WARM:], islice(times, WARM + 1, None)))
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0
    return options.batch / step, final_loss(average.module if average else model, args, dataset, device), peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("steps", 24), ("patch", 32), ("channels", 16), ("batch", 2), ("views", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), help="these rows")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, whose first step takes minutes")
    options = parser.parse_args()
    if options.batch % 2 or options.steps % 4 or options.steps <= WARM:
        parser.error(f"--batch must be even, and --steps a multiple of 4 above {WARM}")
    device = choose_device(options.device)
    on_cuda = device.type == "cuda"
    skipped = {"--compile 1": not options.compile, "--pin_memory 0": not on_cuda, "--precision fp16": not on_cuda}
    rows = [row for row in ROWS if (row in options.only if options.only else not skipped.get(row))]
    args = lfkit.get_parser(["--patch_size", str(options.patch), "--views_num", str(options.views)])
    dataset = Crops(args, 4 * options.batch, options.steps // 4)
    name = torch.cuda.get_device_name(device) if on_cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
    print(f"{name}, torch {torch.__version__}: {options.batch} crops of {options.views} x {options.views} x {options.patch} x {options.patch} "
          f"a step, --channels {options.channels}, {options.steps} steps\n")
    print("| knob | crops / s | times baseline | loss after the last step |" + (" peak memory (MiB) |" if on_cuda else ""))
    print("|---|---|---|---|" + ("---|" if on_cuda else ""))
    first = None
    for row in rows:
        print(f"{row} ...", file=sys.stderr)
        speed, loss, peak = measure(ROWS[row], options, dataset, device)
        first = first or speed
        print(f"| {row} | {speed:.2f} | {speed / first:.2f} | {loss:.4f} |" + (f" {peak:.0f} |" if on_cuda else ""), flush=True)


if __name__ == "__main__":
    main()

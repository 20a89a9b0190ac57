"""Crops a second of a training step with each knob, in one run, and the loss after a fixed number of steps.

    python benchmarks/train_step.py [--device cpu] [--steps 32] [--patch 32] [--channels 16] [--batch 2] [--only NAME ...] [--compile]

The same procedural crops, kept in memory, the same initial weights and order for every row. The rows take turns of four steps, so that whatever
else the machine does falls on all of them; the fastest turn counts, as other work only ever makes one slower, and on one CPU thread the seconds are
the process's own. The loss is that of the network (where weights are
averaged, of the average) in float32 on those crops after the last step. On a CUDA device a turn's peak of memory beyond what is there before it is
printed too. The first row is there twice: what differs between the two is noise.
"""

import argparse
import platform
import statistics
import time

import torch
from einops import rearrange
from torch import nn
from tqdm import trange

import lfkit
from lfkit.distributed import choose_device
from lfkit.losses import CRITERIA, WEIGHT_NAMES
from lfkit.optim import make_average, make_scaler

WEIGHTS = dict.fromkeys(WEIGHT_NAMES, 1.0)
TURN = 4  # steps
ROWS = {
    "baseline": [],
    "--precision bf16": ["--precision", "bf16"],
    "--precision fp16": ["--precision", "fp16"],
    "--channels_last 1": ["--channels_last", "1"],
    "--fused 1": ["--fused", "1"],
    "--clip 1": ["--clip", "1"],
    "--accumulate 2, half the batch": ["--accumulate", "2"],
    "--average 0.9": ["--average", "0.9"],
    "--optimizer muon": ["--optimizer", "muon"],
    "--warm_up 4 --schedule cosine": ["--warm_up", "4", "--schedule", "cosine", "--decay_unit", "batch"],
    "--pin_memory 0": ["--pin_memory", "0"],
    "--compile 1": ["--compile", "1"],
    "baseline again": [],
}


class Crops(list):
    """Procedural crops that are rendered once, enough for a turn."""

    def __init__(self, args: argparse.Namespace, count: int):
        dataset = lfkit.dataset.SyntheticLF(args, augment=False)
        super().__init__(dataset[k] for k in range(count))
        self.describe = dataset.describe

    def set_epoch(self, epoch: int) -> None:
        """Nothing but their order changes from turn to turn."""


class Row:
    """A network in training with some knobs turned."""

    def __init__(self, flags: list[str], options: argparse.Namespace, dataset: Crops, device: torch.device):
        accumulate = int(dict(zip(flags[::2], flags[1::2])).get("--accumulate", 1))
        self.args = lfkit.get_parser(["--patch_size", str(options.patch), "--channels", str(options.channels), "--views_num", str(options.views),
                                      "--batch_size", str(options.batch // accumulate), "--lr", "1e-3", "--epoch", str(options.steps // TURN), *flags])
        self.dataset, self.device, self.seconds, self.peak = dataset, device, [], 0.0
        self.model, self.optimizer, self.scheduler = lfkit.build(self.args, device, TURN)
        self.net = torch.compile(self.model) if self.args.compile else self.model
        self.scaler, self.average = make_scaler(self.args, device), make_average(self.args, self.model)

    def turn(self, number: int) -> None:
        """Some more steps."""
        on_cuda = self.device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        clock = time.process_time if not on_cuda and torch.get_num_threads() == 1 else time.perf_counter
        start = clock()
        lfkit.train_epoch(self.args, self.net, nn.L1Loss(), CRITERIA["ce"](), self.optimizer, self.scheduler, number, WEIGHTS, self.device, self.dataset,
                          self.scaler, self.average)
        if on_cuda:
            torch.cuda.synchronize()
            self.peak = max(self.peak, (torch.cuda.max_memory_allocated() - before) / 2**20)
        self.seconds.append(clock() - start)

    def speed(self) -> float:
        """Crops a second of the fastest turn."""
        return len(self.dataset) / min(self.seconds)

    def loss(self) -> float:
        """The mean loss over the crops, in float32."""
        model, losses = self.average.module if self.average else self.model, []
        with torch.no_grad():
            for lf, _, _, fg_disp, bg_disp in (tuple(part[None].to(self.device) for part in item) for item in self.dataset):
                outputs = model(rearrange(lf, "b u v h w c -> b (u v) c h w"))
                losses.append(lfkit.training_loss(outputs, fg_disp, bg_disp, nn.L1Loss(), CRITERIA["ce"](), WEIGHTS, self.args.max_disp,
                                                  self.args.step)[1]["loss"])
        return statistics.mean(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("steps", 32), ("patch", 32), ("channels", 16), ("batch", 2), ("views", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), help="these rows")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, whose first step takes minutes")
    options = parser.parse_args()
    if options.batch % 2 or options.steps % TURN or options.steps < 3 * TURN:
        parser.error(f"--batch must be even, and --steps a multiple of {TURN} from {3 * TURN}")
    device = choose_device(options.device)
    on_cuda = device.type == "cuda"
    skipped = {"--compile 1": not options.compile, "--pin_memory 0": not on_cuda, "--precision fp16": not on_cuda}
    names = [name for name in ROWS if (name in options.only if options.only else not skipped.get(name))]
    args = lfkit.get_parser(["--patch_size", str(options.patch), "--views_num", str(options.views)])
    dataset = Crops(args, TURN * options.batch)
    rows = {name: Row(ROWS[name], options, dataset, device) for name in names}
    for number in trange(options.steps // TURN, desc="turns"):
        for row in rows.values():
            row.turn(number)
    name = torch.cuda.get_device_name(device) if on_cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
    print(f"{name}, torch {torch.__version__}: {options.batch} crops of {options.views} x {options.views} x {options.patch} x {options.patch} "
          f"a step, --channels {options.channels}, {options.steps} steps\n")
    print("| knob | crops / s | times the first row | loss after the last step |" + (" peak memory (MiB) |" if on_cuda else ""))
    print("|---|---|---|---|" + ("---|" if on_cuda else ""))
    first = rows[names[0]].speed()
    for name, row in rows.items():
        print(f"| {name} | {row.speed():.2f} | {row.speed() / first:.2f} | {row.loss():.4f} |" + (f" {row.peak:.0f} |" if on_cuda else ""))


if __name__ == "__main__":
    main()

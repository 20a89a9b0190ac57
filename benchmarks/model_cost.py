"""Time and memory of DeoccNet beside OACC-Net, in one run: forward of one 9x9x128x128 light field, and a training step of two 48x48 crops.

    python benchmarks/model_cost.py [--threads 2] [--rounds 3] [--repeats 2]

The networks run in turn, each in a process of its own, as many times as there are rounds, so that a machine's slow minutes are not one network's alone; of each network the smallest
of all its times counts, as other work only ever adds. GOMP_SPINCOUNT, with which waiting threads are soon put to
sleep, is left out: it is meant for cores that others use too, and slows a network of many small operations most.
"""

import argparse
import os
import resource
import subprocess
import sys
import timeit
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
ENLARGING = "DeoccNet, enlarge 1.5"
NETWORKS = ("DeoccNet", ENLARGING, "EPINET-like posterior", "OACC-Net")


def build(name: str) -> torch.nn.Module:
    """The network, with random weights."""
    import lfkit
    from baselines import EpinetPosterior, OACCNet
    torch.manual_seed(0)
    net = {"EPINET-like posterior": EpinetPosterior, "OACC-Net": OACCNet}.get(name, lfkit.DeoccNet)()
    if name == ENLARGING:
        net.enlarge = 1.5
    return net


def smallest(function, repeats: int) -> float:
    """The least seconds that a call took, after one to warm up."""
    function()
    return min(timeit.repeat(function, number=1, repeat=repeats))


def measure(name: str, repeats: int) -> None:
    """Prints seconds forward, seconds a training step, the forward's peak memory in MiB above what was there before, parameters in millions."""
    net = build(name)
    crops, whole = torch.rand(2, 81, 3, 48, 48), torch.rand(1, 81, 3, 128, 128)
    truth = torch.rand(2, 48, 48) * 6 - 3
    def step():
        out = net(crops, truth) if name == "OACC-Net" else net(crops, earlier=True) if name.startswith("DeoccNet") else net(crops)
        maps = out if isinstance(out, tuple) else (out,)
        (maps[-1] - truth).abs().mean().backward() if len(maps) == 1 else (sum(m.square().mean() for m in maps)).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        net.eval()
        forward = smallest(lambda: net(whole), repeats)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    net.train()
    print(forward, smallest(step, repeats), peak, sum(p.numel() for p in net.parameters()) / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each network")
    parser.add_argument("--repeats", type=int, default=2, help="calls in each process, after one to warm up")
    parser.add_argument("--network", choices=NETWORKS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.network:
        return measure(args.network, args.repeats)
    rows, environment = {}, {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    for name in NETWORKS * args.rounds:
        command = [sys.executable, __file__, "--network", name, "--threads", str(args.threads), "--repeats", str(args.repeats)]
        found = [float(v) for v in subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.split()]
        rows[name] = [*map(min, rows.get(name, found), found)]
    theirs = rows["OACC-Net"]
    print(f"torch {torch.__version__}, {args.threads} CPU threads\n")
    print("| network | parameters | forward s | of OACC-Net's | training step s | of OACC-Net's | peak MiB forward |\n|---|---|---|---|---|---|---|")
    for name, (forward, step, peak, parameters) in rows.items():
        print(f"| {name} | {parameters:.2f} M | {forward:.2f} | 1/{theirs[0] / forward:.1f} | {step:.2f} | 1/{theirs[1] / step:.1f} | {peak:.0f} |")


if __name__ == "__main__":
    main()

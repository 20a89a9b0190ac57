"""Megapixels a second and peak memory of ways to run a network over a whole scene, in one run: same network, same weights, same scene.

    pip install -e ".[bench]"      # MONAI, for (c)
    python benchmarks/inference.py [--size 512] [--sizes 256 512 1024] [--memory MIB] [--max_length 64] [--shave 16] [--own_shave 16] [--device cpu] [--clock cpu]

(a) the whole image in one pass, the limit; (b) the recipe's recursion: four overlapping corner crops, again while a side exceeds max_length;
(c) MONAI's sliding_window_inference with the crops that (d) takes and their overlap; (d) lfkit.overlap_crop_forward with max_length and shave "auto" (or --own_shave, to compare at the shave of (b))
and a quarter of (a)'s peak memory as its budget. Views are not enlarged. Each way runs in a process of its own; its memory is counted from that of the process when network
and scene are loaded. Then (d) with the same budget on other sizes.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

WAYS = {"a": "whole image", "b": "recursive corner crops", "c": "MONAI sliding_window_inference", "d": "lfkit.overlap_crop_forward"}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
MIB = 2**20


def write_scene(path: Path, size: int) -> None:
    """A procedural scene, tiled up to the size, as uint8 'u v h w c'."""
    import lfkit
    lf = lfkit.synthesize(0, size=128, noise=0.01).lf
    times = -(-size // 128)
    np.save(path, np.tile(lf, (1, 1, times, times, 1))[:, :, :size, :size])


def recursive_crops(x: torch.Tensor, model, max_length: int, shave: int, mod: int = 8):
    """(b): each side h becomes ceil((h // 2 + shave) / mod) * mod, four corner crops, again while a side exceeds max_length."""
    h, w = x.shape[-2:]
    if max(h, w) <= max_length:
        return model(x)
    ch, cw = (-(-(side // 2 + shave) // mod) * mod for side in (h, w))
    corners = [(rows, cols) for rows in (slice(0, ch), slice(h - ch, h)) for cols in (slice(0, cw), slice(w - cw, w))]
    outs = [recursive_crops(x[..., rows, cols], model, max_length, shave, mod) for rows, cols in corners]
    top, left = h // 2, w // 2
    def stitch(a, b, c, d):
        whole = a.new_empty(*a.shape[:-2], h, w)
        whole[..., :top, :left], whole[..., :top, left:] = a[..., :top, :left], b[..., :top, left - w:]
        whole[..., top:, :left], whole[..., top:, left:] = c[..., top - h:, :left], d[..., top - h:, left - w:]
        return whole
    return tuple(stitch(*parts) for parts in zip(*outs))


def as_input(lf: np.ndarray, device: torch.device) -> torch.Tensor:
    """The whole scene as the network takes it."""
    return rearrange(torch.from_numpy(np.asarray(lf)).to(device).float().div_(255), "u v h w c -> 1 (u v) c h w")


def make_way(args: argparse.Namespace, model, device: torch.device):
    """A function from a scene to the network's outputs."""
    import lfkit
    if args.way == "a":
        return lambda lf: model(as_input(lf, device))
    if args.way == "b":
        return lambda lf: recursive_crops(as_input(lf, device), model, args.max_length, args.shave)
    if args.way == "c":
        from monai.inferers import sliding_window_inference
        crop, overlap = args.crop, [2 * args.shave / side for side in args.crop]
        def predictor(window):
            both, background, disp = model(rearrange(window, "b (n c) h w -> b n c h w", c=3))
            return both, background, disp[:, None]
        def run(lf):
            x = rearrange(as_input(lf, device), "b n c h w -> b (n c) h w")
            both, background, disp = sliding_window_inference(x, crop, 1, predictor, overlap)
            return both, background, disp[:, 0]
        return run
    return lambda lf: lfkit.overlap_crop_forward(lf[None], model, 1, "auto", args.own_shave or "auto", memory=args.memory * MIB, device=device, progress=False)


def resident() -> float:
    """MiB of this process that lie in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MIB


def measure(args: argparse.Namespace) -> dict:
    """Seconds, peak memory in MiB, pixels computed, and what else the table says of one way; the outputs go to a file."""
    import lfkit
    device = lfkit.choose_device(args.device)
    model = lfkit.load_pretrained(device, 1)
    lf = np.load(args.scene, mmap_mode="r")
    lf.max()  # its pages count as the scene's, whichever way reads them
    idle, calls, on_gpu = resident(), [], device.type == "cuda"
    now = CLOCKS[args.clock]
    model.register_forward_pre_hook(lambda _, inputs: calls.append(tuple(inputs[0].shape)))
    with torch.inference_mode():
        start = now()
        radius = args.own_shave or (lfkit.receptive_radius(model) if args.way == "d" else None)
        found = now() - start
        run = make_way(args, model, device)
        run(lf[:, :, :args.crop[0], :args.crop[1]])  # warms up; (d) also measures what a pixel needs
        calls.clear()
        start = now()
        outputs = run(lf)
        if on_gpu:
            torch.cuda.synchronize()
        seconds = now() - start
    peak = torch.cuda.max_memory_allocated() / MIB if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - idle
    np.savez(args.out, *(out.cpu().numpy() for out in outputs))
    return {"seconds": seconds, "peak": peak, "computed": sum(s[0] * s[-2] * s[-1] for s in calls), "crops": len(calls), "crop": calls[0][-2:],
            "radius": radius, "found": found, "outputs": sum(out.numel() * out.element_size() for out in outputs) / MIB}


def run_way(args: argparse.Namespace, folder: str, way: str, size: int, **options) -> dict | None:
    """One way in a process of its own; None where it is not installed."""
    scene = Path(folder, f"{size}.npy")
    if not scene.exists():
        write_scene(scene, size)
    values = {"way": way, "scene": scene, "out": Path(folder, f"{way}.npz"), "max_length": args.max_length, "shave": args.shave,
              "own_shave": args.own_shave, "device": args.device, "clock": args.clock} | options
    flags = [str(word) for name, value in values.items() for word in (f"--{name}", *(value if isinstance(value, (list, tuple)) else [value]))]
    done = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True)
    if "No module named 'monai'" in done.stderr:
        return None
    if done.returncode:
        raise RuntimeError(f"({way}) failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def differences(folder: str, way: str) -> tuple[float, float]:
    """From (a): the largest of the background's distribution, and percent of disparities off by more than 0.001 pixels."""
    whole, own = (np.load(Path(folder, f"{name}.npz")) for name in ("a", way))
    return float(np.abs(whole["arr_1"] - own["arr_1"]).max()), float(100 * (np.abs(whole["arr_2"] - own["arr_2"]) > 1e-3).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="side of the scene that all ways run on")
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 512, 1024], help="sides of the scenes for (d) alone")
    parser.add_argument("--memory", type=float, default=None, help="budget of (d) in MiB; a quarter of (a)'s peak where not given")
    parser.add_argument("--max_length", type=int, default=64, help="of (b)")
    parser.add_argument("--shave", type=int, default=16, help="of (b)")
    parser.add_argument("--own_shave", type=int, default=0, help="of (c) and (d); 0 for the network's receptive radius, which is exact")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu counts processor time alone, for a CPU that has other work too")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--scene", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    parser.add_argument("--crop", type=int, nargs=2, default=(96, 96), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = {way: run_way(args, folder, way, args.size) for way in "ab"}
        budget = args.memory or rows["a"]["peak"] / 4 - rows["a"]["outputs"]
        rows["d"] = run_way(args, folder, "d", args.size, memory=budget)
        rows["c"] = run_way(args, folder, "c", args.size, crop=rows["d"]["crop"], shave=rows["d"]["radius"])
        apart = {way: differences(folder, way) for way in rows if rows[way]}
        others = {size: rows["d"] if size == args.size else run_way(args, folder, "d", size, memory=budget) for size in args.sizes}
    report(args, rows, apart, others, budget)


def report(args: argparse.Namespace, rows: dict, apart: dict, others: dict, budget: float) -> None:
    """Prints both tables."""
    speed = lambda row, size: size**2 / row["seconds"] / 1e6
    limit, d = rows["a"], rows["d"]
    print(f"9 x 9 x {args.size} x {args.size} views, {args.device}, {torch.get_num_threads()} thread(s), {args.clock} time; (b) max_length {args.max_length} "
          f"and shave {args.shave}; (d) a budget of {budget:.0f} MiB, shave {d['radius']}, found in {d['found']:.1f} s once a network\n")
    print("| way | calls, largest crop | useful pixels (%) | MP / s | times (a) x useful | times (b) | peak memory (MiB) | of (a)'s (%) "
          "| depDistS differs from (a)'s by | disparities off by > 0.001 (%) |\n|---|---|---|---|---|---|---|---|---|---|")
    for way in WAYS:
        row = rows[way]
        if row is None:
            print(f"| ({way}) {WAYS[way]} | not installed: pip install -e \".[bench]\" | | | | | | | | |")
            continue
        useful = args.size**2 / row["computed"]
        print(f"| ({way}) {WAYS[way]} | {row['crops']} of {row['crop'][0]} x {row['crop'][1]} | {100 * useful:.0f} | {speed(row, args.size):.4f} "
              f"| {speed(row, args.size) / speed(limit, args.size) / useful:.2f} | {rows['b']['seconds'] / row['seconds']:.2f} | {row['peak']:.0f} "
              f"| {100 * row['peak'] / limit['peak']:.0f} | {apart[way][0]:.1e} | {apart[way][1]:.3f} |")
    print("\n| (d) on a side of | calls | useful pixels (%) | seconds | MP / s | computed MP / s | peak memory (MiB) |")
    print("|---|---|---|---|---|---|---|")
    for size, row in others.items():
        print(f"| {size} | {row['crops']} | {100 * size**2 / row['computed']:.0f} | {row['seconds']:.1f} | {speed(row, size):.4f} "
              f"| {row['computed'] / row['seconds'] / 1e6:.4f} | {row['peak']:.0f} |")


if __name__ == "__main__":
    main()

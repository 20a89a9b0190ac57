"""Crops a second and peak memory of ways to load training crops, in one run, on the same scenes.

    python benchmarks/loader.py [--size 512] [--scenes 4] [--patch 64] [--seconds 3]

(a) the note's way: np.load of a whole float32 scene, then a crop; (b) one PNG a view, decoded for each item; (c) lfkit: memory-mapped uint8,
one pass over the crop's own bytes, as floats; (c8) the same as bytes, which become floats on the device; (d) a plain copy of the same bytes, the limit. No augmentation. Each way runs in a process of its own.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import imageio.v3 as iio
import numpy as np

WAYS = {"a": "np.load of float32, crop", "b": "decode 81 PNGs, crop", "c": "lfkit.DatasetLF", "c8": "lfkit.DatasetLF, as_bytes=True", "d": "plain copy of the bytes"}


def write_scenes(root: Path, scenes: int, size: int) -> None:
    """Procedural scenes, tiled up to the size, in three layouts."""
    import lfkit
    for k in range(scenes):
        small = lfkit.synthesize(k, size=128, noise=0.01)
        times = -(-size // 128)
        lf = np.tile(small.lf, (1, 1, times, times, 1))[:, :, :size, :size]
        maps = (np.tile(m, (times, times))[:size, :size] for m in (small.bg_disp, small.fg_disp, small.mask))
        scene = lfkit.Scene(small.name, lf, *maps, lf[4, 4])
        lfkit.save_scene(scene, root / "uint8")
        (root / "float32").mkdir(exist_ok=True)
        np.save(root / "float32" / f"{scene.name}.npy", lf.astype(np.float32) / 255)
        (root / "png" / scene.name).mkdir(parents=True)
        for n in range(81):
            iio.imwrite(root / "png" / scene.name / f"input_Cam{n:03d}.png", lf[divmod(n, 9)])


def make_way(way: str, root: Path, patch: int):
    """A function that loads one crop."""
    rng = np.random.default_rng(0)
    names = sorted(p.stem for p in (root / "float32").glob("*.npy"))
    size = np.load(root / "float32" / f"{names[0]}.npy", mmap_mode="r").shape[2]
    def place():
        y, x = rng.integers(0, size - patch + 1, 2)
        return names[rng.integers(len(names))], (slice(y, y + patch), slice(x, x + patch))
    if way == "a":
        load = lambda name, at: np.ascontiguousarray(np.load(root / "float32" / f"{name}.npy")[(slice(None), slice(None), *at)])
    elif way == "b":
        load = lambda name, at: np.stack([iio.imread(root / "png" / name / f"input_Cam{n:03d}.png")[at] for n in range(81)]).astype(np.float32) / 255
    elif way in ("c", "c8"):
        import lfkit
        args = lfkit.get_parser(["--data_dir", str(root / "uint8"), "--patch_size", str(patch)])
        dataset = lfkit.DatasetLF(args, augment=False, as_bytes=way == "c8")
        def load_item():
            dataset.set_epoch(dataset.epoch + 1)
            return dataset[int(rng.integers(len(dataset)))][0]
        return load_item
    else:
        scenes = {name: np.load(root / "uint8" / "LFs" / f"{name}.npy", mmap_mode="r") for name in names}
        load = lambda name, at: np.array(scenes[name][(slice(None), slice(None), *at)])
    return lambda: load(*place())


def measure(way: str, root: Path, patch: int, seconds: float) -> None:
    """Prints crops a second, and the most memory in MiB that NumPy held while crops were loaded (in a second pass: tracing is slow)."""
    load = make_way(way, root, patch)
    load()
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count < 3:
        load()
        count += 1
    tracemalloc.start()
    for _ in range(5):
        load()
    print(f"{count / elapsed:.3f} {tracemalloc.get_traced_memory()[1] / 2**20:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--root", type=Path)
    args = parser.parse_args()
    if not (2 <= args.patch <= args.size and args.scenes >= 1):
        parser.error(f"--patch must be from 2 to --size, and --scenes at least 1: got {args.patch}, {args.size} and {args.scenes}")
    if args.way:
        return measure(args.way, args.root, args.patch, args.seconds)
    with tempfile.TemporaryDirectory() as root:
        write_scenes(Path(root), args.scenes, args.size)
        rows = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--root", root, "--patch", str(args.patch), "--seconds", str(args.seconds)]
            rows[way] = [float(v) for v in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]
    print(f"{args.scenes} scenes of 9 x 9 x {args.size} x {args.size}, crops of {args.patch}, one process, no augmentation\n")
    print("| way | crops / s | times (a) | times (d) | peak memory of its arrays (MiB) |\n|---|---|---|---|---|")
    for way, (speed, peak) in rows.items():
        print(f"| ({way}) {WAYS[way]} | {speed:.1f} | {speed / rows['a'][0]:.1f} | {speed / rows['d'][0]:.2f} | {peak:.1f} |")


if __name__ == "__main__":
    main()

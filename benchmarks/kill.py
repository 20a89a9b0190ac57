"""Kills training processes with SIGKILL, lets each go on with --resume auto, and compares it with a run that was never killed.

    python benchmarks/kill.py [--count 30] [--seed 0]

Every third is killed on sight of the temporary file of a checkpoint that is being written, the others at a random moment of the run. The
curves and every tensor of the last checkpoint (weights, optimizer, average) must equal those of the whole run to the last bit.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import lfkit

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 16
FLAGS = ["--channels", "4", "--views_num", "3", "--patch_size", "24", "--batch_size", "2", "--crops_per_scene", "2", "--epoch", str(EPOCHS),
         "--val_every", "2", "--device", "cpu", "--average", "0.9", "--schedule", "cosine", "--warm_up", "2", "--clip", "1", "--test_length", "64"]


def start(data_dir: Path, log_dir: Path, *more: str) -> subprocess.Popen:
    """A training process on one thread."""
    command = [sys.executable, "-m", "lfkit", "train", "--data_dir", str(data_dir), "--log_dir", str(log_dir), *FLAGS, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    """Waits for its end; RuntimeError with what it wrote when it failed."""
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"training ended with status {process.returncode}:\n{errors}")


def wait_for(process: subprocess.Popen, seen) -> None:
    """Until there is something to see, or the process is done."""
    while not seen() and process.poll() is None:
        time.sleep(0.0002)


def kill_while_running(process: subprocess.Popen, log_dir: Path, seconds: float) -> bool:
    """Kills it so many seconds after its directory has appeared; whether it was still running."""
    wait_for(process, lambda: any(log_dir.glob("*/")))
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        return True


def kill_while_writing(process: subprocess.Popen, log_dir: Path, count: int) -> bool:
    """Kills it on sight of its count-th half-written checkpoint; whether the half was left behind, so that the kill hit it."""
    for _ in range(count):
        wait_for(process, lambda: not list(log_dir.glob("*/model_state/*.tmp")))
        wait_for(process, lambda: list(log_dir.glob("*/model_state/*.tmp")))
    process.kill()
    process.wait()
    return bool(list(log_dir.glob("*/model_state/*.tmp")))


def result(log_dir: Path) -> dict:
    """The last checkpoint of the only run that is complete under log_dir, and its curves as the .csv has them."""
    run = max(log_dir.iterdir(), key=lambda path: (path / "curves.csv").stat().st_mtime_ns if (path / "curves.csv").exists() else 0)
    checkpoint = lfkit.checkpoint.read_checkpoint(run / "model_state" / f"model_{EPOCHS}.pkl")
    return {"csv": (run / "curves.csv").read_text(), **{name: checkpoint[name] for name in (
        "curves", "best_mse", "model_state_dict", "average_state_dict", "optimizer_state_dict", "scheduler_state_dict", "random_states")}}


def equal(a, b) -> bool:
    """Whether two structures are alike to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, root = random.Random(args.seed), Path(tempfile.mkdtemp())
    try:
        lfkit.write_synthetic(root / "data", 4, 40, 0, lfkit.synthesize)
        process = start(root / "data", root / "whole")
        wait_for(process, lambda: any((root / "whole").glob("*/")))
        begun = time.monotonic()
        finish(process)
        seconds, whole = time.monotonic() - begun, result(root / "whole")
        tally = {"random moment": [0, 0, 0], "while a checkpoint is written": [0, 0, 0]}
        for k in range(args.count):
            log_dir = root / f"killed{k}"
            process = start(root / "data", log_dir)
            way = list(tally)[k % 3 == 2]
            if k % 3 == 2:
                hit = kill_while_writing(process, log_dir, rng.randint(1, EPOCHS))
            else:
                hit = kill_while_running(process, log_dir, rng.uniform(0, 0.9 * seconds))
            process.communicate()
            finish(start(root / "data", log_dir, "--resume", "auto"))
            same = equal(result(log_dir), whole)
            tally[way] = [a + b for a, b in zip(tally[way], (1, hit, same))]
            print(f"{k + 1}/{args.count} {way}: {'hit' if hit else 'missed'}, {'equal' if same else 'DIFFERENT'}", file=sys.stderr, flush=True)
            shutil.rmtree(log_dir)
    finally:
        shutil.rmtree(root)
    print("| killed at | runs | hit while running, or with half a file left | equal to the last bit |\n|---|---|---|---|")
    for way, (runs, hits, same) in tally.items():
        print(f"| {way} | {runs} | {hits} | {same} |")
    return 0 if sum(same for _, _, same in tally.values()) == args.count else 1


if __name__ == "__main__":
    sys.exit(main())

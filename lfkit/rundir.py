"""What a run leaves in its directory beside checkpoints and pictures: the log file, its arguments and environment, its curves."""

import csv
import io
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

import numpy as np
import torch

from lfkit.distributed import world
from lfkit.files import write_array, write_text

logger = logging.getLogger("lfkit")
LOG_FORMAT = "%(asctime)s - %(levelname)s - %(message)s"
PACKAGES = ("lfkit", "torch", "numpy", "einops", "imageio", "scikit-image", "matplotlib", "tqdm", "visdom")
SAVED_AS_NPY = ("train_loss", "train_metric", "test_metric")


def close_logging() -> None:
    """Closes what the logger `lfkit` writes to."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def setup_logging(log_path: Path, file_name: str) -> None:
    """The logger `lfkit` to log_path/file_name and the console; what it wrote to before is closed."""
    close_logging()
    file = logging.FileHandler(Path(log_path) / file_name, encoding="utf-8")
    file.handleError = lambda record: None  # of a full disk the next file tells, in one sentence
    for handler in (file, logging.StreamHandler()):
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def make_run_dir(args: Namespace) -> tuple[Path, str]:
    """A new directory <log_dir>/<model_name>_<model_msg>_<%m%d%H%M> (a second one in a minute gets a suffix), and its start time."""
    if Path(args.log_dir).is_symlink() and not Path(args.log_dir).exists():
        raise ValueError(f"{args.log_dir}: is a link to a folder that is not there; name another --log_dir, or mount its disk")
    start = time.strftime("%m%d%H%M")
    for suffix in ["", *(f"_{k}" for k in range(2, 1000))]:
        path = Path(args.log_dir) / f"{args.model_name}_{args.model_msg}_{start}{suffix}"
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            return path, start
    raise ValueError(f"{args.log_dir}: 999 runs in one minute; pass another --log_dir")


_claimed: dict[Path, list] = {}  # lock files, which stay open, as a process gives up its locks when it closes them; and by how many runs of this process they are held


def claim_run(log_path: Path) -> None:
    """Takes a run's directory for this process, until as many `release_run`; does nothing where files can't be locked.

    Raises:
        ValueError: when another process has taken it.
    """
    path = log_path.resolve() / ".lock"
    if fcntl is None:
        return
    if path in _claimed:
        _claimed[path][1] += 1
        return
    file = open(path, "w")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise ValueError(f"{log_path}: another process is training in it; wait until it ends, or start a run of another --model_msg") from error
    except OSError:  # a file system without locks
        pass
    _claimed[path] = [file, 1]


def release_run(log_path: Path) -> None:
    """Leaves a run's directory to other processes."""
    path = log_path.resolve() / ".lock"
    if path in _claimed:
        _claimed[path][1] -= 1
        if not _claimed[path][1]:
            _claimed.pop(path)[0].close()


def discard_run(log_path: Path) -> None:
    """Takes away a new run's directory with its log file: a run that never started leaves nothing."""
    close_logging()
    for file in (*log_path.glob("*.log"), *log_path.glob(".lock")):
        file.unlink()
    log_path.rmdir()


def git_commit(file: Path) -> str | None:
    """The commit of the repository that keeps this file, with "+" behind it where files differ from it; None where none does."""
    git = lambda *words: subprocess.run(["git", "-C", str(file.parent), *words], capture_output=True, text=True, check=True).stdout.strip()
    try:
        git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def environment(device: torch.device) -> dict:
    """What else decides a run's numbers: versions, commit, device, threads, processes; and the command and its folder."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # run from its folder, not installed
            versions[name] = None
    cuda = device.type == "cuda"
    return {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": shlex.join(sys.argv), "folder": os.getcwd(),
            "python": platform.python_version(), "platform": platform.platform(), "versions": versions, "git_commit": git_commit(Path(__file__)), "device": str(device),
            "device_name": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
            "cuda": torch.version.cuda if cuda else None, "threads": torch.get_num_threads(), "processes": world()}


def write_json(path: Path, value) -> None:
    """Writes plain values, one of the outermost a line."""
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def describe_start(log_path: Path, args: Namespace, device: torch.device, epoch: int) -> None:
    """Writes args.json, and adds this start of the run to environment.json; one that was resumed has several."""
    write_json(log_path / "args.json", vars(args))
    file = log_path / "environment.json"
    try:
        starts = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        starts = []
    starts = starts if isinstance(starts, list) else []
    write_json(file, [*starts, {"epoch": epoch, **environment(device)}])


def write_curves(log_path: Path, curves: dict[str, list[float]], epoch: int) -> None:
    """Writes curves.csv with one row an epoch, and the three that have an .npy of their own.

    Args:
        log_path: the run's directory.
        curves: one value an epoch each.
        epoch: how many epochs are trained; the last row is of the one before it.
    """
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["epoch", *curves])
    length = len(curves["train_loss"])
    rows.writerows([epoch - length + k, *values] for k, values in enumerate(zip(*curves.values())))
    write_text(log_path / "curves.csv", text.getvalue())
    for name in SAVED_AS_NPY:
        write_array(log_path / f"{name}.npy", np.array(curves[name]))

"""Checkpoints: plain values and tensors, written whole or not at all, read without running code."""

import os
import random
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lfkit.model import DeoccNet

REQUIRED = ("args", "epoch", "model_state_dict", "optimizer_state_dict", "scheduler_state_dict")
ARCHITECTURE = ("channels", "views_num", "max_disp", "step")
WEIGHTS = Path(__file__).parent / "weights" / "deoccnet.pkl"


def save_checkpoint(args: Namespace, epoch: int, model: nn.Module, optimizer, scheduler, checkpoint_path: str | Path, **state) -> None:
    """Writes a checkpoint to a temporary file, then puts it in place, so that the path never holds half a one.

    Args:
        args: the run's arguments; stored as a plain dict.
        epoch: the next epoch to train.
        model, optimizer, scheduler: whose state is kept.
        checkpoint_path: the file; its folder is made if missing.
        state: whatever else resuming needs: numbers, strings, tensors, and lists and dicts of them.
    """
    path = Path(checkpoint_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = {"args": dict(vars(args)), "epoch": int(epoch), "model_state_dict": model.state_dict(),
                  "optimizer_state_dict": optimizer.state_dict(), "scheduler_state_dict": scheduler.state_dict(), **state}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: str | Path) -> dict:
    """The contents of a checkpoint, on the CPU, with its keys checked.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is cut short, holds anything but plain values and tensors, or lacks a key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; train one with `python -m lfkit train` or run notebooks/03_training.ipynb first")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError and others for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in str(error) or "Unsupported" in str(error) or "not an allowed global" in str(error):
            raise ValueError(f"{path}: refused, it holds more than tensors and plain values, and loading it would run code; "
                             "save it again with lfkit.save_checkpoint") from error
        raise ValueError(f"{path}: not a whole checkpoint ({reason}); it was cut short or is another kind of file: use an earlier one") from error
    lacking = [key for key in REQUIRED if key not in checkpoint] if isinstance(checkpoint, dict) else list(REQUIRED)
    if lacking:
        raise ValueError(f"{path}: not a checkpoint of lfkit, it lacks {', '.join(lacking)}; save it with lfkit.save_checkpoint")
    return checkpoint


def load_checkpoint(path: str | Path, model: nn.Module, optimizer=None, scheduler=None) -> dict:
    """Restores model, and optimizer and scheduler where given, from a checkpoint.

    Returns:
        The checkpoint: args (a dict), epoch (the next one to train), and what else was saved.

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint`; also when the checkpoint is of another architecture.
    """
    checkpoint = read_checkpoint(path)
    theirs, ours = checkpoint["model_state_dict"], model.state_dict()
    differing = [name for name in {**ours, **theirs} if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape]
    if differing:
        saved = {name: checkpoint["args"].get(name) for name in ARCHITECTURE}
        raise ValueError(f"{path}: is of another architecture, {len(differing)} of its tensors differ (first: {differing[0]}); it was trained with "
                         f"{', '.join(f'--{name} {value}' for name, value in saved.items())}: use the same flags, or the version of lfkit that saved it")
    model.load_state_dict(theirs)
    if optimizer is not None:
        optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    if scheduler is not None:
        scheduler.load_state_dict(checkpoint["scheduler_state_dict"])
    return checkpoint


def load_model(path: str | Path = WEIGHTS, device: torch.device | str = "cpu") -> tuple[DeoccNet, dict]:
    """A network with a checkpoint's own sizes and weights, in evaluation mode, and the checkpoint.

    Raises:
        FileNotFoundError, ValueError: as `load_checkpoint`.
    """
    args = read_checkpoint(path)["args"]
    if lacking := [name for name in ARCHITECTURE if name not in args]:
        raise ValueError(f"{path}: does not say its {', '.join(lacking)}; save it with lfkit.save_checkpoint")
    model = DeoccNet(*(args[name] for name in ARCHITECTURE))
    checkpoint = load_checkpoint(path, model)
    return model.to(device).eval(), checkpoint


def find_checkpoint(log_dir: str | Path, run: str = "*", skipped: list | None = None) -> Path | None:
    """The newest whole checkpoint of the runs under log_dir whose name matches, or None.

    Args:
        log_dir: where runs are written.
        run: a pattern of run directories, such as "AOR_DE_*".
        skipped: a list to which the reasons for passing over damaged files are added.
    """
    for path in sorted(Path(log_dir).glob(f"{run}/model_state/model_*.pkl"), key=lambda p: p.stat().st_mtime_ns, reverse=True):
        try:
            read_checkpoint(path)
            return path
        except ValueError as error:
            if skipped is not None:
                skipped.append(str(error))
    return None


def best_checkpoint(log_dir: str | Path) -> Path:
    """The model_best.pkl of the newest run under log_dir.

    Raises:
        FileNotFoundError: when no run there has one.
    """
    found = sorted(Path(log_dir).glob("*/model_best.pkl"), key=lambda p: p.stat().st_mtime_ns)
    if not found:
        raise FileNotFoundError(f"no checkpoint in {log_dir}; run notebooks/03_training.ipynb first")
    return found[-1]


def random_states() -> dict:
    """The states of Python's, NumPy's and torch's generators, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state()
    return {"python": list(random.getstate()[1]), "numpy": [kind, keys.tolist(), *rest], "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def restore_random_states(states: dict) -> None:
    """Puts back what `random_states` gave; CUDA's only on as many devices as were saved."""
    random.setstate((3, tuple(states["python"]), None))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])

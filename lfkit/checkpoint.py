"""Checkpoints: plain values and tensors, written whole or not at all, read without running code."""

import io
import random
import re
import zipfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lfkit.distributed import choose_device
from lfkit.files import write_whole
from lfkit.model import ENLARGE, DeoccNet, check_enlarge

FORMAT = 2  # 1 had neither this number nor the architecture
REQUIRED = ("args", "epoch", "model_state_dict", "optimizer_state_dict", "scheduler_state_dict")
ARCHITECTURE = ("channels", "views_num", "max_disp", "step")
WEIGHTS = Path(__file__).parent / "weights" / "deoccnet.pkl"


def plain(value):
    """A value as plain types, lists, dicts and tensors, all the way down; ValueError when it can't be."""
    if value is None or isinstance(value, (bool, int, float, str, torch.Tensor)) and not isinstance(value, np.generic):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (Path, torch.device)):
        return str(value)
    if isinstance(value, Namespace):
        return plain(vars(value))
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(plain(part) for part in value)
    raise ValueError(f"a checkpoint holds plain values and tensors: got a {type(value).__name__}; turn it into numbers, strings, tensors, or "
                     "lists and dicts of them")


def save_checkpoint(args: Namespace, epoch: int, model: nn.Module, optimizer, scheduler, checkpoint_path: str | Path, **state) -> None:
    """Writes a checkpoint to a temporary file, then puts it in place, so that the path never holds half a one.

    Args:
        args: the run's arguments; stored as a plain dict.
        epoch: the next epoch to train.
        model, optimizer, scheduler: whose state is kept; also the sizes that the network was made with.
        checkpoint_path: the file; its folder is made if missing.
        state: whatever else resuming needs: numbers, strings, tensors, and lists and dicts of them.

    Raises:
        ValueError: when state or args hold something else.
        Fault: when the file can't be written, such as on a full disk; the one that was there stays.
    """
    architecture = {name: getattr(model, name, getattr(args, name, None)) for name in ARCHITECTURE}
    states = {"optimizer_state_dict": optimizer.state_dict(), "scheduler_state_dict": scheduler.state_dict()}
    checkpoint = {"format": FORMAT, "epoch": int(epoch), "model_state_dict": model.state_dict(), **plain({"args": args, "architecture": architecture, **states, **state})}
    serialized = io.BytesIO()  # torch.save into a file turns a full disk into an error without its cause
    torch.save(checkpoint, serialized)
    write_whole(checkpoint_path, lambda file: file.write(serialized.getbuffer()))


def read_checkpoint(path: str | Path) -> dict:
    """The contents of a checkpoint, on the CPU, with its keys checked; no code in it is run.

    An argparse.Namespace, in which older files keep their arguments, is let through alone of all classes, and becomes a dict.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is cut short, holds anything but plain values and tensors, lacks a key, or a newer lfkit saved it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; train one with `python -m lfkit train` or run notebooks/03_training.ipynb first")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:
                if (part := parts.testzip()) is not None:  # torch does not look at the checksums
                    raise ValueError(f"the checksum of its {part} is wrong")
        with torch.serialization.safe_globals([Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError and others for damaged files
        if found := re.search(r"(?:GLOBAL|class) (?:<class ')?([\w.]+)", str(error)):
            raise ValueError(f"{path}: refused, it holds more than tensors and plain values ({found[1]}), and loading it would run code; "
                             "save it again with lfkit.save_checkpoint") from error
        # of an unsafe pickle torch's first line says how to load it all the same, which is no advice to pass on
        reason = type(error).__name__ if "eights" in str(error) or not str(error) else str(error).splitlines()[0]
        raise ValueError(f"{path}: not a whole checkpoint ({reason}); it was cut short or is another kind of file: use an earlier one") from error
    if isinstance(checkpoint, dict) and checkpoint.get("format", 1) > FORMAT:
        raise ValueError(f"{path}: was saved by a newer lfkit, in format {checkpoint['format']} where this one reads up to {FORMAT}; update lfkit")
    lacking = [key for key in REQUIRED if key not in checkpoint] if isinstance(checkpoint, dict) else list(REQUIRED)
    if lacking:
        raise ValueError(f"{path}: not a checkpoint of lfkit, it lacks {', '.join(lacking)}; save it with lfkit.save_checkpoint")
    checkpoint["args"] = plain(checkpoint["args"])
    checkpoint.setdefault("architecture", {name: checkpoint["args"][name] for name in ARCHITECTURE if name in checkpoint["args"]})
    return checkpoint


def restore(checkpoint: dict, path: str | Path, model: nn.Module, optimizer=None, scheduler=None) -> None:
    """Puts back what `read_checkpoint` gave; ValueError, which names the path, when it does not fit."""
    theirs, ours = checkpoint["model_state_dict"], model.state_dict()
    differing = [name for name in {**ours, **theirs} if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape]
    if differing:
        saved = {name: checkpoint["architecture"].get(name) for name in ARCHITECTURE}
        raise ValueError(f"{path}: is of another architecture, {len(differing)} of its tensors differ (first: {differing[0]}); it was trained with "
                         f"{', '.join(f'--{name} {value}' for name, value in saved.items())}: use the same flags, or the version of lfkit that saved it")
    changed = {name: value for name, value in checkpoint["architecture"].items() if value != getattr(model, name, value)}
    if optimizer is not None and changed:
        told = lambda values: ", ".join(f"--{name} {value}" for name, value in values.items())
        raise ValueError(f"{path}: was trained with {told(changed)}, not {told({name: getattr(model, name) for name in changed})}; use the same flags, or start a new run with --start_from")
    if optimizer is not None and not checkpoint["optimizer_state_dict"]:
        raise ValueError(f"{path}: holds weights without the optimizer's state, so that no run can go on from it; start a new one with --start_from")
    kinds = lambda groups: [{"betas", "momentum"} & group.keys() for group in groups]  # by which Adam, SGD and Muon differ
    if optimizer is not None and kinds(optimizer.param_groups) != kinds(checkpoint["optimizer_state_dict"]["param_groups"]):
        raise ValueError(f"{path}: was trained by another optimizer; use its --optimizer {checkpoint['args'].get('optimizer', 'adam')}")
    numbers = lambda groups: [len(group["params"]) for group in groups]
    if optimizer is not None and numbers(optimizer.param_groups) != numbers(checkpoint["optimizer_state_dict"]["param_groups"]):
        parts = checkpoint["args"].get("train_only")
        raise ValueError(f"{path}: trained other parts of the network; go on with {f'its --train_only {parts}' if parts else 'all of them, without --train_only'}, or start a new run with --start_from")
    if scheduler is not None and ("lr_lambdas" in checkpoint["scheduler_state_dict"]) != ("lr_lambdas" in scheduler.state_dict()):
        saved = {name: checkpoint["args"].get(name) for name in ("schedule", "warm_up")}
        raise ValueError(f"{path}: its learning rate followed another schedule; use its {', '.join(f'--{name} {value}' for name, value in saved.items())}")
    model.load_state_dict(theirs)
    if optimizer is not None:
        optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    if scheduler is not None:
        scheduler.load_state_dict(checkpoint["scheduler_state_dict"])


def load_checkpoint(path: str | Path, model: nn.Module, optimizer=None, scheduler=None) -> dict:
    """Restores model, and optimizer and scheduler where given, from a checkpoint.

    Returns:
        The checkpoint: args (a dict), epoch (the next one to train), and what else was saved.

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint`; also when the checkpoint's tensors are of another architecture, and, to go on with an optimizer, when
            levels, number of views or schedule are others, or it lacks the optimizer's state.
    """
    checkpoint = read_checkpoint(path)
    restore(checkpoint, path, model, optimizer, scheduler)
    return checkpoint


def scored_weights(checkpoint: dict) -> dict:
    """The weights that the run's validations scored: the averaged ones of a run that averages, else those that are trained."""
    return checkpoint.get("average_state_dict") or checkpoint["model_state_dict"]


def load_model(path: str | Path = WEIGHTS, device: torch.device | str = "cpu", enlarge: float = ENLARGE) -> tuple[DeoccNet, dict]:
    """A network with a checkpoint's own sizes and weights, in evaluation mode, and the checkpoint.

    Of a run that averages its weights these are the averaged ones.

    Args:
        path: the checkpoint; the shipped weights by default.
        device: where the network goes.
        enlarge: by how much it enlarges the views for a closer look; 1, as while training, takes half the time and is less precise.

    Raises:
        FileNotFoundError, ValueError: as `load_checkpoint`; ValueError when there is no such device, or enlarge is none of `model.ENLARGED`.
    """
    device, enlarge = choose_device(device), check_enlarge(enlarge)
    checkpoint = read_checkpoint(path)
    if lacking := [name for name in ARCHITECTURE if name not in checkpoint["architecture"]]:
        raise ValueError(f"{path}: does not say its {', '.join(lacking)}; save it with lfkit.save_checkpoint")
    model = DeoccNet(*(checkpoint["architecture"][name] for name in ARCHITECTURE))
    restore(checkpoint, path, model)
    model.load_state_dict(scored_weights(checkpoint))
    model.enlarge = enlarge
    return model.to(device).eval(), checkpoint


def load_pretrained(device: torch.device | str = "cpu", enlarge: float = ENLARGE) -> DeoccNet:
    """The network with the weights that come with lfkit, as `load_model` gives it; `lfkit/weights/README.md` says how they were trained."""
    return load_model(WEIGHTS, device, enlarge)[0]


def find_checkpoint(log_dir: str | Path, run: str | Sequence[str] = "*", skipped: list | None = None) -> Path | None:
    """The newest whole checkpoint of the runs under log_dir whose name matches, or None.

    Args:
        log_dir: where runs are written.
        run: a pattern of run directories, such as "DeoccNet_*", or several.
        skipped: a list to which the reasons for passing over damaged files are added.
    """
    runs = [run] if isinstance(run, str) else run
    newest = lambda name: sorted((path for run in runs for path in Path(log_dir).glob(f"{run}/{name}")), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in newest("model_state/model_*.pkl") + newest("model_best.pkl"):  # the best is as old as it is, but better than nothing
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


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Deletes all but the newest `keep` numbered checkpoints of a folder; 0 keeps all. A run that went back to an earlier one has older ones of higher numbers."""
    numbered = [(path.stat().st_mtime_ns, int(path.stem.removeprefix("model_")), path) for path in folder.glob("model_*.pkl") if path.stem.removeprefix("model_").isdigit()]
    for *_, path in sorted(numbered)[:-keep] if keep else ():
        path.unlink(missing_ok=True)


def seed_all(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


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

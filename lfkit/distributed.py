"""Several processes that train one network: who is who, who writes, and what is shared. Started by torchrun; one process without it."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lfkit.faults import Fault

PASSED_ON = (ValueError, FileNotFoundError, Fault)  # errors that are one sentence, and travel well

def started() -> bool:
    """Whether this process is one of a group."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """This process's number in its group, from 0."""
    return distributed.get_rank() if started() else 0


def world() -> int:
    """How many processes the group has."""
    return distributed.get_world_size() if started() else 1


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device that is asked for; "auto" is the CUDA device with the most free memory, or the CPU.

    Raises:
        ValueError: when there is no such device; the sentence says which ones are.
    """
    name = str(name)
    count = torch.cuda.device_count()
    if name == "auto":
        if not count:
            return torch.device("cpu")
        return torch.device("cuda", max(range(count), key=lambda k: torch.cuda.mem_get_info(k)[0]))
    known = ["cpu", *(f"cuda:{k}" for k in range(count))]
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in known:
        raise ValueError(f"no device {name!r} on this machine: there is {', '.join(known)}; use --device auto or one of these")
    return torch.device(wanted)


def local_device(name: str) -> str:
    """The name of this rank's own device; ValueError when there are fewer devices than ranks on this machine."""
    count = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and not count):
        return "cpu"
    ranks, mine = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    if name not in ("auto", "cuda") and ranks > 1:
        raise ValueError(f"--device {name} would put {ranks} ranks on one device; use --device auto, which gives each its own, or cpu")
    if ranks > count:
        raise ValueError(f"torchrun started {ranks} ranks on a machine with {count} CUDA devices; use --nproc-per-node={max(count, 1)}, "
                         "or --device cpu")
    return f"cuda:{mine}" if name in ("auto", "cuda") else name


@contextmanager
def group(device_name: str) -> Iterator[str]:
    """Joins the group that torchrun's environment names, where there is one, and leaves it at the end.

    Gives the name of the device to use. Gloo carries what lies on the CPU, NCCL what lies on a CUDA device.
    """
    if "LOCAL_RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        yield device_name
        return
    name = local_device(device_name)
    if name != "cpu":
        torch.cuda.set_device(name)
    distributed.init_process_group("gloo" if name == "cpu" else "cpu:gloo,cuda:nccl")
    if rank() > 0:
        logging.getLogger("lfkit").setLevel(logging.CRITICAL)  # the first rank tells what all of them do
    try:
        yield name
    finally:
        if started():
            distributed.destroy_process_group()


def gather(value: Any) -> list:
    """Each rank's value, in the order of the ranks, on every rank."""
    if world() == 1:
        return [value]
    values = [None] * world()
    distributed.all_gather_object(values, value)
    return values


def merge(part: dict) -> dict:
    """One dict of all ranks' own, each of which holds every world-th item, in the order of the whole."""
    rows = zip_longest(*(own.items() for own in gather(part)))
    return dict(item for row in rows for item in row if item is not None)


def on_first(work: Callable[[], Any]) -> Any:
    """What work() gives on rank 0, on every rank; an error there is raised on every rank."""
    if world() == 1:
        return work()
    outcome, cause = [None, None], None
    if rank() == 0:
        try:
            outcome[0] = work()
        except Exception as error:  # whatever it is, the others must not wait for ever
            passed_on = type(error) in PASSED_ON
            outcome[1], cause = (error, None) if passed_on else (Fault(f"rank 0 ended with {type(error).__name__}: {error}"), error)
    distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1] from cause
    return outcome[0]


def on_any(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on any rank."""
    if world() == 1:
        return flag
    tensor = torch.tensor(float(flag), device=device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return bool(tensor)


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, whose gradients are averaged over the ranks where there are several."""
    if world() == 1:
        return model
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # of kernels of one pixel, whose strides mean nothing
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside what `wrap` and torch.compile put around it."""
    for name in ("_orig_mod", "module"):
        model = getattr(model, name, model)
    return model


def share_batches(order: list[int], batch_size: int, accumulate: int) -> list[list[tuple[list[int], float]]]:
    """This rank's batches of an epoch: for each step, its `accumulate` batches of crops and the weight of each one's mean loss.

    A step uses batch_size * accumulate crops a rank; with the weights, and gradients averaged over the ranks, each of its crops counts
    alike, also in the last step, which may be short. A rank for which no crop is left repeats one with weight 0, so that all keep step.

    >>> share_batches([5, 3, 4], batch_size=1, accumulate=2)
    [[([5], 0.5), ([3], 0.5)], [([4], 1.0)]]
    """
    together = batch_size * world()
    steps = []
    for start in range(0, len(order), together * accumulate):
        crops = order[start:start + together * accumulate]
        batches = [crops[k:k + together] for k in range(0, len(crops), together)]
        shares = [batch[rank()::world()] for batch in batches]
        steps.append([(share or batch[:1], len(share) * world() / len(crops)) for share, batch in zip(shares, batches)])
    return steps

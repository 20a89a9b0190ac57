"""How the weights move: optimizer, learning rate over time, half precision's scaler, the average of the weights."""

import math
from argparse import Namespace

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by a kernel's number of axes
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def keep_channels_last(model: nn.Module) -> None:
    """Lays out the model's kernels with their channels together; no value changes."""
    for parameter in model.parameters():
        if parameter.ndim in CHANNELS_LAST:
            parameter.data = parameter.data.contiguous(memory_format=CHANNELS_LAST[parameter.ndim])


def make_optimizer(args: Namespace, model: nn.Module) -> torch.optim.Adam:
    """Adam over the parameters that are trained."""
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=args.lr, fused=bool(args.fused) or None)


def rate_factor(unit: int, schedule: str, warm_up: int, total: int, decay_step: int, gamma: float) -> float:
    """What the initial learning rate is multiplied by.

    Args:
        unit: how many decay units (epochs or steps) are done.
        schedule: step: times gamma after every decay_step units; cosine: half a cosine from 1, after the warm-up, to 0 at `total`.
        warm_up: units over which it first rises in equal parts.
        total: units of the whole run.
        decay_step, gamma: of schedule step.

    Source: cosine annealing without restarts, Loshchilov and Hutter, ICLR 2017, equation 5.

    >>> [rate_factor(k, "cosine", 1, 5, 0, 0) for k in (0, 1, 3, 5)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if unit < warm_up:
        return (unit + 1) / (warm_up + 1)
    if schedule == "step":
        return gamma ** (unit // decay_step)
    return 0.5 * (1 + math.cos(math.pi * min(1, (unit - warm_up) / max(1, total - warm_up))))


def make_scheduler(args: Namespace, optimizer: torch.optim.Optimizer, steps: int | None = None) -> LRScheduler:
    """StepLR, or a LambdaLR for a warm-up or a cosine.

    Args:
        args: schedule, warm_up, epoch, decay_unit, decay_step, gamma.
        optimizer: whose rate it changes.
        steps: steps an epoch, for a cosine that counts batches.

    Raises:
        ValueError: when steps is needed and not given.
    """
    if args.schedule == "step" and not args.warm_up:
        return StepLR(optimizer, step_size=args.decay_step, gamma=args.gamma)
    if args.schedule == "cosine" and args.decay_unit == "batch" and steps is None:
        raise ValueError("a cosine that counts batches needs the number of steps an epoch; pass steps, or use --decay_unit epoch")
    total = args.epoch * (steps if args.decay_unit == "batch" and steps else 1)
    return LambdaLR(optimizer, lambda unit: rate_factor(unit, args.schedule, args.warm_up, total, args.decay_step, args.gamma))


def make_scaler(args: Namespace, device: torch.device) -> torch.amp.GradScaler:
    """Scales losses up where --precision fp16 would lose small gradients; does nothing otherwise."""
    return torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")


def make_average(args: Namespace, model: nn.Module) -> AveragedModel | None:
    """A moving average of the weights, `average.module`, that follows `average.update_parameters(model)`; None where args.average is 0."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(args.average)) if args.average else None

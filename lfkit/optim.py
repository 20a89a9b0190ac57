"""How the weights move: optimizer, learning rate over time, half precision's scaler, the average of the weights."""

import math
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Muon's quintic, whose five rounds bring singular values near 1
OPTIMIZERS = ("adam", "muon")
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def orthogonalized(x: torch.Tensor) -> torch.Tensor:
    """Matrices '... o i' with their singular values moved near 1 (0.7 to 1.2, but for very small ones), in float32."""
    is_wide = x.shape[-2] <= x.shape[-1]
    wide = (x if is_wide else x.mT).float()
    wide = wide / torch.linalg.matrix_norm(wide, keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = wide @ wide.mT
        wide = NEWTON_SCHULZ[0] * wide + (NEWTON_SCHULZ[1] * gram + NEWTON_SCHULZ[2] * gram @ gram) @ wide
    return wide if is_wide else wide.mT


class Muon(torch.optim.Optimizer):
    """Orthogonalized momentum for the kernels of hidden convolutions, flattened to matrices 'o (i h w)'; Adam for all other parameters.

    torch.optim.Muon takes matrices alone, and nothing beside them.

    Args:
        params: parameters; those with four axes and more than four outputs count as hidden kernels.
        lr: learning rate of both; the kernels' steps are as long as Adam's usually are.
        momentum: of the kernels, by Nesterov.
        betas, eps: of Adam.

    Source: Jordan et al., kellerjordan.github.io/posts/muon, 2024; length of the step: Liu et al., arXiv 2502.16982.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        hidden, rest = [], []
        for p in params:
            (hidden if p.ndim == 4 and len(p) > 4 else rest).append(p)
        super().__init__([{"params": part, "hidden": part is hidden} for part in (hidden, rest)], {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure=None):
        """One step of all parameters that have a gradient; gives the closure's loss, where there is one."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if group["hidden"]:
                alike = defaultdict(list)
                for p in moved:
                    alike[p.flatten(1).shape].append(p)
                for some in alike.values():
                    self._orthogonal(some, group)
            else:
                for p in moved:
                    self._adam(p, self.state[p], group)
        return loss

    def _orthogonal(self, kernels: list[nn.Parameter], group: dict) -> None:
        """A step of kernels whose matrices are of one shape: together, as a GPU waits for each operation's start."""
        updates = []
        for p in kernels:
            momentum = self.state[p].setdefault("momentum", torch.zeros_like(p)).lerp_(p.grad, 1 - group["momentum"])
            updates.append(p.grad.lerp(momentum, group["momentum"]).flatten(1))
        for p, update in zip(kernels, orthogonalized(torch.stack(updates))):
            p.add_(update.reshape(p.shape), alpha=-0.2 * math.sqrt(max(update.shape)) * group["lr"])

    @staticmethod
    def _adam(p: nn.Parameter, state: dict, group: dict) -> None:
        state["step"] = t = state.get("step", 0) + 1
        first, second = group["betas"]
        mean = state.setdefault("mean", torch.zeros_like(p)).lerp_(p.grad, 1 - first)
        square = state.setdefault("square", torch.zeros_like(p)).mul_(second).addcmul_(p.grad, p.grad, value=1 - second)
        p.addcdiv_(mean / (1 - first**t), (square / (1 - second**t)).sqrt() + group["eps"], value=-group["lr"])


def make_optimizer(args: Namespace, model: nn.Module) -> torch.optim.Optimizer:
    """Adam, or Muon, over the parameters that are trained."""
    params = [p for p in model.parameters() if p.requires_grad]
    return Muon(params, args.lr) if args.optimizer == "muon" else torch.optim.Adam(params, lr=args.lr, fused=bool(args.fused) or None)


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

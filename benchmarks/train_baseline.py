"""Trains the EPINET-like baseline, or DeoccNet from nothing, by one loop on one sequence of crops, for `benchmarks/accuracy.py`.

    python benchmarks/train_baseline.py --data_dir Dataset --steps 2000 --out epinet.pkl [--network deoccnet] [--width 70] [--planes 0] [--batch_size 2] [--patch_size 48]
        [--lr 1e-3] [--optimizer adam] [--seed 0] [--criterion l1] [--criterion1 ce] [--hidden_weight 1] [--outline_weight 0]

Crops as `python -m lfkit train` takes them; a cosine and the same losses for both networks, and for each what it learns from besides: the baseline from the cross-entropy of
its own bins, DeoccNet from its earlier looks. `--planes N` gives the baseline a head start that DeoccNet, whose sweep knows what disparity is, does without: N steps of planes of noise, each at one disparity;
without it the baseline learned next to nothing in 1200 steps. The last four flags are those of `python -m lfkit train`, for a comparison of losses.
"""

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange

import lfkit
from lfkit.dataset import open_training
from lfkit.losses import CRITERIA, DISP_CRITERIA, training_loss

sys.path.insert(0, str(Path(__file__).parent))

OPTIMIZERS = {"adam": torch.optim.Adam, "muon": lfkit.optim.Muon}
PLANES, MARGIN = 2.5, 28  # largest disparity of a plane, in px per view step, which the baseline's 21 x 21 pixels just see in the outermost views; pixels of noise beyond the crop on each side
WEIGHTS = {"loss1_weight": 1.0, "loss2_weight": 1.0, "loss3_weight": 2.0}


def make_network(name: str, width: int, seed: int, args: argparse.Namespace) -> torch.nn.Module:
    """One of the two, with random weights."""
    from baselines import EpinetPosterior
    torch.manual_seed(seed)
    if name == "epinet":
        return EpinetPosterior(width)
    net = lfkit.DeoccNet(args.channels, args.views_num, args.max_disp, args.step)
    return net.apply(lfkit.weights_init_xavier)


def crop_loss(net: torch.nn.Module, batch: list, args: argparse.Namespace, device: torch.device) -> tuple[torch.Tensor, dict]:
    """The loss of a batch and its parts."""
    lf, fg_disp, bg_disp = (batch[k].to(device) for k in (0, 3, 4))
    x = rearrange(lf, "b u v h w c -> b (u v) c h w")
    posteriors = net.posteriors(x) if hasattr(net, "posteriors") else ()
    outputs = net.read(*posteriors) if posteriors else net(x, earlier=True)
    loss, parts = training_loss(outputs, fg_disp, bg_disp, DISP_CRITERIA[args.criterion](), CRITERIA[args.criterion1](), WEIGHTS, args.max_disp, args.step, args.hidden_weight, args.outline_weight)
    return loss + net.own_loss(*posteriors, fg_disp, bg_disp) if posteriors else loss, parts


def planes(count: int, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Views 'b n c h w' of planes of noise without occluders, and their disparities 'b h w', each one number within PLANES; views that the baseline does not take are black."""
    side = size + 2 * MARGIN
    texture = 0.5 + sum(0.1 * F.interpolate(torch.randn(count, 3, grain, grain), (side, side), mode="bicubic") for grain in (60, 25, 10))
    disp = (torch.rand(count) * 2 - 1) * PLANES
    y, x = torch.meshgrid(*[torch.arange(size) + float(MARGIN)] * 2, indexing="ij")
    views = texture.new_zeros(count, 9, 9, 3, size, size)
    for u, v in [(u, v) for u in range(9) for v in range(9) if 4 in (u, v) or u in (v, 8 - v)]:
        place = torch.stack([x - (4 - v) * disp[:, None, None], y - (4 - u) * disp[:, None, None]], -1)  # centre[y] = view[y + (4 - u) d]
        views[:, u, v] = F.grid_sample(texture, (2 * place + 1) / side - 1, align_corners=False)
    return rearrange(views, "b u v c h w -> b (u v) c h w").clamp(0, 1), disp[:, None, None].expand(count, size, size)


def learn_planes(net: torch.nn.Module, steps: int, device: torch.device) -> None:
    """The baseline's head start, by Muon at 2e-3."""
    optimizer, losses, errors = lfkit.optim.Muon(net.parameters(), 2e-3), [], []
    for step in range(1, steps + 1):
        x, disp = (part.to(device) for part in planes(16))
        posteriors = net.posteriors(x)
        loss = net.own_loss(*posteriors, disp, disp)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        errors.append(float((net.read(*posteriors)[2].detach() - disp).abs().median()))
        if step % 100 == 0:
            print(f"planes {step}: loss {sum(losses[-100:]) / 100:.3f}, median error {sum(errors[-100:]) / 100:.3f} px", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--network", choices=("epinet", "deoccnet"), default="epinet")
    parser.add_argument("--width", type=int, default=70, help="of the baseline")
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--patch_size", type=int, default=48)
    parser.add_argument("--planes", type=int, default=0, help="steps of planes of noise that the baseline learns first, by Muon at 2e-3")
    parser.add_argument("--optimizer", choices=tuple(OPTIMIZERS), default="adam")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--criterion", choices=tuple(DISP_CRITERIA), default="l1")
    parser.add_argument("--criterion1", choices=tuple(CRITERIA), default="ce")
    parser.add_argument("--hidden_weight", type=float, default=1.0, help="1: pixels behind occluders count twice")
    parser.add_argument("--outline_weight", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    ours = parser.parse_args()
    if ours.planes and ours.network != "epinet":
        parser.error("--planes is a head start for the baseline alone; leave it out with --network deoccnet")
    args = lfkit.get_parser([f"--{name}={getattr(ours, name)}" for name in ("data_dir", "patch_size", "batch_size", "criterion", "criterion1", "hidden_weight", "outline_weight")])
    device = lfkit.choose_device("auto")
    net, dataset = make_network(ours.network, ours.width, ours.seed, args).to(device), open_training(args, device)
    if ours.planes:
        learn_planes(net, ours.planes, device)
    optimizer = OPTIMIZERS[ours.optimizer](net.parameters(), lr=ours.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ours.steps)
    torch.manual_seed(1)  # any network gets the same crops in the same order
    step, totals = 0, {}
    while step < ours.steps:
        dataset.set_epoch(step)
        for batch in torch.utils.data.DataLoader(dataset, batch_size=ours.batch_size, shuffle=True):
            loss, parts = crop_loss(net, batch, args, device)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            step += 1
            totals = {name: totals.get(name, 0.0) + value for name, value in parts.items()}
            if step % 100 == 0:
                print(step, {name: round(value / 100, 4) for name, value in totals.items()}, flush=True)
                totals = {}
            if step == ours.steps:
                break
    if ours.network == "epinet":
        torch.save({"epinet": net.state_dict(), "width": ours.width}, ours.out)
    else:
        lfkit.save_checkpoint(args, 0, net, optimizer, scheduler, ours.out)


if __name__ == "__main__":
    main()

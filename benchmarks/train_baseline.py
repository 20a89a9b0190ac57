"""Trains the EPINET-like baseline, or DeoccNet from nothing, by one loop on one sequence of crops, for `benchmarks/accuracy.py`.

    python benchmarks/train_baseline.py --data_dir Dataset --steps 2000 --out epinet.pkl [--network deoccnet] [--width 70] [--batch_size 2] [--patch_size 48]
        [--lr 1e-3] [--seed 0] [--criterion l1] [--criterion1 ce] [--hidden_weight 1] [--outline_weight 0]

Crops as `python -m lfkit train` takes them; Adam, a cosine and the same losses for both networks, and for each what it learns from besides: the baseline from the cross-entropy of
its own bins, DeoccNet from its earlier looks. The last four flags are those of `python -m lfkit train`, for a comparison of losses.
"""

import argparse
import sys
from pathlib import Path

import torch
from einops import rearrange

import lfkit
from lfkit.dataset import open_training
from lfkit.losses import CRITERIA, DISP_CRITERIA, training_loss

sys.path.insert(0, str(Path(__file__).parent))

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--network", choices=("epinet", "deoccnet"), default="epinet")
    parser.add_argument("--width", type=int, default=70, help="of the baseline")
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--patch_size", type=int, default=48)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--criterion", choices=tuple(DISP_CRITERIA), default="l1")
    parser.add_argument("--criterion1", choices=tuple(CRITERIA), default="ce")
    parser.add_argument("--hidden_weight", type=float, default=1.0, help="1: pixels behind occluders count twice")
    parser.add_argument("--outline_weight", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    ours = parser.parse_args()
    args = lfkit.get_parser([f"--{name}={getattr(ours, name)}" for name in ("data_dir", "patch_size", "batch_size", "criterion", "criterion1", "hidden_weight", "outline_weight")])
    device = lfkit.choose_device("auto")
    net, dataset = make_network(ours.network, ours.width, ours.seed, args).to(device), open_training(args, device)
    optimizer = torch.optim.Adam(net.parameters(), lr=ours.lr)
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

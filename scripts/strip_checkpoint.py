"""Makes a checkpoint fit to publish: without the optimizer's state, which is twice its size, and without what names the machine it was trained on.

    python scripts/strip_checkpoint.py log/<run>/model_best.pkl weights.pkl
"""

import argparse

import torch

from lfkit.checkpoint import read_checkpoint
from lfkit.files import write_whole

PRIVATE = ("command", "data_dir", "log_dir", "mask_dir", "model_save_dir", "start_from", "visdom_server", "device", "resume")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="CHECKPOINT")
    parser.add_argument("target", metavar="FILE")
    args = parser.parse_args()
    checkpoint = read_checkpoint(args.source)
    kept = {name: checkpoint[name] for name in ("format", "architecture", "epoch", "model_state_dict") if name in checkpoint}
    kept |= {"args": {name: value for name, value in checkpoint["args"].items() if name not in PRIVATE},
             "optimizer_state_dict": {}, "scheduler_state_dict": {}}
    write_whole(args.target, lambda file: torch.save(kept, file))


if __name__ == "__main__":
    main()

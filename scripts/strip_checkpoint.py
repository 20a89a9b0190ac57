"""Makes a checkpoint fit to publish: without the optimizer's state, which is twice its size, and without what names the machine it was trained on.
Of a run that averages its weights the averaged ones are kept.

    python scripts/strip_checkpoint.py log/<run>/model_best.pkl weights.pkl
    python scripts/strip_checkpoint.py A.pkl weights.pkl --mean_with B.pkl      # the mean of two runs that started from the same weights
    python scripts/strip_checkpoint.py A.pkl weights.pkl --closer_looks_of B.pkl # A's first two looks and B's closer looks, for B that started from A
"""

import argparse

import torch

from lfkit.checkpoint import read_checkpoint, scored_weights
from lfkit.files import write_whole

PRIVATE = ("command", "data_dir", "log_dir", "mask_dir", "model_save_dir", "start_from", "visdom_server", "device", "resume")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="CHECKPOINT")
    parser.add_argument("target", metavar="FILE")
    parser.add_argument("--mean_with", metavar="CHECKPOINT", help="of a run that started from the same weights; their mean is kept")
    parser.add_argument("--closer_looks_of", metavar="CHECKPOINT", help="of a run that started from CHECKPOINT; its closer looks are kept, and the looks before them are CHECKPOINT's")
    args = parser.parse_args()
    checkpoint = read_checkpoint(args.source)
    checkpoint["model_state_dict"] = scored_weights(checkpoint)
    if args.mean_with:
        other = scored_weights(read_checkpoint(args.mean_with))
        checkpoint["model_state_dict"] = {name: (value + other[name]) / 2 for name, value in checkpoint["model_state_dict"].items()}
    if args.closer_looks_of:
        other = scored_weights(read_checkpoint(args.closer_looks_of))
        checkpoint["model_state_dict"] |= {name: value for name, value in other.items() if name.startswith("closer_look.")}
    kept = {name: checkpoint[name] for name in ("format", "architecture", "epoch", "model_state_dict") if name in checkpoint}
    kept |= {"args": {name: value for name, value in checkpoint["args"].items() if name not in PRIVATE},
             "optimizer_state_dict": {}, "scheduler_state_dict": {}}
    write_whole(args.target, lambda file: torch.save(kept, file))


if __name__ == "__main__":
    main()

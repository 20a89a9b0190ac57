"""Makes a checkpoint fit to publish: without the optimizer's state, which is twice its size, and without what names the machine it was trained on.
Of a run that averages its weights the averaged ones are kept.

    python scripts/strip_checkpoint.py log/<run>/model_best.pkl weights.pkl
    python scripts/strip_checkpoint.py A.pkl weights.pkl --towards B.pkl 0.5 0.5    # the mean of A and B, of which one started from the other or both from the same weights
    python scripts/strip_checkpoint.py A.pkl weights.pkl --towards B.pkl 0.5 0 --towards C.pkl 0.8 0.5     # A and parts of the ways to B and to C: of the first look, and of those after it
    python scripts/strip_checkpoint.py A.pkl weights.pkl --towards B.pkl 0.5 0.5 --take second_look C.pkl  # but for the second look, which is C's
"""

import argparse
import math
from pathlib import Path

import torch

from lfkit.checkpoint import read_checkpoint, scored_weights
from lfkit.faults import one_sentence
from lfkit.files import check_target, write_whole
from lfkit.model import LATER

PRIVATE = ("command", "data_dir", "log_dir", "mask_dir", "model_save_dir", "start_from", "visdom_server", "device", "resume")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="CHECKPOINT")
    parser.add_argument("target", metavar="FILE")
    parser.add_argument("--towards", nargs=3, action="append", default=[], metavar=("OTHER", "FIRST", "LATER"),
                        help="moves the first look's weights by this part of the way to OTHER's, and the later looks' by that one; several add up")
    parser.add_argument("--take", nargs=2, action="append", default=[], metavar=("PART", "OTHER"), help="in the end takes a part of the network, such as second_look, from OTHER as it is")
    args = parser.parse_args()
    check_target(Path(args.target))
    if Path(args.target).exists() and Path(args.target).samefile(args.source):
        raise ValueError(f"{args.target}: is the checkpoint that is read, whose optimizer's state would be lost; name another FILE")
    checkpoint = read_checkpoint(args.source)
    start = checkpoint["model_state_dict"] = scored_weights(checkpoint)

    def like(other: str) -> dict[str, torch.Tensor]:
        weights = scored_weights(read_checkpoint(other))
        if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in start.items()}:
            raise ValueError(f"{other}: of another architecture than {args.source}; name one that was trained from the same weights")
        return weights

    for other, *parts in args.towards:
        try:
            first, later = map(float, parts)
        except ValueError:
            first = later = math.nan
        if not math.isfinite(first + later):
            raise ValueError(f"--towards {other} {' '.join(parts)}: expected two numbers, parts of the way")
        ends = like(other)
        checkpoint["model_state_dict"] = {name: value + (later if name.startswith(LATER) else first) * (ends[name] - start[name]) for name, value in checkpoint["model_state_dict"].items()}
    for part, other in args.take:
        taken = {name: value for name, value in like(other).items() if name.startswith(part + ".")}
        if not taken:
            raise ValueError(f"--take {part} {other}: the network has no part {part}; expected one of {', '.join(dict.fromkeys(name.split('.')[0] for name in start))}")
        checkpoint["model_state_dict"] |= taken
    kept = {name: checkpoint[name] for name in ("format", "architecture", "epoch", "model_state_dict") if name in checkpoint}
    kept |= {"args": {name: value for name, value in checkpoint["args"].items() if name not in PRIVATE},
             "optimizer_state_dict": {}, "scheduler_state_dict": {}}
    write_whole(args.target, lambda file: torch.save(kept, file))


if __name__ == "__main__":
    with one_sentence():
        main()

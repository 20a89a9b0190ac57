"""The training flags and their defaults, and the notebooks' profiles. Imported by entry points alone."""

import json
import shlex
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from functools import partial

from lfkit.disparity import MAX_DISP, STEP, disparity_levels
from lfkit.losses import CRITERIA, DISP_CRITERIA, WEIGHT_NAMES
from lfkit.model import POOLING, check_views_num
from lfkit.optim import OPTIMIZERS, PRECISIONS


class HelpFormatter(ArgumentDefaultsHelpFormatter):
    """Says a default where there is one to say."""

    def _get_help_string(self, action):
        return action.help if action.required or action.dest == "weights" or action.default in (None, "", []) else super()._get_help_string(action)


class SentenceParser(ArgumentParser):
    """An ArgumentParser that raises ValueError with one sentence, so that a notebook's kernel is not ended by a typo; its commands are such parsers too."""

    def __init__(self, *args, **options):
        super().__init__(*args, **{"formatter_class": HelpFormatter, **options})

    def error(self, message):
        raise ValueError(f"{message}; `{self.prog} --help` lists what is known")

    def parse_known_args(self, args=None, namespace=None):
        known, others = super().parse_known_args(args, namespace)
        if others:  # here, and not where all is parsed: the command whose flag it should be is known
            self.error(f"unrecognized arguments: {' '.join(others)}")
        return known, others

    def convert_arg_line_to_args(self, arg_line):
        """A line of a run's args.json as a flag: `@FILE` takes them all, but for what makes a run go on with another; a line of any other file as on the command line."""
        line = arg_line.lstrip("\ufeff").strip()  # Windows' editors begin a text with a mark
        pairs = line.strip("{},")
        try:
            if pairs.lstrip()[:1] not in ('"', ""):
                return shlex.split(line, comments=True)
            return [f"--{name}={value}" for name, value in json.loads(f"{{{pairs}}}").items() if value is not None and name not in ("command", "resume", "model_save_dir")]
        except ValueError as error:
            self.error(f"the line {line} is neither flags nor JSON, \"name\": value ({error}); correct its quotes")


def number(low: float, high: float = float("inf"), kind: type = float, below: float = float("inf"), of: float = 0):
    """An argparse type: a number from `low` to `high` and less than `below`; a whole one where the kind is int, a multiple of `of` where that is given."""
    name = f"multiple of {of}" if of else "whole number" if kind is int else "number"
    def parse(text):
        value = kind(text)
        if not (low <= value <= high and value < below) or (of and value % of):
            raise ArgumentTypeError(f"must be a {name} from {low}{f' to {high}' if high < float('inf') else ''}{f' and below {below}' if below < float('inf') else ''}: got {text}")
        return value
    parse.__name__ = name
    return parse


whole, share = partial(number, kind=int), number(0, 1)
pooled = whole(POOLING, of=POOLING)  # crops that start elsewhere are pooled in other cells than the whole scene


def whole_or_auto(low: int):
    """An argparse type: a whole number from `low`, or auto."""
    def parse(text):
        return text if text == "auto" else whole(low)(text)
    parse.__name__ = "whole number or auto"
    return parse


def _data_flags(add: Callable) -> None:
    """What the crops are cut from."""
    add("--data_dir", default="./Dataset/", help="data directory: LFs/<scene>.npy ..., or a folder for each scene; "
        "synthetic: for procedural scenes without end, never written to disk")
    add("--synthetic_scenes", type=whole(1), default=256, help="scenes an epoch of `--data_dir synthetic:`")
    add("--patch_size", type=whole(2), default=64, help="side of a training crop, in pixels")
    add("--batch_size", type=whole(1), default=1, help="crops a step")
    add("--crops_per_scene", type=whole(1), default=1, help="crops of each scene an epoch")
    add("--dataset_per_epoch", type=int, choices=(0, 1), default=0,
        help="1 reads the scenes anew each epoch (less memory, new scenes are found), 0 once")
    add("--embed", type=share, default=1.0, metavar="P",
        help="share of the crops of a clean scene (without fg_disp) that get occluders put before them")
    add("--mask_dir", default=None, metavar="DIR", help="folder of alpha images, all of one size, that these occluders are cut from; drawn without it")
    add("--num_workers", type=whole(0), default=0, help="loader processes; 0 is fastest on few cores and small data")


def _model_flags(add: Callable) -> None:
    """The network's sizes, the run's name, and where it starts or goes on from."""
    add("--model_name", default="DeoccNet", help="names the run")
    add("--model_msg", default="NoTagModel", help="tags the run")
    add("--start_from", default=None, metavar="FILE", help="checkpoint whose weights a new run starts from, such as the shipped ones")
    add("--train_only", default="", metavar="PARTS", help="parts of the network that learn, such as second_look,closer_look; all others keep their weights")
    add("--model_save_dir", default=None, metavar="FILE", help="checkpoint to go on from")
    add("--resume", default="", choices=("", "auto"), help="auto goes on from the newest whole checkpoint of this model_name and model_msg under log_dir")
    add("--channels", type=whole(4), default=32, help="width of the network")
    add("--views_num", type=int, default=9, help="views a side, odd; the middle ones of a larger grid")
    add("--max_disp", type=float, default=MAX_DISP, help="largest disparity level, in pixels per view step")
    add("--step", type=float, default=STEP, help="distance of two disparity levels, in pixels per view step")


def _loop_flags(add: Callable) -> None:
    """The device, the length of the training, the rate and the losses."""
    add("--device", default="auto", help="auto (the freest CUDA device, else the CPU), cpu, cuda, cuda:0 ...")
    add("--epoch", type=whole(0), default=10000, help="epochs in total")
    add("--current_iter", type=whole(0), default=0, help="number of the first epoch, where no checkpoint says it")
    add("--optimizer", default="adam", choices=OPTIMIZERS, help="Adam, or Muon for the kernels and Adam for the rest")
    add("--lr", type=number(0), default=1e-4, help="initial learning rate")
    add("--decay_step", type=whole(1), default=200, help="the rate is multiplied by gamma after so many decay units")
    add("--decay_unit", default="epoch", choices=("epoch", "batch"), help="what decay_step counts")
    add("--gamma", type=number(0), default=0.1, help="factor of the decay")
    add("--schedule", default="step", choices=("step", "cosine"),
        help="how the rate falls: by gamma, or along a cosine to 0 at the last epoch")
    add("--warm_up", type=whole(0), default=0, help="decay units over which the rate first rises to lr")
    add("--criterion", default="l1", choices=tuple(DISP_CRITERIA), help="loss on the disparity: L1, its logarithm, for which gross errors count less, or L1 and Huber's, which leaves unsure outlines between two surfaces")
    add("--criterion1", default="l1", choices=tuple(CRITERIA), help="loss on the distributions: L1, cross-entropy or Jensen-Shannon divergence")
    for name, what in zip(WEIGHT_NAMES, ("two-peaked distribution", "background's distribution", "background's disparity")):
        add(f"--{name}", type=number(0), default=1.0, help=f"weight of the loss on the {what}")
    add("--hidden_weight", type=number(0), default=0.0, help="how much of each loss over the hidden pixels alone is added to it; these are the hidden pixels of a batch, so that its size has a say")
    add("--outline_weight", type=number(0), default=0.0, help="the same of the pixels at outlines of the background")
    add("--jolt", type=share, default=0.0, help="in this share of the crops the estimates are moved a little before the closer looks, which learn to mend that")
    add("--seed", type=whole(0, 2**62), default=0, help="seeds initialisation, shuffling, crops and augmentation")


def _knobs(add: Callable) -> None:
    """What makes training faster or steadier."""
    add("--precision", default="float32", choices=tuple(PRECISIONS),
        help="of the network's arithmetic while training; losses and weights stay float32")
    add("--channels_last", type=int, choices=(0, 1), default=0, help="1 keeps the kernels' channels together in memory")
    add("--compile", type=int, choices=(0, 1), default=0, help="1 compiles the network for training; the first step takes minutes")
    add("--fused", type=int, choices=(0, 1), default=0, help="1 takes Adam's step in one kernel")
    add("--pin_memory", type=int, choices=(0, 1), default=1,
        help="1 copies batches to a CUDA device from memory that is not paged, without waiting")
    add("--accumulate", type=whole(1), default=1,
        help="batches a step: the gradient of a batch so many times as large, in the memory of one")
    add("--clip", type=number(0), default=0.0, help="longest gradient, as the norm over all parameters; 0 for no limit")
    add("--average", type=number(0, below=1), default=0.0, metavar="DECAY",
        help="above 0: validate, and save beside the weights, their moving average, of which each step keeps so much (0.999, say)")


def _validation_flags(add: Callable) -> None:
    """What is validated, when, and in what crops."""
    add("--if_debug", type=int, choices=(0, 1), default=1, help="1 validates debug_testing_images.txt, 0 testing_images.txt")
    add("--val_every", type=whole(1), default=10, help="epochs between two validations")
    add("--save_image_every", type=whole(1), default=50, help="epochs between two validations whose pictures are kept; the last one's are too")
    add("--test_length", type=whole_or_auto(1), default=96, help="longest side of a validation crop, pixels; auto: by the memory")
    add("--shave", type=whole_or_auto(0), default=16, help="pixels of a crop's inner sides not trusted; auto: the network's reach")
    add("--mod", type=pooled, default=POOLING, help=f"crops start at multiples of it, itself one of {POOLING}")


def _log_flags(add: Callable) -> None:
    """Where a run is written and shown."""
    add("--log_dir", default="./log", help="where runs are written")
    add("--keep", type=whole(0), default=5, help="numbered checkpoints that stay, the newest, beside the best and the last; 0 for all")
    add("--if_visdom", type=int, choices=(0, 1), default=0, help="1 draws the curves in visdom")
    add("--visdom_server", default="http://localhost", help="address of the visdom server")
    add("--visdom_port", type=whole(1, 65535), default=9878, help="its port")


def add_training_arguments(parser: ArgumentParser) -> None:
    """Adds every training flag with its default, in groups."""
    groups = {"data": _data_flags, "model": _model_flags, "train": _loop_flags, "speed and steadiness": _knobs, "validation": _validation_flags, "log": _log_flags}
    for title, flags in groups.items():
        flags(parser.add_argument_group(title).add_argument)


def check_arguments(args: Namespace) -> Namespace:
    """The arguments, when they make sense together; ValueError otherwise."""
    args.max_disp = int(args.max_disp) if float(args.max_disp).is_integer() else args.max_disp
    for name in ("model_name", "model_msg"):
        if set(getattr(args, name)) & set("/\\"):
            raise ValueError(f"--{name} is part of a folder's name, and can't have / or \\ in it: got {getattr(args, name)!r}; name the place by --log_dir")
    check_views_num(args.views_num)
    disparity_levels(args.max_disp, args.step)
    if args.schedule == "cosine" and args.decay_unit == "epoch" and 0 < args.epoch <= args.warm_up:
        raise ValueError(f"the rate must rise before it falls: got --warm_up {args.warm_up} of --epoch {args.epoch}; use less warm-up, "
                         "or --decay_unit batch")
    return args


def get_parser(argv: Sequence[str] = ()) -> Namespace:
    """The training arguments: every default, changed by the flags given.

    Args:
        argv: flags and values, such as ["--lr", "1e-3"]. Never read from the process, so that a notebook's kernel can call it.

    Raises:
        ValueError: when a flag is unknown, a value malformed, views_num even, or max_disp not a multiple of step.

    >>> get_parser(["--lr", "1e-3"]).lr
    0.001
    """
    parser = SentenceParser(prog="lfkit train", description="Trains DeoccNet.", fromfile_prefix_chars="@")
    add_training_arguments(parser)
    return check_arguments(parser.parse_args(list(argv)))


class Profiles(dict):
    """What the notebooks run, by the profile's name."""

    def __missing__(self, name):
        raise ValueError(f"no profile is named {name!r}, expected {', '.join(self)}; set LFKIT_PROFILE to one of them")


# `small` is the demo on a laptop, `ci` only proves that every cell works, `full` is for a GPU. Which losses: benchmarks/model.md.
_LEARN = ("--lr", "1.5e-3", "--model_msg", "notebook")
_SHORT = (*_LEARN, "--criterion1", "ce")
PROFILES = Profiles({
    "ci": {"scenes": 4, "size": 48, "flags": [*_SHORT, "--epoch", "2", "--val_every", "1", "--patch_size", "32", "--batch_size", "2", "--channels", "8"]},
    "small": {"scenes": 34, "size": 96, "flags": [*_SHORT, "--epoch", "8", "--val_every", "2", "--patch_size", "48", "--batch_size", "2",
                                                  "--crops_per_scene", "2", "--decay_step", "5", "--gamma", "0.3"]},
    "full": {"scenes": 400, "size": 256, "flags": [*_LEARN, "--hidden_weight", "1", "--epoch", "400", "--val_every", "10", "--patch_size", "64", "--batch_size", "16",
                                                   "--crops_per_scene", "4", "--channels", "64", "--num_workers", "4", "--decay_step", "120"]},
})

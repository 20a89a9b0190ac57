"""What ends a training, in one sentence that says the cause and the way out."""

import errno
import gc
import signal
import threading
import traceback
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lfkit.memory import is_out_of_memory

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Fault(RuntimeError):
    """A run can't go on; the message says why, and what to do."""


def lack_of_memory(args: Namespace, training: bool) -> str:
    """What to try when memory has run out."""
    if not training and args.test_length == "auto":
        return "out of memory while validating with crops as large as seemed to fit; try --test_length 96 --shave 16"
    if not training:
        least = 2 * args.shave + args.mod if isinstance(args.shave, int) else 32  # shorter crops would have nothing to keep
        shorter = max(least, args.test_length * 2 // 3 // 8 * 8)
        smaller = f"--test_length {shorter}" if shorter < args.test_length else "a smaller --shave" if isinstance(args.shave, int) and args.shave else "fewer --channels"
        return f"out of memory while validating with crops of {args.test_length} pixels; try {smaller}"
    smaller = f"--patch_size {max(16, args.patch_size * 3 // 4 // 8 * 8)}" if args.patch_size > 16 else "fewer --channels"
    if args.batch_size > 1:
        half = args.batch_size // 2
        smaller = f"--batch_size {half} --accumulate {-(-args.accumulate * args.batch_size // half)} (as many crops a step), or {smaller}"
    return f"out of memory with {args.batch_size} crops of {args.patch_size} x {args.patch_size} pixels at a time; try {smaller}"


def release(error: BaseException) -> None:
    """Gives back the memory that the tensors in an error's traceback hold: a notebook keeps the last error."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def explained(args: Namespace, training: bool = True) -> Iterator[None]:
    """Turns what may befall a run of days into a `Fault` with one sentence; every other error passes as it is.

    Memory that has run out is given back, though a notebook keeps the error.

    Args:
        args: patch_size, batch_size, accumulate and test_length, that the sentence names.
        training: whether it was training that ran out of memory, or validation.

    Raises:
        Fault: when memory or disk has run out, or a loader process or another rank is gone.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise Fault(f"the disk is full ({error}); free some space") from error
    except MemoryError as error:  # validation has already tried smaller crops, and says so
        raise Fault(str(error) or lack_of_memory(args, training)) from None
    except RuntimeError as error:
        text = str(error)
        if is_out_of_memory(error):
            release(error)
            raise Fault(lack_of_memory(args, training)) from None
        if isinstance(error, torch.distributed.DistError) or "gloo" in text:
            raise Fault(f"another rank has ended, and says why itself ({text.splitlines()[0]})") from error
        if "DataLoader worker" in text and ("exited unexpectedly" in text or "killed by signal" in text):
            raise Fault(f"a loader process is gone ({text.splitlines()[0]}), most often because memory ran out; try less than --num_workers "
                        f"{args.num_workers}, 0 for none") from error
        raise


@contextmanager
def one_sentence() -> Iterator[None]:
    """Ends a script with the sentence that says what is wrong, in place of a traceback."""
    try:
        yield
    except (ValueError, OSError, Fault) as error:
        raise SystemExit(str(error)) from None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Puts Ctrl-C off to the end of the block, so that what belongs together is done whole or not at all."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals come to the main thread alone
        return
    came = []
    before = signal.signal(signal.SIGINT, lambda *event: came.append(event))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)

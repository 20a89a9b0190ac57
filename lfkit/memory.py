"""How much memory a call takes, how much there is, and what to do when it runs out."""

import ctypes
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

KEPT_BYTES = 2**31 - 1             # the most that mallopt takes for a threshold
MMAP_MAX, MMAP_BYTES = 65536, 2**25  # glibc's default number of mappings, and the size up to which its threshold would grow by itself


def free_memory(device: torch.device) -> int:
    """Bytes that could still be taken on a device; on the CPU the machine's, or the control group's where that is less."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = psutil.virtual_memory().available
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        pages = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())  # files that are cached count as used, and are given up when asked for
        return max(0, min(free, limit - used + int(pages.get("inactive_file", 0))))
    except (OSError, ValueError):  # no control group, or one without a limit ("max")
        return free


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in ("can't allocate memory", "not enough memory", "ALLOC_FAILED"))


class PeakBytes(TorchDispatchMode):
    """Counts, while it is entered, the bytes of the tensors that operations make: `peak` is the most that were alive at once.

    Works alike on every device. What libraries take for themselves within an operation is not seen.
    """

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.known = 0, 0, set()

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known:
                self.known.add(storage._cdata)
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
        return out


@contextmanager
def kept_pages() -> Iterator[Callable[[], None]]:
    """Within it, glibc keeps freed memory for the next tensor in place of giving it back to the system and asking anew.

    Every page that is asked for anew is cleared first, which costs a network's pass over a large crop much time. Yields a
    function that gives back what is free, to be called between passes, as the heap would get ever more holes; on leaving all is given back.
    Does nothing without glibc.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc_trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError, TypeError):
        yield lambda: None
        return
    m_trim_threshold, m_mmap_threshold, m_mmap_max = -1, -3, -4  # malloc.h
    try:
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, KEPT_BYTES)
        yield lambda: malloc_trim(0)
    finally:
        mallopt(m_mmap_max, MMAP_MAX)
        mallopt(m_mmap_threshold, MMAP_BYTES)
        mallopt(m_trim_threshold, 2 * MMAP_BYTES)  # as glibc pairs them
        malloc_trim(0)

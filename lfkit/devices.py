"""The choice of a device."""

import torch


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device that is asked for; "auto" is the CUDA device with the most free memory, or the CPU.

    Raises:
        ValueError: when there is no such device; the sentence says which ones are.
    """
    name = str(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        if not count:
            return torch.device("cpu")
        return torch.device("cuda", max(range(count), key=lambda k: torch.cuda.mem_get_info(k)[0]))
    known = ["cpu", *(f"cuda:{k}" for k in range(count))]
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in known:
        raise ValueError(f"no device {name!r} on this machine: there is {', '.join(known)}; use --device auto or one of these")
    return torch.device(wanted)

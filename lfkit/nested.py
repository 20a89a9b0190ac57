"""Outputs of models: a tensor, or tuples, lists and dicts of tensors."""

from collections.abc import Callable

from torch import Tensor


def map_nested(function: Callable, *structures):
    """The structure with function applied to its tensors; of several structures alike, to the tensors that correspond.

    Raises:
        ValueError: when it holds something else than tensors.
    """
    first = structures[0]
    if isinstance(first, Tensor):
        return function(*structures)
    if isinstance(first, dict):
        return type(first)({key: map_nested(function, *(s[key] for s in structures)) for key in first})
    if isinstance(first, (tuple, list)):
        parts = [map_nested(function, *parts) for parts in zip(*structures)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    raise ValueError(f"the model gave a {type(first).__name__}; it must give a tensor, or a tuple, list or dict of tensors")


def tensors_of(structure) -> list[Tensor]:
    """Its tensors, in order."""
    found = []
    map_nested(lambda tensor: found.append(tensor) or tensor, structure)
    return found

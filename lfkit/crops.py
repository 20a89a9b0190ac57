"""How a scene is cut into overlapping crops: where each starts and stops, and which part of it is kept."""

from bisect import bisect_left
from typing import NamedTuple


class Crop(NamedTuple):
    """Rows and columns, each (start, stop, keep_from, keep_to) in pixels of the whole."""

    rows: tuple[int, int, int, int]
    cols: tuple[int, int, int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what is read, in pixels."""
        return self.rows[1] - self.rows[0], self.cols[1] - self.cols[0]


def _shortest(size: int, gaps: int, shave: int, mod: int) -> int:
    """The length of crops, as short as can be, of which gaps + 1 cover an axis."""
    if not gaps:
        return size
    lengths = range(2 * shave + mod, size + 1)
    return lengths[bisect_left(lengths, True, key=lambda n: gaps * ((n - 2 * shave) // mod) >= -((n - size) // mod))]


def cut_axis(size: int, gaps: int, shave: int, mod: int) -> list[tuple[int, int, int, int]]:
    """How one axis is cut into gaps + 1 crops: for each (start, stop, keep_from, keep_to), in pixels of the whole.

    Starts are multiples of mod and evenly spread; crops are as short as their number allows; what is kept of each lies at least shave
    pixels inside it, except at the ends of the axis, where the crop ends with the axis.

    >>> cut_axis(10, 1, 1, 2)
    [(0, 6, 0, 5), (4, 10, 5, 10)]
    """
    length = _shortest(size, gaps, shave, mod)
    units = -((length - size) // mod)
    starts = [mod * (k * units // gaps) for k in range(gaps + 1)] if gaps else [0]
    stops = [min(start + length, size) for start in starts]
    cuts = [0, *((stop + start) // 2 for stop, start in zip(stops, starts[1:])), size]
    return list(zip(starts, stops, cuts, cuts[1:]))


def fewest_gaps(size: int, max_length: int, shave: int, mod: int) -> int:
    """How many crops less one an axis needs; ValueError where no number does."""
    if size <= max_length:
        return 0
    stride = (max_length - 2 * shave) // mod * mod
    if stride < 1:
        raise ValueError(f"max_length {max_length} can't cover an axis of {size} pixels with shave {shave} and mod {mod}: a crop must exceed "
                         f"2 * shave by at least mod; use max_length (--test_length) {min(size, 2 * shave + mod)} or more")
    return -((max_length - size) // mod * mod // stride)


def _choices(size: int, max_length: int, shave: int, mod: int) -> list[tuple[int, int]]:
    """(length of a crop, gaps), from the longest allowed to the shortest possible."""
    shortest, gaps = 2 * shave + mod, fewest_gaps(size, max_length, shave, mod)
    choices = [(_shortest(size, gaps, shave, mod), gaps)]
    while choices[-1][0] > shortest:
        gaps += 1
        if (length := _shortest(size, gaps, shave, mod)) < choices[-1][0]:
            choices.append((length, gaps))
    return choices


def plan_crops(size: tuple[int, int], max_length: int, shave: int, mod: int, area: float = float("inf")) -> list[Crop]:
    """The grid of crops, of at most max_length a side and `area` pixels each, that reads the fewest pixels in all.

    Where even the smallest possible crop exceeds the area, the grid is of these.

    Raises:
        ValueError: when max_length can't work with shave and mod.
    """
    heights, widths = (_choices(extent, max_length, shave, mod) for extent in size)
    best = None
    for height, gaps in heights:
        k = bisect_left(widths, True, key=lambda choice: choice[0] * height <= area)
        if k < len(widths):
            width, more = widths[k]
            grid = height * (gaps + 1) * width * (more + 1), height + width, gaps, more  # of equals the squarest
            best = min(best or grid, grid)
    gaps = best[2:] if best else (heights[-1][1], widths[-1][1])
    rows, cols = (cut_axis(extent, g, shave, mod) for extent, g in zip(size, gaps))
    return [Crop(row, col) for row in rows for col in cols]


def halve(crop: Crop, shave: int, mod: int) -> list[Crop]:
    """Two crops that keep what this one keeps and read less each; empty where that can't be.

    >>> halve(Crop((0, 8, 0, 8), (0, 4, 0, 4)), 1, 2)
    [Crop(rows=(0, 5, 0, 4), cols=(0, 4, 0, 4)), Crop(rows=(2, 8, 4, 8), cols=(0, 4, 0, 4))]
    """
    def split(axis):
        start, stop, low, high = axis
        middle = (low + high) // 2
        return (start, min(stop, middle + shave), low, middle), (max(start, (middle - shave) // mod * mod), stop, middle, high)
    by_rows, by_cols = ([Crop(part, crop.cols) for part in split(crop.rows)], [Crop(crop.rows, part) for part in split(crop.cols)])
    pixels = lambda c: c.shape[0] * c.shape[1]
    parts = min(by_rows, by_cols, key=lambda parts: max(map(pixels, parts)))
    kept_all = all(axis[2] < axis[3] for part in parts for axis in part)
    return parts if kept_all and max(map(pixels, parts)) < pixels(crop) else []

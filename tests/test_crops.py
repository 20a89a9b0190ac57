from itertools import product

import pytest

from lfkit.crops import Crop, cut_axis, fewest_gaps, halve, plan_crops

crop_axis = lambda size, longest, shave, mod: cut_axis(size, fewest_gaps(size, longest, shave, mod), shave, mod)
pixels = lambda crop: crop.shape[0] * crop.shape[1]


def check_axis(crops, size, shave, mod):
    """Kept parts tile the axis; each lies shave inside its crop, or ends with the axis."""
    assert crops[0][2] == 0 and crops[-1][3] == size and all(a[3] == b[2] for a, b in zip(crops, crops[1:]))
    for start, stop, low, high in crops:
        assert start % mod == 0 and 0 <= start <= low < high <= stop <= size
        assert start == 0 or low - start >= shave
        assert stop == size or stop - high >= shave


@pytest.mark.parametrize("shave, mod", [(0, 1), (0, 8), (1, 1), (5, 3), (7, 8), (16, 8)])
def test_axes_are_tiled_by_the_fewest_and_shortest_crops(shave, mod):
    for size, extra in product([1, 9, 31, 40, 64, 97, 131, 256], [0, 1, 5, 8, 30]):
        longest = 2 * shave + mod + extra
        crops = crop_axis(size, longest, shave, mod)
        check_axis(crops, size, shave, mod)
        length = max(stop - start for start, stop, *_ in crops)
        assert length <= longest
        tiles = lambda n, k: (k - 1) * ((n - 2 * shave) // mod) * mod + n >= size  # k crops of n pixels, as far apart as can be
        assert not tiles(longest, len(crops) - 1) or len(crops) == 1
        assert len(crops) == 1 or length == next(n for n in range(2 * shave + mod, longest + 1) if tiles(n, len(crops)))


@pytest.mark.parametrize("area", [50**2, 4000, 64 * 90, 10**4])
def test_a_plan_reads_the_fewest_pixels_of_all_grids_within_the_area(area):
    size, shave, mod = (97, 150), 9, 4
    crops = plan_crops(size, 150, shave, mod, area)
    check_axis(sorted({c.rows for c in crops}), 97, shave, mod)
    check_axis(sorted({c.cols for c in crops}), 150, shave, mod)
    assert max(map(pixels, crops)) <= area
    grid = lambda lengths: [Crop(*pair) for pair in product(*(crop_axis(n, m, shave, mod) for n, m in zip(size, lengths)))]
    grids = [grid(lengths) for lengths in product(range(22, 98), range(22, 151))]
    read = lambda grid: len(grid) * max(map(pixels, grid))
    assert read(crops) == min(read(g) for g in grids if max(map(pixels, g)) <= area)


def test_a_plan_of_the_least_crops_where_even_these_exceed_the_area():
    assert {c.shape for c in plan_crops((60, 60), 60, 8, 4, 100)} == {(20, 20)}


def test_halving_keeps_every_pixel_and_ends():
    waiting, done = [Crop((8, 61, 19, 50), (0, 47, 0, 40))], []
    while waiting:
        crop = waiting.pop()
        parts = halve(crop, 11, 4)
        done += [] if parts else [crop]
        waiting += parts
        assert all(pixels(part) < pixels(crop) for part in parts)
    kept = [(y, x) for crop in done for y in range(*crop.rows[2:]) for x in range(*crop.cols[2:])]
    assert sorted(kept) == list(product(range(19, 50), range(40)))
    for (start, stop, low, high), (left, right, west, east) in done:
        assert start % 4 == left % 4 == 0 and low - start >= 11 and min(high + 11, 61) <= stop
        assert (left == 0 or west - left >= 11) and min(east + 7, 47) <= right


def test_the_least_crop_is_no_longer_than_the_axis():
    with pytest.raises(ValueError, match="can't cover an axis of 48 pixels with shave 30 and mod 8.*use max_length .--test_length. 48 or more"):
        plan_crops((48, 48), 32, 30, 8)
    assert len(plan_crops((48, 48), 48, 30, 8)) == 1  # whole

import numpy as np
import pytest

import lfkit
from lfkit import format_table, score_scene


def test_inside_and_outside_the_mask_by_hand():
    scene = lfkit.Scene("s", np.zeros((3, 3, 8, 8, 3), np.uint8), bg_disp=np.zeros((8, 8)), mask=np.eye(8, dtype=bool))
    disp = np.where(np.eye(8, dtype=bool), 0.5, 0.01)
    row = score_scene(scene, disp, border=2)
    assert row["mse_x100_inside"] == pytest.approx(25) and row["bad_pix_inside"] == 100 and row["bad_pix_outside"] == 0
    assert row["bad_pix"] == 25 and row["mse_x100"] == pytest.approx(100 * (4 * 0.25 + 12 * 0.0001) / 16)
    table = format_table([row, {"scene": "t", "mse_x100": 5.0, "bad_pix": 75.0}], 2).splitlines()
    assert table[-1].split()[0] == "mean" and table[-1].split()[2] == "50.00" and table[-2].split()[3] == "-"

"""Tables of errors: scenes in rows."""

import numpy as np

from lfkit.lightfield import Scene
from lfkit.metrics import BAD_PIX, BENCHMARK_BORDER, compute_bad_pix, compute_mse


def score_scene(scene: Scene, disp: np.ndarray, border: int = BENCHMARK_BORDER) -> dict:
    """MSE x 100 and BadPix 0.07 of the background's disparity, overall and, with a mask, inside and outside it.

    Args:
        scene: with bg_disp.
        disp: 'h w' prediction, in pixels per view step.
        border: pixels left out at each side.

    Returns:
        A table's row: scene, mse_x100 (squared pixels), bad_pix (percent), and each with _inside and _outside.
    """
    regions = {"": None}
    if scene.mask is not None and scene.mask[border:-border or None, border:-border or None].any():
        regions |= {"_inside": scene.mask, "_outside": ~scene.mask}
    row = {"scene": scene.name}
    for region, mask in regions.items():
        row[f"mse_x100{region}"] = 100 * compute_mse(disp, scene.bg_disp, border, mask)
        row[f"bad_pix{region}"] = compute_bad_pix(disp, scene.bg_disp, BAD_PIX, border, mask)
    return row


COLUMNS = {"mse_x100": "MSEx100", "bad_pix": "BadPix0.07", "mse_x100_inside": "MSEx100 in", "bad_pix_inside": "BadPix in",
           "mse_x100_outside": "MSEx100 out", "bad_pix_outside": "BadPix out", "seconds": "seconds"}


def format_table(rows: list[dict], border: int = BENCHMARK_BORDER) -> str:
    """The scores as text, the mean last; "in" and "out" are inside and outside the occluder's mask."""
    mean = {"scene": "mean"} | {key: float(np.mean([r[key] for r in rows if key in r])) for key in COLUMNS if any(key in r for r in rows)}
    keys = [key for key in COLUMNS if key in mean]
    width = max(len(r["scene"]) for r in [*rows, mean, {"scene": "scene"}])
    lines = [f"background's disparity, border {border}; BadPix in percent, MSE in squared pixels; in and out: of the occluder's mask",
             "  ".join(["scene".ljust(width), *(COLUMNS[key].rjust(11) for key in keys)])]
    for row in [*rows, *([mean] if len(rows) > 1 else [])]:
        lines.append("  ".join([row["scene"].ljust(width), *((f"{row[key]:11.2f}" if key in row else "-".rjust(11)) for key in keys)]))
    return "\n".join(lines)

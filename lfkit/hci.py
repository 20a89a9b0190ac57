"""The HCI 4D Light Field Benchmark: the masks of its scenes, and a submission to it.

Source: Honauer et al., A Dataset and Evaluation Methodology for Depth Estimation on 4D Light Fields, ACCV 2016; its evaluation toolkit's
submission_validation and region_metrics.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lfkit.files import IMAGE_SUFFIXES, check_target, existing, read_pfm, read_pixels, write_pfm, write_text
from lfkit.lightfield import Scene, is_scene

MASKS = {"discontinuities": "mask_discontinuities", "fine": "mask_fine", "planes": "mask_planes", "smooth": "mask_smooth_surfaces"}
SCENES = ("backgammon", "dots", "pyramids", "stripes", "boxes", "cotton", "dino", "sideboard", "bedroom", "bicycle", "herbs", "origami")
SIDE = 512  # pixels a side of the benchmark's views


def read_hci_masks(folder: str | Path, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The masks that lie beside an HCI scene's views.

    Args:
        folder: of the scene; anything else has none.
        size: (h, w) of the views. A mask n times as large (*_highres.png) is read at every n-th pixel, from the middle on.

    Returns:
        Of discontinuities, fine, planes and smooth those that are there, 'h w' booleans: where the file is not 0.

    Raises:
        ValueError: when a mask is of another size.
    """
    masks = {}
    for name, stem in MASKS.items():
        files = [f for f in (Path(folder) / f"{stem}_{resolution}.png" for resolution in ("lowres", "highres")) if f.exists()]
        if not files:
            continue
        pixels = np.atleast_3d(read_pixels(files[0]))
        mask = pixels[..., :(pixels.shape[2] - 1) // 2 * 2 + 1].any(-1)  # one colour or three, without transparency
        times = max(1, mask.shape[0] // size[0])
        if mask.shape != (times * size[0], times * size[1]):
            raise ValueError(f"{files[0]}: its {mask.shape[0]} x {mask.shape[1]} pixels do not fit views of {size[0]} x {size[1]}; take it away, or copy it again")
        masks[name] = mask[times // 2::times, times // 2::times]
    return masks


def find_benchmark_scenes(paths: Sequence[str | Path]) -> dict[str, Path]:
    """The benchmark's scenes by name: each path is one, or holds them, or holds folders that do (stratified, training, test).

    Raises:
        FileNotFoundError: when a path is missing, or none of the twelve is there.
    """
    found = {}
    for path in map(Path, paths):
        inside = [path, *sorted(path.glob("*")), *sorted(path.glob("*/*"))] if existing(path).is_dir() else [path]
        for candidate in sorted(inside, key=lambda file: file.suffix.lower() in IMAGE_SUFFIXES):  # a folder of views before a preview of it
            if candidate.stem in SCENES and is_scene(candidate):
                found.setdefault(candidate.stem, candidate)
    if not found:
        raise FileNotFoundError(f"{', '.join(map(str, paths))}: none of the benchmark's scenes ({', '.join(SCENES)}); name the folder that holds them")
    return {name: found[name] for name in SCENES if name in found}


def check_export(out: str | Path, scene: Scene, side: int = SIDE) -> None:
    """ValueError when a scene's views are not of the benchmark's size, or its files can't be written: known before hours of work."""
    size = scene.lf.shape[2:4]
    if size != (side, side):
        raise ValueError(f"{scene.name}: the benchmark's views are {side} x {side} pixels, these are {size[0]} x {size[1]}; export the original scene")
    for file in _submitted(out, scene.name):
        check_target(file)


def _submitted(out: str | Path, name: str) -> tuple[Path, Path]:
    """Where a scene's disparity and runtime lie."""
    return Path(out) / "disp_maps" / f"{name}.pfm", Path(out) / "runtimes" / f"{name}.txt"


def export_scene(out: str | Path, scene: Scene, predict: Callable[[Scene], tuple[np.ndarray, float]], side: int = SIDE) -> None:
    """Writes disp_maps/<scene>.pfm and runtimes/<scene>.txt.

    Args:
        out: the submission's folder.
        scene: of the benchmark.
        predict: gives the scene's disparity 'h w', pixels per view step, and the seconds that it took.
        side: pixels a side that the benchmark wants.

    Raises:
        ValueError: when the views are of another size, the disparity holds a NaN, or the files can't be written.
    """
    check_export(out, scene, side)
    disp, seconds = predict(scene)
    if not np.isfinite(disp).all():
        raise ValueError(f"{scene.name}: {int((~np.isfinite(disp)).sum())} pixels of the prediction are not finite; use other weights")
    map_file, time_file = _submitted(out, scene.name)
    write_pfm(map_file, disp)
    write_text(time_file, f"{seconds:.10f}")


def check_submission(out: str | Path, side: int = SIDE) -> dict[str, str]:
    """What the benchmark's validator would refuse, by scene: a file that is missing, a map of another size, a runtime that is no number."""
    faults = {}
    for name in SCENES:
        disp, runtime = _submitted(out, name)
        missing = [str(file.relative_to(out)) for file in (disp, runtime) if not file.exists()]
        if missing:
            faults[name] = f"no {' and no '.join(missing)}"
            continue
        try:
            size = read_pfm(disp).shape
            float(runtime.read_text().split("\n")[0])
        except ValueError as error:
            faults[name] = str(error)
            continue
        if size != (side, side):
            faults[name] = f"{disp.relative_to(out)} has {size[0]} x {size[1]} pixels, not {side} x {side}"
    return faults

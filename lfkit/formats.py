"""The layouts in which others publish light fields: folders of views, HCI's camera file, INRIA's maps, and one picture of all views."""

import configparser
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
from einops import rearrange, reduce

from lfkit.files import IMAGE_SUFFIXES, read_array, read_image, read_pfm, read_pixels

LAYOUTS = ("grid", "lenslet")
LYTRO_VIEWS = 14  # pixels behind a lenslet, as Lytro's own software and Stanford's archive (*_eslf.png) write them
LYTRO_MIDDLE = 9  # of those 14 the outer ones are dark
VIEWS_NUMS = (3, 5, 7, 9, 11, 13, 14, 15, 17)  # views a side that are tried where nobody tells
SMALLEST_VIEW = 16  # pixels; a picture's size divides into too many smaller ones
PLAIN_SEAM = 1.28  # how much rougher than the rest seams are at least where views meet; where there are none it is about 1.0, at most 1.27 of 32 readings
ALIKE = 0.6  # how much neighbouring views differ at most, in parts of how much the picture varies; parts of a single view differ about as much as it varies
COARSE = 8   # pixels that are averaged before views are compared: more than a disparity moves
CAMERA = {"intrinsics": ("focal_length_mm", "image_resolution_x_px", "image_resolution_y_px", "sensor_size_mm"),
          "extrinsics": ("num_cams_x", "num_cams_y", "baseline_mm", "focus_distance_m")}

UNREAD = (".exr", ".hdr", ".mat", ".npz", ".tif", ".tiff", ".jpg", ".bmp")  # in which others keep maps and masks
TRUTH_FILES = {"bg_disp": ("bg_disp.npy", "bg_disp.pfm", "gt_disp_lowres.pfm"), "fg_disp": ("fg_disp.npy", "fg_disp.pfm", "fg_disp_lowres.pfm"), "mask": ("mask.png", "mask.npy")}
ACROSS, DOWN = re.compile(r"(x|col|column|(?<![a-z])c)[-_ ]*$", re.I), re.compile(r"(y|row|(?<![a-z])r)[-_ ]*$", re.I)  # before a number in a name: a column, a row


# folders of views

def read_folder(folder: Path, truth: bool = True) -> dict[str, np.ndarray | None]:
    """The views of a folder, with whatever truth lies beside them: an HCI folder, INRIA's, or any folder of views.

    Args:
        folder: pictures in row-major order, or with row and column in their names, in this order unless x and y, col and row, or c and r stand before the numbers; views are taken as they come, 8 bits a channel.
        truth: False leaves it alone, and gives lf.

    Returns:
        lf, bg_disp, fg_disp, mask and gt_data, as `Scene` takes them; None where there is no file (TRUTH_FILES, of which the first counts). The first of these is the background's
        disparity: bg_disp.npy, bg_disp.pfm, gt_disp_lowres.pfm, INRIA's disparity_<row>_<column>.npy of the centre view, gt_depth_lowres.pfm with its camera.
        HCI's highres maps are ten times as large as the views, and are left alone.

    Raises:
        FileNotFoundError: when there are no views.
        ValueError: when views are missing or differ in size, a map is damaged or of a kind that is not read, or the camera file is not one of HCI's.

    Source: 4D Light Field Benchmark, https://lightfield-analysis.uni-konstanz.de. INRIA's DLFD and SLFD: Shi, Jiang and Guillemot, "A framework for
    learning depth from a flexible subset of dense and sparse light field views", IEEE TIP 28(12), 2019; names (lf_1_1.png ... lf_9_9.png,
    disparity_5_5.npy; row, then column) as in published code that reads it. Its sign is taken to be HCI's and ours, positive for near,
    as code that reads both sets warps them alike; no sample was at hand to check it on.
    """
    camera = read_camera(folder / "parameters.cfg")
    files = view_files(folder, camera)
    lf = _read_view_files(files)
    if not truth:
        return {"lf": lf}
    centre = lf.shape[0] ** 2 // 2
    bg_disp = _optional(folder, *TRUTH_FILES["bg_disp"])
    if bg_disp is None:
        bg_disp = _inria_disp(folder, files[centre])
    if bg_disp is None and (folder / "gt_depth_lowres.pfm").exists():
        bg_disp = _disp_of_depth(folder / "gt_depth_lowres.pfm", camera, lf.shape[2:4])
    return {"lf": lf, "bg_disp": bg_disp, "fg_disp": _optional(folder, *TRUTH_FILES["fg_disp"]), "mask": _mask(folder), "gt_data": _optional(folder, f"clean_Cam{centre:03d}.png")}


def view_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, sorted, but for truth and for what `python -m lfkit predict` writes."""
    other = re.compile(r"(masks?|clean|gt|center|centre|objectids|(disp|disparity|depth)(map|s)?)(?![a-z])|.*_(bg_disp|fg_disp|centre)\.png$", re.I)
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".") and not other.match(f.name))


def view_files(folder: Path, camera: dict | None = None) -> list[Path]:
    """The views of a folder in row-major order: input_Cam*.png where there are any, else all pictures, by the numbers that tell their names apart.

    Raises:
        FileNotFoundError: when there are none.
        ValueError: when some names have more numbers than others, or they do not fill an odd square grid (the camera's, where it tells one); the sentence names those that are missing.
    """
    files = sorted(folder.glob("input_Cam*.png")) or view_pictures(folder)
    if not files and (passed := [f.name for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".")]):
        raise FileNotFoundError(f"{folder}: no views in it but pictures such as {min(passed)}, whose names are kept for truth and predictions; if these are the views name them input_Cam000.png ...")
    if not files:
        raise FileNotFoundError(f"{folder}: no views in it; a scene is a folder of pictures (input_Cam000.png ...), one picture of all views, or an .npy file")
    numbers = [_numbers(f) for f in files]
    places, telling = None, []
    usual, _ = Counter(map(len, numbers)).most_common(1)[0]
    if odd := [file for file, n in zip(files, numbers) if len(n) != usual]:
        other = next(file for file, n in zip(files, numbers) if len(n) == usual)
        raise ValueError(f"{folder}: the numbers in {odd[0].name} are not as many as in {other.name}, which leaves the order of the views open; name all alike, or take it away if it is no view")
    if usual:
        telling = [k for k, values in enumerate(zip(*numbers)) if len(set(values)) > 1]
        in_rows = len(telling) > 1 and len({n[telling[0]] for n in numbers}) < len(files)
        telling = telling[:2] if in_rows else telling[:1]
        if in_rows and all(sign.search(re.split(r"\d+", files[0].stem)[k]) for sign, k in zip((ACROSS, DOWN), telling)):
            telling.reverse()
        places, files = zip(*sorted((tuple(n[k] for k in telling), file) for n, file in zip(numbers, files)))
    side = int(max(camera["extrinsics"][f"num_cams_{axis}"] for axis in "xy")) if camera else 0
    if 0 < side**2 < len(files):
        raise ValueError(f"{folder / 'parameters.cfg'}: the camera has {side} x {side} views, {len(files)} are there; correct it, or take views away")
    _check_grid(folder, list(files), places, telling, side)
    return list(files)


def _numbers(file: Path) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", file.stem)]


def _check_grid(folder: Path, files: list[Path], places: list[tuple] | None, telling: list[int], side: int) -> None:
    """ValueError unless the files fill an odd square grid; places are the numbers in their names: (index,) or (row, column)."""
    lows, highs = ([end(values) for values in zip(*places)] for end in (min, max)) if places else ([], [])
    if not side:
        side = max(high - low + 1 for low, high in zip(lows, highs)) if len(telling) == 2 else math.ceil(math.sqrt(len(files)))
        side += 1 - side % 2
    wanted = set()
    if len(telling) == 2:
        first = [low if high - low + 1 == side else min(lows) for low, high in zip(lows, highs)]  # where rows are missing, columns tell from where they are counted
        wanted = {(first[0] + row, first[1] + column) for row in range(side) for column in range(side)}
    elif telling:
        first = lows[0] if len(files) == highs[0] - lows[0] + 1 == side**2 else 1 if (0,) not in places and (side**2,) in places else 0
        wanted = {(first + k,) for k in range(side**2)}
    if telling and len(set(places)) < len(places):
        twice = next(k for k in range(1, len(places)) if places[k] == places[k - 1])
        signed = re.search(r"[_x,(]-\d", files[twice - 1].name + files[twice].name)
        raise ValueError(f"{folder}: {files[twice - 1].name} and {files[twice].name} are the same view by their numbers; " +
                         ("signs are not read, number rows and columns from 0" if signed else "take one away"))
    missing = sorted(wanted - set(places or ()))
    if len(files) == side**2 and not missing:
        return
    message = f"{folder}: {len(files)} views; a scene has 9, 25, 49, 81 ... of them"
    if missing:
        named = ", ".join(_renamed(files[0], dict(zip(telling, place))) for place in missing[:5])
        message += f"; missing for {side} x {side}: {named}" + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    raise ValueError(message)


def _renamed(file: Path, places: dict[int, int]) -> str:
    """The file's name with other numbers at the given positions."""
    parts = re.split(r"(\d+)", file.stem)
    for k, number in places.items():
        parts[2 * k + 1] = str(number).zfill(len(parts[2 * k + 1]))
    return "".join(parts) + file.suffix


def _read_view_files(files: list[Path]) -> np.ndarray:
    """Views in row-major order as uint8 'u v h w c'."""
    side = math.isqrt(len(files))
    first = read_image(files[0])
    out = np.empty((side, side, *first.shape), np.uint8)
    for n, file in enumerate(files):
        image = first if n == 0 else read_image(file)
        if image.shape != first.shape:
            raise ValueError(f"{file}: {image.shape[0]} x {image.shape[1]} pixels, but {files[0].name} has "
                             f"{first.shape[0]} x {first.shape[1]}; all views must be of one size")
        out[divmod(n, side)] = image
    return out


def _optional(folder: Path, *names: str) -> np.ndarray | None:
    """The first of the named files that is there, read by its kind; ValueError where it is there in another kind alone."""
    for name in names:
        path = folder / name
        if path.exists():
            return read_pfm(path) if path.suffix == ".pfm" else read_image(path) if path.suffix == ".png" else np.array(read_array(path))
    if unread := [path for name in names for suffix in UNREAD if (path := (folder / name).with_suffix(suffix)).exists()]:
        raise ValueError(f"{unread[0]}: {unread[0].suffix} is not read, expected {' or '.join(names)}; save it as one of these, or take it away")
    return None


def _mask(folder: Path) -> np.ndarray | None:
    """The mask 'h w' beside the views, bytes or as it is stored; of a picture the strongest colour, or the transparency where the colours are the same all over."""
    if not (folder / "mask.png").exists():
        return _optional(folder, *TRUTH_FILES["mask"])
    mask = read_pixels(folder / "mask.png")
    if mask.ndim == 3:
        alpha, colours = mask[..., -1], mask[..., :(mask.shape[2] - 1) // 2 * 2 + 1]  # one colour or three
        mask = alpha if mask.shape[2] in (2, 4) and np.ptp(colours, (0, 1)).max() == 0 < np.ptp(alpha) else colours.max(2)
    return mask // 257 if mask.dtype == np.uint16 and mask.max(initial=0) > 255 else mask


def _inria_disp(folder: Path, centre: Path) -> np.ndarray | None:
    """The centre view's disparity: the map, in the folder or one below, that ends in the centre view's row and column."""
    place = _numbers(centre)[-2:]
    found = [f for f in sorted([*folder.glob("*disp*.npy"), *folder.glob("*/*disp*.npy")]) if len(place) == 2 and _numbers(f)[-2:] == place]
    if len(found) > 1:
        raise ValueError(f"{folder}: {len(found)} disparity maps of the centre view {centre.name}, {found[0].name} and {found[1]}; leave one")
    return np.array(read_array(found[0])) if found else None


# HCI's camera

def read_camera(path: Path) -> dict[str, dict[str, float]] | None:
    """The numbers of an HCI camera file by section, None where there is no file.

    Raises:
        ValueError: when the file is not one of HCI's.
    """
    if not path.exists():
        return None
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: unknown camera file ({str(error).splitlines()[0]}); expected HCI's, with [intrinsics] and [extrinsics]; correct or remove it") from error
    camera = {section: {} for section in CAMERA}
    for section, key in ((section, key) for section, keys in CAMERA.items() for key in keys):
        text = parser.get(section, key, fallback="missing")
        try:
            camera[section][key] = float(text)
        except ValueError:
            raise ValueError(f"{path}: unknown camera file, [{section}] {key} is {text}; expected HCI's, with a number there; correct or remove it") from None
        if not 0 < camera[section][key] < math.inf:
            raise ValueError(f"{path}: [{section}] {key} is {text}, expected a number above 0")
    return camera


def depth_to_disp(depth: np.ndarray, camera: dict[str, dict[str, float]]) -> np.ndarray:
    """Disparity of a depth map by HCI's camera: b * f * W / (1000 * Z * s) - b * f * W / (1000 * focus * s).

    Args:
        depth: 'h w' float32, metres, above 0.
        camera: from `read_camera`.

    Returns:
        'h w' float32, pixels per view step, positive = nearer than the plane of focus.

    Source: evaluation toolkit of the 4D Light Field Benchmark, depth2disp; W is the longer side in pixels, s the sensor's in mm.

    >>> camera = {"intrinsics": {"focal_length_mm": 100, "sensor_size_mm": 35, "image_resolution_x_px": 512, "image_resolution_y_px": 512},
    ...           "extrinsics": {"baseline_mm": 60, "focus_distance_m": 8}}
    >>> print(depth_to_disp(np.float32([[4, 8]]), camera).round(2))   # 60 * 100 * 512 / 35000 = 87.77 pixel metres, over 4 and over 8
    [[10.97  0.  ]]
    """
    inner, outer = camera["intrinsics"], camera["extrinsics"]
    width = max(inner["image_resolution_x_px"], inner["image_resolution_y_px"])
    pixel_metres = outer["baseline_mm"] * inner["focal_length_mm"] * width / (1000 * inner["sensor_size_mm"])
    return (pixel_metres / depth - pixel_metres / outer["focus_distance_m"]).astype(np.float32)


def _disp_of_depth(path: Path, camera: dict | None, size: tuple[int, int]) -> np.ndarray:
    if camera is None:
        raise ValueError(f"{path}: depth becomes disparity by the camera in parameters.cfg, which is not beside it; add that file, or take the map away")
    told = tuple(int(camera["intrinsics"][f"image_resolution_{axis}_px"]) for axis in "yx")
    if told != tuple(size):
        raise ValueError(f"{path.parent / 'parameters.cfg'}: the camera has {told[0]} x {told[1]} pixels, the views {size[0]} x {size[1]}; correct it")
    depth = read_pfm(path)
    if not (np.isfinite(depth) & (depth > 0)).all():
        raise ValueError(f"{path}: {int((~(np.isfinite(depth) & (depth > 0))).sum())} depths are not above 0 m; fill them before reading")
    return depth_to_disp(depth, camera)


# one picture of all views

def read_picture(path: Path, layout: str | None = None, views_num: int | None = None) -> np.ndarray:
    """The views of one picture that holds all of them, side by side (a grid) or pixel by pixel behind lenslets.

    Args:
        path: a picture; *_eslf.png is known to be Lytro's 14 x 14 lenslet mosaic.
        layout: "grid" (view u, v is a block) or "lenslet" (pixel [y * n + u, x * n + v] is view u, v at y, x); None finds it.
        views_num: views a side in the picture, n; None finds it. Of Lytro's 14 the middle 9 are taken, of another even number the middle odd one less.

    Returns:
        'u v h w c' uint8.

    Raises:
        ValueError: when the size does not divide by the views, or neither layout nor number can be told from the picture.

    Source: Stanford Lytro Light Field Archive, http://lightfields.stanford.edu/LF2016.html
    """
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"layout must be 'grid' or 'lenslet': got {layout!r}")
    if views_num is not None and views_num < 3:
        raise ValueError(f"views_num, the views a side of {path}, must be at least 3: got {views_num}")
    image = read_image(path)
    height, width = image.shape[:2]
    if path.stem.lower().endswith("_eslf"):
        layout, views_num = layout or "lenslet", views_num or LYTRO_VIEWS
    numbers = [n for n in ([views_num] if views_num else VIEWS_NUMS) if height % n == width % n == 0]
    numbers = [n for n in numbers if views_num or min(height, width) >= SMALLEST_VIEW * n]
    if not numbers:
        wanted = f"{views_num} x {views_num} views" if views_num else f"a square grid of {', '.join(map(str, VIEWS_NUMS))} views a side"
        raise ValueError(f"{path}: {height} x {width} pixels do not divide into {wanted}; crop it, or tell the views a side (views_num, --picture_views)")
    if not views_num or not layout:
        layout, views_num = _found_layout(path, image, numbers, layout, told=bool(views_num))
    side = LYTRO_MIDDLE if views_num == LYTRO_VIEWS else views_num - (1 - views_num % 2)
    middle = slice((views_num - side) // 2, (views_num - side) // 2 + side)
    return np.ascontiguousarray(unfold(image, layout, views_num)[middle, middle])


def _found_layout(path: Path, image: np.ndarray, numbers: list[int], layout: str | None, told: bool) -> tuple[str, int]:
    """The layout and views a side of the plainest seams between views and the smoothest views; ValueError where no seams are seen, or what they part is unlike."""
    readings = [(seams(image, way, n), way, n) for n in numbers for way in ([layout] if layout else LAYOUTS)]
    readings = [reading for reading in readings if told or (reading[0] >= PLAIN_SEAM and unlikeness(image, *reading[1:]) <= ALIKE)]
    if not readings:
        raise ValueError(f"{path}: no seams between like views are seen at {', '.join(map(str, numbers))} views a side; tell them (views_num, --picture_views) and the layout")
    return max(readings, key=lambda reading: reading[0] / max(roughness(image, *reading[1:]), 1e-6))[1:]


def unfold(image: np.ndarray, layout: str, n: int) -> np.ndarray:
    """'u v h w c' of a picture 'h w c' with n x n views; a view of its memory."""
    return rearrange(image, "(u h) (v w) c -> u v h w c" if layout == "grid" else "(h u) (w v) c -> u v h w c", u=n, v=n)


def roughness(image: np.ndarray, layout: str, n: int) -> float:
    """Mean absolute difference of neighbouring pixels and of neighbouring views, in the middle 3 x 3 views: least where the picture is read rightly."""
    lf, c = unfold(image[..., 1:2], layout, n), n // 2
    middle = lf[c - 1:c + 2, c - 1:c + 2].astype(np.int16)
    return sum(float(np.abs(np.diff(middle, axis=axis)).mean()) for axis in range(4))


def unlikeness(image: np.ndarray, layout: str, n: int) -> float:
    """Mean absolute difference of neighbouring views, of the middle 3 x 3, in parts of their mean absolute deviation, both of averages over COARSE pixels."""
    lf, c = unfold(image[..., 1:2], layout, n)[..., 0], n // 2
    middle = lf[c - 1:c + 2, c - 1:c + 2].astype(np.float64)
    cell = min(COARSE, *middle.shape[2:])
    h, w = (side // cell * cell for side in middle.shape[2:])
    coarse = reduce(middle[..., :h, :w], "u v (h a) (w b) -> u v h w", "mean", a=cell, b=cell)
    step = sum(float(np.abs(np.diff(coarse, axis=axis)).mean()) for axis in (0, 1)) / 2
    return step / max(float(np.abs(coarse - coarse.mean()).mean()), 1e-6)


def seams(image: np.ndarray, layout: str, n: int) -> float:
    """How much more neighbouring pixels differ where two views meet (a grid), or at the worst place under each lenslet, than elsewhere; along the axis where it is less.

    Where nothing repeats it is about 1; of 3 x 3 views behind lenslets one in four shows no more than that. Dark rims put a lenslet's worst place beside the seam, hence any place there.
    """
    ratios = []
    for axis in (0, 1):
        steps = np.abs(np.diff(image[..., 1].astype(np.int16), axis=axis)).mean(axis=1 - axis)
        period = image.shape[axis] // n if layout == "grid" else n
        places = np.arange(1, len(steps) + 1) % period
        folded = np.bincount(places, steps) / np.bincount(places)
        worst = 0 if layout == "grid" else int(folded.argmax())
        ratios.append(float(folded[worst]) / max(float(np.delete(folded, worst).mean()), 1e-6))
    return min(ratios)

"""Light fields on disk and in memory: one type, one reader, checked at the door."""

import math
import re
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lfkit.files import IMAGE_SUFFIXES, as_byte, as_float, check_kind, existing, read_array, write_array, write_pfm, write_picture, write_text
from lfkit.formats import TRUTH_FILES, read_folder, read_picture, view_pictures

RANGE_SLACK = 1e-3  # an interpolated float view may leave [0, 1] by rounding, not by more
BEHIND, BEHIND_SHARE = 0.1, 0.05  # pixels per view step that the first surface may lie behind the background, and the share of the pixels where by more
NOTE_PARTS = {"bg_disp": "bgDisparity", "fg_disp": "fgDisparity", "mask": "mask", "gt_data": "gt"}
SCENE_LISTS = ("testing_images.txt", "debug_testing_images.txt")


@dataclass
class Scene:
    """A light field and what is known of it.

    Attributes:
        name: the scene's name, used for files.
        lf: 'u v h w c', uint8 (0 to 255) or float32 ([0, 1]), in memory or memory-mapped; u and v odd and equal, c = 3.
        bg_disp: 'h w' float32, the background's disparity in pixels per view step, or None.
        fg_disp: 'h w' float32, disparity of the first surface that the centre view hits, or None.
        mask: 'h w' bool, where an occluder covers the centre view; of both layers' disparities alone, where fg_disp is the larger; or None.
        gt_data: 'h w c', uint8 or float32 as lf, the centre view without its occluders, or None.

    Raises:
        ValueError: when a part has the wrong rank, size, type or range, or holds a NaN.
    """

    name: str
    lf: np.ndarray
    bg_disp: np.ndarray | None = None
    fg_disp: np.ndarray | None = None
    mask: np.ndarray | None = None
    gt_data: np.ndarray | None = None

    def __post_init__(self):
        check_views(self.lf, self.name)
        size = self.lf.shape[2:4]
        for part in ("bg_disp", "fg_disp"):
            if (disp := getattr(self, part)) is not None:
                with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite, and is refused so
                    disp = np.ascontiguousarray(check_map(disp, size, f"{self.name}: {part}"), np.float32)
                setattr(self, part, check_map(disp, size, f"{self.name}: {part}, as float32,"))
        if self.mask is not None:
            mask = check_map(self.mask, size, f"{self.name}: mask")
            if 1 < (most := mask.max(initial=0)) < 128:
                raise ValueError(f"{self.name}: the mask's greatest value is {most:g}, expected 1 or 255 where the occluder covers; scale it")
            self.mask = mask >= (0.5 if most <= 1 else 128)
        if self.two_layers and (behind := float((self.fg_disp < self.bg_disp - BEHIND).mean())) > BEHIND_SHARE:
            raise ValueError(f"{self.name}: fg_disp, of the first surface, lies behind bg_disp in {100 * behind:.0f} % of the pixels; exchange the two, or turn the sign of both")
        if self.two_layers and self.mask is None:
            self.mask = self.fg_disp > self.bg_disp
        if self.gt_data is not None:
            check_image(self.gt_data, f"{self.name}: gt_data")
            if self.gt_data.shape != (*size, 3):
                raise ValueError(f"{self.name}: gt_data has shape {self.gt_data.shape}, expected {(*size, 3)} as the views")

    @property
    def two_layers(self) -> bool:
        """Whether the truth of both layers is there."""
        return self.fg_disp is not None and self.bg_disp is not None

    @property
    def views_num(self) -> int:
        """Views a side of the grid."""
        return self.lf.shape[0]

    @property
    def centre(self) -> np.ndarray:
        """The centre view, 'h w c', as stored."""
        return self.lf[self.views_num // 2, self.views_num // 2]

    def middle(self, views_num: int) -> "Scene":
        """The scene with the middle views_num x views_num of its views."""
        if views_num % 2 == 0 or not 3 <= views_num <= self.views_num:
            raise ValueError(f"{self.name}: has {self.views_num} x {self.views_num} views; the middle {views_num} x {views_num} were "
                             f"asked for: use --views_num {self.views_num} or a smaller odd number in training, and then the weights that were trained so")
        start = (self.views_num - views_num) // 2
        middle, chosen = copy(self), slice(start, start + views_num)  # not checked once more, which reads all views
        middle.lf = self.lf[chosen, chosen]
        return middle


def check_image(image: np.ndarray, where: str) -> None:
    """ValueError unless the array is uint8, or floats in [0, 1] without a NaN; it is read slab by slab."""
    if check_kind(image, where).dtype == np.uint8:
        return
    for slab in image:
        low, high = float(slab.min()), float(slab.max())
        if math.isnan(low) or math.isnan(high):
            raise ValueError(f"{where}: {int(np.isnan(slab).sum())} NaN values in one slab; fill them before saving")
        if low < -RANGE_SLACK or high > 1 + RANGE_SLACK:
            raise ValueError(f"{where}: float pixels must lie in [0, 1], got {low:g} to {high:g}; divide by 255 or save as uint8")


def check_views(lf: np.ndarray, where: str) -> None:
    """ValueError unless lf is a light field 'u v h w c' with an odd square grid of views."""
    if lf.ndim != 5 or lf.shape[-1] != 3:
        raise ValueError(f"{where}: a light field is 'u v h w c' with c = 3, got shape {lf.shape}; reorder or reshape the axes, repeat grey, and leave out alpha before saving")
    u, v = lf.shape[:2]
    if not lf.size:
        raise ValueError(f"{where}: has no pixels, its shape is {lf.shape}; save the views again")
    if u != v or u % 2 == 0 or u < 3:
        raise ValueError(f"{where}: the grid of views must be square and odd, at least 3 x 3, got {u} x {v}; leave out the outer ones")
    check_image(lf, where)


def check_map(values: np.ndarray, size: tuple, where: str) -> np.ndarray:
    """A map 'h w' as it is; ValueError unless it is of the views' size, and of finite numbers."""
    values = np.asarray(values)
    if values.shape != size:
        raise ValueError(f"{where} has shape {values.shape}, the views are {size}; give one 'h w' map of the views' size")
    if values.dtype != bool and not np.issubdtype(values.dtype, np.number):
        raise ValueError(f"{where} holds {values.dtype}, expected numbers such as float32")
    if not np.isfinite(values).all():
        raise ValueError(f"{where} has {int((~np.isfinite(values)).sum())} NaN or infinite pixels of {values.size}; fill them first")
    return values


# scenes

def load_scene(path: str | Path, layout: str | None = None, views_num: int | None = None, truth: bool = True) -> Scene:
    """Reads a scene from wherever it lies.

    Args:
        path: an .npy file 'u v h w c' (uint8, or floats in [0, 1]), one in a folder named LFs brings the maps of bgDisparity, fgDisparity, mask
            and gt beside it; a folder of views (HCI's, INRIA's, any in row-major order, see `lfkit.formats.read_folder`); or one picture that
            holds all views (`lfkit.formats.read_picture`).
        layout: of one picture: "grid" or "lenslet"; None finds it. Other scenes do not ask for it.
        views_num: of one picture: views a side; None finds it.
        truth: whether what is known of it is read with the views.

    Returns:
        A checked `Scene`; .npy views stay memory-mapped.

    Raises:
        FileNotFoundError: when nothing is there, or no view in it.
        ValueError: when something in it is damaged, missing or of the wrong shape, size, type or range; the sentence names the file.
    """
    path = existing(Path(path))
    if path.is_dir():
        return Scene(path.name if path.name not in ("", "..") else path.resolve().name, **read_folder(path, truth))
    if path.suffix.lower() == ".npy":
        files = {part: path.absolute().parents[1] / folder / path.name for part, folder in NOTE_PARTS.items()} if truth and path.absolute().parent.name == "LFs" else {}
        return Scene(path.stem, read_array(path), **{part: np.array(read_array(file)) for part, file in files.items() if file.exists()})
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Scene(path.stem, read_picture(path, layout, views_num))
    raise ValueError(f"{path}: not a scene; pass a folder of views, one picture of all views, or an .npy file")


def save_scene(scene: Scene, root: str | Path, layout: str = "note") -> Path:
    """Writes a scene in the note's layout (root/LFs/<name>.npy ...), as an HCI folder (root/<name>/input_Cam000.png ...), or as one .npy file.

    Args:
        scene: what is written; views as uint8.
        root: data directory, made if missing; for "npy" the file, which holds the views alone. A scene of the same name is replaced.
        layout: "note", "hci" or "npy".

    Returns:
        The path that `load_scene` reads.

    Raises:
        ValueError: when the layout is another, root has a scene of that name in the other layout, or views or maps that are not written lie there and would be read with the scene; nothing is written.
    """
    root, others, byte = Path(root), [], lambda image: None if image is None else as_byte(image)
    if layout == "npy":
        path, files = root, {root: byte(scene.lf)}
        if root.absolute().parent.name == "LFs" and root.exists():  # of a data directory: truth that waits for its views is left to them, truth of other views is not
            others = [root.absolute().parents[1] / folder / root.name for folder in NOTE_PARTS.values()]
    elif layout == "note":
        path = root / "LFs" / f"{scene.name}.npy"
        parts = {"LFs": scene.lf} | {folder: getattr(scene, part) for part, folder in NOTE_PARTS.items()}
        files = {root / folder / path.name: byte(value) if folder in ("LFs", "gt") else value for folder, value in parts.items()}
    elif layout == "hci":
        path, views = root / scene.name, scene.lf.reshape(-1, *scene.lf.shape[2:])
        files = {path / f"input_Cam{n:03d}.png": as_byte(view) for n, view in enumerate(views)}
        files |= {path / "gt_disp_lowres.pfm": scene.bg_disp, path / "bg_disp.npy": scene.bg_disp, path / "fg_disp.npy": scene.fg_disp,
                  path / "mask.png": None if scene.mask is None else scene.mask * np.uint8(255), path / f"clean_Cam{len(views) // 2:03d}.png": byte(scene.gt_data)}
        others = [*path.glob("input_Cam*.png"), *path.glob("clean_Cam*.png"), *(path / name for part, names in TRUTH_FILES.items() if getattr(scene, part) is None for name in names)]
        others += [path / "gt_depth_lowres.pfm"] if scene.bg_disp is None else []
    else:
        raise ValueError(f"layout must be 'note', 'hci' or 'npy': got {layout!r}")
    if layout != "npy" and is_scene(twin := root / scene.name if layout == "note" else root / "LFs" / f"{scene.name}.npy"):
        raise ValueError(f"{root}: has a scene named {scene.name}, {twin}, beside which another would make it no data directory; give another name (--name), or take that one away")
    if left := [file for file in (*files, *others) if files.get(file) is None and file.exists()]:
        raise ValueError(f"{left[0]}: is of an earlier scene, and would be read with {scene.name}, with which none is written; take it away, or write the scene elsewhere")
    for file, value in files.items():
        if value is not None:
            {".pfm": write_pfm, ".png": write_picture}.get(file.suffix, write_array)(file, value)
    return path


# data directories

def is_scene(path: Path) -> bool:
    """Whether a path looks like one scene: an .npy file, a picture, or a folder with pictures in it that is no data directory."""
    if path.is_dir():
        return not any((path / name).exists() for name in ("LFs", *SCENE_LISTS)) and bool(view_pictures(path))
    return path.suffix.lower() in (".npy", *IMAGE_SUFFIXES) and path.exists()


def find_scenes(data_dir: str | Path) -> dict[str, Path]:
    """Every scene of a data directory by name: LFs/*.npy, and each subfolder of views.

    Raises:
        FileNotFoundError: when the directory is missing, or has no scene.
        ValueError: when a file and a folder of views have one name.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such data directory; make one with `python -m lfkit synth --out {root}` or pass --data_dir")
    scenes = {p.stem: p for p in sorted((root / "LFs").glob("[!.]*.npy"))}  # names that begin with a dot are a system's own, such as macOS' ._*
    folders = {p.name: p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".") and p.name not in ("LFs", *NOTE_PARTS.values()) and is_scene(p)}
    if twice := sorted(scenes.keys() & folders.keys()):
        raise ValueError(f"{root}: two scenes are named {twice[0]}, {scenes[twice[0]]} and {folders[twice[0]]}; rename one, or take it away")
    scenes |= folders
    if not scenes:
        raise FileNotFoundError(f"{root}: no scene in it; expected LFs/<scene>.npy, or a folder of views for each scene")
    return scenes


def read_scene_list(data_dir: str | Path, list_name: str) -> dict[str, Path]:
    """The scenes that a list of the data directory names, one a line, and where they are; blank lines and comments, from a # that begins a line or follows a blank, are passed over.

    Raises:
        FileNotFoundError: when the list is not there, or names a scene that is not.
        ValueError: when it is not text in UTF-8.
    """
    file = Path(data_dir) / list_name
    if Path(data_dir).is_dir() and not file.exists():
        raise FileNotFoundError(f"{file}: no such scene list; write the names of the scenes to validate into it, one a line")
    found = find_scenes(data_dir)
    names = _listed(file)
    lost = [name for name in names if name not in found]
    if lost:
        raise FileNotFoundError(f"{file} names {', '.join(lost)}, not in {data_dir}; correct the list or add the scene")
    return {name: found[name] for name in names}


def _listed(file: Path) -> list[str]:
    """The names in a scene list."""
    try:
        text = file.read_text(encoding="utf-8-sig")  # Windows' editors begin a text with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is not text in UTF-8 ({error}); save it as UTF-8") from error
    return [name for line in text.splitlines() if (name := re.split(r"(?:^|\s)#", line)[0].strip())]


def _extend_list(file: Path, names: list[str]) -> None:
    """Adds names to a scene list, which keeps what it has."""
    known, before = (_listed(file), file.read_text(encoding="utf-8-sig")) if file.exists() else ([], "")
    lines = [f"{name}\n" for name in names if name not in known]
    write_text(file, before + ("\n" if before and not before.endswith("\n") else "") + "".join(lines))


def training_scenes(data_dir: str | Path) -> dict[str, Path]:
    """The scenes of a data directory that neither scene list names."""
    tested = {scene for name in SCENE_LISTS if (Path(data_dir) / name).exists() for scene in read_scene_list(data_dir, name)}
    left = {name: path for name, path in find_scenes(data_dir).items() if name not in tested}
    if not left:
        raise FileNotFoundError(f"{data_dir}: no scene to train on, the lists name all of them; add scenes or shorten the lists")
    return left


def write_synthetic(out: str | Path, scenes: int, size: int, seed: int, render) -> list[str]:
    """Writes procedural scenes in the note's layout, with both scene lists, which get no scene in common: what chooses a checkpoint does not judge it. Lists that are there keep their names.

    Args:
        out: data directory.
        scenes: how many, at least 3. The last eighth (at least one) is for testing; of the first eighth a quarter (at least one) is in the short list, which training validates: of those with occluders, where there are some, the middle ones by how much they hide, the lesser of two.
        size: side of the views in pixels.
        seed: the first scene's seed; scene k has seed + k.
        render: `(seed, size) -> Scene`.

    Returns:
        The names of the scenes.

    Raises:
        ValueError: when there are fewer than 3.
    """
    if scenes < 3:
        raise ValueError(f"--scenes must be at least 3, one each to train on, to validate and to test: got {scenes}")
    hidden = {}
    for k in range(scenes):
        scene = render(seed + k, size)
        save_scene(scene, out)
        hidden[scene.name] = float(scene.mask.mean())
    names, held_out = list(hidden), max(1, scenes // 8)
    testing, short = (Path(out) / name for name in SCENE_LISTS)
    validated = _listed(short) if short.exists() else []
    _extend_list(testing, [name for name in names[-held_out:] if name not in validated])
    if not short.exists():
        tested = _listed(testing)
        first = sorted((name for name in names[:held_out] if name not in tested), key=hidden.get)
        first = [name for name in first if hidden[name]] or first
        count = max(1, held_out // 4)
        _extend_list(short, first[max(0, len(first) - count) // 2:][:count])
    return names

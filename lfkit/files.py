"""Single files: pictures, PFM maps and .npy arrays, each checked as it is read."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import imageio.v3 as iio
import numpy as np
from PIL import Image

from lfkit.faults import Fault

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def check_kind(image: np.ndarray, where: str = "image") -> np.ndarray:
    """The array, or a tensor's, when it is uint8 or floats; ValueError otherwise."""
    image = np.asarray(image)
    if image.dtype.newbyteorder("=") not in (np.uint8, np.float16, np.float32, np.float64):
        raise ValueError(f"{where}: pixels are {image.dtype}; pass uint8 (0 to 255) or float32 ([0, 1])")
    return image


def as_float(image: np.ndarray) -> np.ndarray:
    """An image or light field as float32 in [0, 1]; uint8 is divided by 255. ValueError where it is neither uint8 nor floats."""
    image = check_kind(image)
    if image.dtype != np.uint8:
        return np.asarray(image, np.float32)
    return np.divide(np.ascontiguousarray(image), np.float32(255), dtype=np.float32)  # one pass over bytes that lie together


def as_byte(image: np.ndarray) -> np.ndarray:
    """An image or light field as uint8; floats in [0, 1] are rounded. ValueError where it is neither."""
    image = check_kind(image)
    return image if image.dtype == np.uint8 else (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def read_pfm(path: str | Path) -> np.ndarray:
    """A PFM map, 'h w' float32, row 0 at the top (the file stores rows bottom to top).

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no single-channel PFM, or is cut short.

    Source: http://netpbm.sourceforge.net/doc/pfm.html
    """
    data = existing(Path(path)).read_bytes()
    header = re.match(rb"Pf\s+(\d+)\s+(\d+)\s+(-?[\d.eE+-]+)(?:\r\n|\s)", data)
    if not header:
        raise ValueError(f"{path}: not a single-channel PFM (it must begin with 'Pf', width, height and scale)")
    width, height, scale = int(header[1]), int(header[2]), float(header[3])
    body = data[header.end():]
    if len(body) < 4 * width * height:
        raise ValueError(f"{path}: cut short, {len(body)} bytes of pixels where {width} x {height} need {4 * width * height}; copy it again")
    rows = np.frombuffer(body, "<f4" if scale < 0 else ">f4", width * height).reshape(height, width)
    return rows[::-1].astype(np.float32)


def write_pfm(path: str | Path, disp: np.ndarray) -> None:
    """Writes an 'h w' map as little-endian PFM, rows bottom to top."""
    if disp.ndim != 2:
        raise ValueError(f"{path}: a PFM map is 'h w', got shape {disp.shape}")
    header = f"Pf\n{disp.shape[1]} {disp.shape[0]}\n-1.0\n".encode()
    write_whole(path, lambda file: file.write(header + disp[::-1].astype("<f4").tobytes()))


def write_whole(path: str | Path, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file so that the path holds all of the old one or all of the new, whenever the process or the machine dies.

    Args:
        path: the file; its folder is made if missing.
        write: called with a file that is open for binary writing; it becomes the path's once it is on the disk.

    Raises:
        Fault: when it can't be written, such as on a full disk; what was at the path is still there.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if os.name == "posix":  # else a rename is lost with the power; elsewhere a folder can't be opened
            handle = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError as error:
        before = "; the one before it is whole" if path.exists() else ""
        raise Fault(f"{path}: could not be written ({error.strerror or error}){before}; free some space, or correct the folder's rights") from error


def write_array(path: str | Path, array: np.ndarray) -> None:
    """An array as .npy, whole or not at all (`write_whole`): also where it is mapped from the file that it goes to."""
    write_whole(path, lambda file: np.save(file, array))


def write_picture(path: str | Path, image: np.ndarray) -> None:
    """A picture in the format of its suffix, whole or not at all (`write_whole`)."""
    data = iio.imwrite("<bytes>", image, extension=Path(path).suffix)
    write_whole(path, lambda file: file.write(data))


def write_text(path: str | Path, text: str) -> None:
    """A text in UTF-8, whole or not at all (`write_whole`)."""
    write_whole(path, lambda file: file.write(text.encode()))


def existing(path: Path) -> Path:
    """The path, when there is something at it; FileNotFoundError otherwise."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or directory")
    return path


def check_target(file: Path) -> None:
    """ValueError when a file can't be written at a path, since a folder is there, or a file where a folder of it should be, or nothing may be written: known before hours of work."""
    if file.is_dir():
        raise ValueError(f"{file}: is a folder; name a file")
    if blocked := [folder for folder in file.parents if not folder.is_dir() and (folder.exists() or folder.is_symlink())]:
        raise ValueError(f"{file}: can't be written, {blocked[0]} is {'a file' if blocked[0].exists() else 'a link to a folder that is not there'}; name another place")
    if file.exists() and not os.access(file, os.W_OK):
        raise ValueError(f"{file}: can't be written, it may only be read; name another place")
    there = next(folder for folder in file.absolute().parents if folder.exists())
    if not os.access(there, os.W_OK):
        raise ValueError(f"{file}: can't be written, nothing may be written in {there}; name another place")


def read_array(path: Path) -> np.ndarray:
    """An .npy array of numbers, memory-mapped; ValueError when it is cut short or holds objects."""
    existing(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        reason = str(error).split(" If you trust")[0].rstrip(".")  # numpy goes on with how to read what may run anything
        raise ValueError(f"{path}: not a readable .npy array ({reason}); save it again with numpy.save") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{path}: is an archive of arrays, as numpy.savez writes, not an .npy array; save one array with numpy.save")
    return array


def read_pixels(path: Path) -> np.ndarray:
    """A picture's pixels as they are stored, with the transparency of a PNG's palette or of its one transparent colour as alpha; ValueError when it is cut short, or of printing colours."""
    mode, clear = "", False
    with suppress(Exception), Image.open(path) as picture:  # its header alone; of a kind that pillow does not know, or damaged, imageio says so
        mode, clear = picture.mode, "transparency" in picture.info
    if mode == "CMYK":
        raise ValueError(f"{path}: is in the printing colours CMYK, expected RGB or grey; save it as RGB")
    try:
        return iio.imread(path, mode="RGBA") if clear and mode in ("P", "L", "RGB") else iio.imread(path)
    except PermissionError:
        raise
    except Exception as error:  # every image plugin raises its own kind for a damaged file
        reason = "of no known kind" if "backend" in str(error) else str(error).splitlines()[0] if str(error) else type(error).__name__  # imageio names plugins to install
        raise ValueError(f"{path}: not a readable picture ({reason}); copy it again") from error


def read_image(path: Path) -> np.ndarray:
    """A picture of 1, 8 or 16 bits as uint8 'h w c', grey repeated and alpha dropped; ValueError when it is cut short, or of printing colours."""
    image = read_pixels(existing(path))
    if image.dtype == np.uint16:
        image = ((image + np.uint32(128)) // 257).astype(np.uint8)
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    if image.ndim not in (2, 3) or image.ndim == 3 and image.shape[2] > 4:
        raise ValueError(f"{path}: holds {' x '.join(map(str, image.shape))} values, expected one picture, 'h w' or 'h w c' of up to 4 channels; save each of its pages as a file")
    if image.dtype != np.uint8:
        raise ValueError(f"{path}: pixels are {image.dtype}, expected 1, 8 or 16 bits a channel; save it as a PNG of 8 bits")
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    return np.repeat(image[..., :1], 3, axis=2) if image.shape[2] < 3 else image[..., :3]

import re

import imageio.v3 as iio
import numpy as np
import pytest

import lfkit
from lfkit.files import read_pfm
from lfkit.hci import SCENES, check_submission, export_scene, find_benchmark_scenes, read_hci_masks


def hci_scene(folder, name, size=16):
    lf = np.random.default_rng(0).integers(0, 256, (3, 3, size, size, 3), np.uint8)
    return lfkit.save_scene(lfkit.Scene(name, lf, np.zeros((size, size))), folder, "hci")


def read_as_the_toolkit_does(path):
    """The toolkit's reader, in short: three header lines, then raw floats to the end of the file, bottom row first."""
    with open(path, "rb") as file:
        kind, dimensions, scale = (file.readline().decode().rstrip() for _ in range(3))
        data = np.fromfile(file, "<f" if float(scale) < 0 else ">f")
    width, height = map(int, dimensions.split(" "))
    assert kind == "Pf" and float(scale) != 0
    return np.flipud(data.reshape(height, width)) * abs(float(scale))


def test_masks_low_and_high(tmp_path):
    folder, fine = hci_scene(tmp_path, "dino"), np.zeros((16, 16), np.uint8)
    fine[3, 5] = 255
    iio.imwrite(folder / "mask_fine_lowres.png", fine)
    high = np.zeros((160, 160), np.uint8)
    high[20:30, 40:50] = 1
    iio.imwrite(folder / "mask_planes_highres.png", high)
    masks = read_hci_masks(folder, (16, 16))
    assert set(masks) == {"fine", "planes"} and np.argwhere(masks["fine"]).tolist() == [[3, 5]] and np.argwhere(masks["planes"]).tolist() == [[2, 4]]
    assert lfkit.load_scene(folder).lf.shape[2:4] == (16, 16)  # and they are not taken for views
    for mask in (np.uint16(fine > 0), np.dstack([fine, np.full_like(fine, 255)]), np.dstack([fine > 0, 0 * fine, 0 * fine]).astype(np.uint8)):  # of 16 bits, with transparency, of three colours
        iio.imwrite(folder / "mask_fine_lowres.png", mask)
        assert np.argwhere(read_hci_masks(folder, (16, 16))["fine"]).tolist() == [[3, 5]]
    iio.imwrite(folder / "mask_smooth_surfaces_lowres.png", fine[:12])
    with pytest.raises(ValueError, match="its 12 x 16 pixels do not fit views of 16 x 16"):
        read_hci_masks(folder, (16, 16))
    iio.imwrite(folder / "mask_smooth_surfaces_lowres.png", high[:, :150])
    with pytest.raises(ValueError, match="its 160 x 150 pixels do not fit views of 16 x 16"):
        read_hci_masks(folder, (16, 16))
    assert read_hci_masks(tmp_path / "scene.npy", (16, 16)) == {}


def test_scenes_are_found_where_the_download_has_them(tmp_path):
    for folder, name in (("training", "dino"), ("training", "boxes"), ("stratified", "dots"), ("additional", "antinous")):
        hci_scene(tmp_path / folder, name)
    assert list(find_benchmark_scenes([tmp_path])) == ["dots", "boxes", "dino"]
    assert list(find_benchmark_scenes([tmp_path / "training", tmp_path / "stratified" / "dots"])) == ["dots", "boxes", "dino"]
    (tmp_path / "a").mkdir()
    iio.imwrite(tmp_path / "a" / "dino.png", np.zeros((16, 16, 3), np.uint8))
    assert find_benchmark_scenes([tmp_path])["dino"] == tmp_path / "training" / "dino"  # not the preview
    with pytest.raises(FileNotFoundError, match="none of the benchmark's scenes"):
        find_benchmark_scenes([tmp_path / "additional"])
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or directory"):
        find_benchmark_scenes(["nowhere"])


def test_a_submission_as_the_validator_reads_it(tmp_path):
    disp = np.arange(256, dtype=np.float32).reshape(16, 16) / 100
    for name in SCENES:
        export_scene(tmp_path / "out", lfkit.Scene(name, np.zeros((3, 3, 16, 16, 3), np.uint8)), lambda scene: (disp, 1.5), side=16)
    assert check_submission(tmp_path / "out", 16) == {}
    assert np.array_equal(read_as_the_toolkit_does(tmp_path / "out" / "disp_maps" / "herbs.pfm"), disp)
    assert np.array_equal(read_pfm(tmp_path / "out" / "disp_maps" / "herbs.pfm"), disp)
    assert re.fullmatch(r"\d+\.\d+", (tmp_path / "out" / "runtimes" / "dots.txt").read_text())
    assert len(SCENES) == 12 and check_submission(tmp_path / "out")["dots"] == "disp_maps/dots.pfm has 16 x 16 pixels, not 512 x 512"


def test_what_the_validator_would_refuse(tmp_path):
    export_scene(tmp_path, lfkit.Scene("dots", np.zeros((3, 3, 16, 16, 3), np.uint8)), lambda scene: (np.zeros((16, 16)), 1.5), side=16)
    faults = check_submission(tmp_path, 16)
    assert set(faults) == set(SCENES) - {"dots"} and faults["dino"] == "no disp_maps/dino.pfm and no runtimes/dino.txt"
    (tmp_path / "runtimes" / "dots.txt").write_text("soon")
    assert "could not convert" in check_submission(tmp_path, 16)["dots"]
    (tmp_path / "disp_maps" / "dots.pfm").write_bytes(b"Pf\n16 16\n-1\n")
    assert "cut short" in check_submission(tmp_path, 16)["dots"]


def test_what_is_not_exported(tmp_path):
    scene = lfkit.Scene("dots", np.zeros((3, 3, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="dots: the benchmark's views are 512 x 512 pixels, these are 16 x 16"):
        export_scene(tmp_path, scene, None)
    with pytest.raises(ValueError, match="dots: 256 pixels of the prediction are not finite"):
        export_scene(tmp_path, scene, lambda scene: (np.full((16, 16), np.nan), 1.0), 16)
    assert not list(tmp_path.iterdir())

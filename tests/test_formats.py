"""Samples are made here from the published descriptions, as none is at hand: HCI's toolkit, INRIA's names, Stanford's eslf (pixel [14 y + u, 14 x + v] is view u, v)."""

import struct
import zlib
from functools import lru_cache

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image
from einops import rearrange

import lfkit
from conftest import real
from lfkit.files import read_image, write_pfm
from lfkit.formats import depth_to_disp, read_camera, roughness, seams, unfold, unlikeness, view_files, view_pictures

# of HCI's scene dino, on views of 48 x 32
CAMERA = """[intrinsics]
focal_length_mm = 100.0
image_resolution_x_px = 48
image_resolution_y_px = 32
sensor_size_mm = 35.0
fstop = 300.0

[extrinsics]
num_cams_x = 3
num_cams_y = 3
baseline_mm = 60.0
focus_distance_m = 6.9

[meta]
scene = dino
authors = 100% someone
"""
MOSAIC = {"grid": "u v h w c -> (u h) (v w) c", "lenslet": "u v h w c -> (h u) (w v) c"}


def test_signs_in_names_are_not_read(tmp_path):
    for u in range(-1, 2):
        for v in range(-1, 2):
            iio.imwrite(tmp_path / f"v_{u}_{v}.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="are the same view by their numbers; signs are not read, number rows and columns from 0"):
        lfkit.load_scene(tmp_path)


def test_views_under_names_that_are_kept_for_truth(tmp_path):
    for n in range(9):
        iio.imwrite(tmp_path / f"depth_{n}.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(FileNotFoundError, match="no views in it but pictures such as depth_0.png, whose names are kept for truth and predictions; if these are the views name them"):
        view_files(tmp_path)


def test_files_of_the_system_are_passed_over(tmp_path):
    for folder in (tmp_path / "s", tmp_path / "LFs"):
        folder.mkdir()
    for n in range(9):
        for name in (f"v_{n}.png", f"._v_{n}.png"):
            iio.imwrite(tmp_path / "s" / name, np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "LFs" / "._t.npy").write_bytes(b"Mac OS X")
    np.save(tmp_path / "LFs" / "t.npy", np.zeros((3, 3, 8, 8, 3), np.uint8))
    assert list(lfkit.lightfield.find_scenes(tmp_path)) == ["t", "s"] and lfkit.load_scene(tmp_path / "s").views_num == 3


def test_a_picture_that_may_not_be_read(tmp_path, monkeypatch):
    iio.imwrite(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied", "a.png")
    monkeypatch.setattr("lfkit.files.iio.imread", refused)
    with pytest.raises(PermissionError, match="Permission denied: 'a.png'"):
        read_image(tmp_path / "a.png")


def test_one_view_twice_is_named(tmp_path):
    for n in range(9):
        iio.imwrite(tmp_path / f"input_Cam{n:03d}.png", np.zeros((8, 8, 3), np.uint8))
    iio.imwrite(tmp_path / "input_Cam004 (copy).png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"input_Cam004 \(copy\).png and input_Cam004.png are the same view by their numbers; take one away"):
        lfkit.load_scene(tmp_path)


@lru_cache
def views_of(seed, views_num, size=64):
    return lfkit.synthesize(seed, size=size, views_num=views_num).lf


def picture(path, lf, layout):
    iio.imwrite(path, rearrange(lf, MOSAIC[layout]))
    return path


def write_views(folder, name, side=3, size=(32, 48), skip=()):
    """Views whose grey level is ten times their number in row-major order."""
    folder.mkdir(exist_ok=True)
    for n in range(side**2):
        if n not in skip:
            iio.imwrite(folder / name.format(n=n, row=n // side + 1, column=n % side + 1), np.full((*size, 3), 10 * n % 256, np.uint8))
    return folder


def check_broken(sentence, path, *told, kind=ValueError):
    with pytest.raises(kind, match=sentence) as caught:
        lfkit.load_scene(path, *told)
    assert len(str(caught.value).splitlines()) == 1 and str(path) in str(caught.value)


@pytest.fixture
def hci(tmp_path):
    """An HCI folder with a camera and a depth map, but no disparity."""
    folder = write_views(tmp_path / "dino", "input_Cam{n:03d}.png")
    (folder / "parameters.cfg").write_text(CAMERA)
    depth = np.full((32, 48), 6.9, np.float32)
    depth[0, 0], depth[31, 47] = 3.0, 12.0
    write_pfm(folder / "gt_depth_lowres.pfm", depth)
    return folder


# HCI's camera

def test_depth_becomes_disparity_by_the_camera(hci):
    """b f W / (1000 s) = 60 * 100 * 48 / 35000 = 8.228571 pixel metres; over 3 m less over 6.9 m, and over 12 m less over 6.9 m."""
    disp = lfkit.load_scene(hci).bg_disp
    assert disp[0, 0] == pytest.approx(2.742857 - 1.192547, abs=1e-5) and disp[31, 47] == pytest.approx(0.685714 - 1.192547, abs=1e-5)
    assert disp[5, 5] == pytest.approx(0, abs=1e-6) and disp.dtype == np.float32


def test_depth_of_the_published_range(hci):
    """dino's own camera (512 pixels, 87.771429 pixel metres): its disp_max and disp_min, 1.9 and -1.9, are at 87.771429 / (87.771429 / 6.9 +- 1.9) m."""
    camera = read_camera(hci / "parameters.cfg")
    camera["intrinsics"] |= {"image_resolution_x_px": 512.0, "image_resolution_y_px": 512.0}
    assert depth_to_disp(np.float32([6.0036, 8.1112]), camera) == pytest.approx([1.9, -1.9], abs=1e-3)


def test_the_disparity_map_wins_over_depth(hci):
    write_pfm(hci / "gt_disp_lowres.pfm", np.full((32, 48), 0.25, np.float32))
    write_pfm(hci / "gt_disp_highres.pfm", np.zeros((320, 480), np.float32))
    assert (lfkit.load_scene(hci).bg_disp == 0.25).all()


@pytest.mark.parametrize("old, new, sentence", [
    (CAMERA, "f = 3", r"parameters\.cfg: unknown camera file .*expected HCI's, with \[intrinsics\] and \[extrinsics\]; correct or remove it"),
    ("[extrinsics]", "[camera]", r"parameters\.cfg: unknown camera file, \[extrinsics\] num_cams_x is missing"),
    ("focal_length_mm = 100.0", "focal_length_mm = long", r"parameters\.cfg: unknown camera file, \[intrinsics\] focal_length_mm is long"),
    ("focal_length_mm = 100.0", "focal_length_mm = 10%", r"parameters\.cfg: unknown camera file, \[intrinsics\] focal_length_mm is 10%"),
    ("focus_distance_m = 6.9", "focus_distance_m = 0", r"parameters\.cfg: \[extrinsics\] focus_distance_m is 0, expected a number above 0"),
    ("_x_px = 48", "_x_px = 96", r"parameters\.cfg: the camera has 32 x 96 pixels, the views 32 x 48"),
])
def test_a_camera_that_is_not_hcis(hci, old, new, sentence):
    (hci / "parameters.cfg").write_text(CAMERA.replace(old, new))
    check_broken(sentence, hci)


def test_a_camera_of_other_bytes(hci):
    (hci / "parameters.cfg").write_bytes(b"\xff\xfe\x00")
    check_broken(r"parameters\.cfg: unknown camera file", hci)


def test_depth_without_a_camera(hci):
    (hci / "parameters.cfg").unlink()
    check_broken(r"gt_depth_lowres\.pfm: depth becomes disparity by the camera in parameters\.cfg, which is not beside it", hci)


def test_depth_below_zero(hci):
    write_pfm(hci / "gt_depth_lowres.pfm", np.zeros((32, 48), np.float32))
    check_broken(r"gt_depth_lowres\.pfm: 1536 depths are not above 0 m", hci)


def test_the_camera_tells_how_many_views_there_should_be(hci):
    (hci / "parameters.cfg").write_text(CAMERA.replace("num_cams_x = 3\nnum_cams_y = 3", "num_cams_x = 1\nnum_cams_y = 1"))
    with pytest.raises(ValueError, match=r"parameters\.cfg: the camera has 1 x 1 views, 9 are there; correct it, or take views away"):
        lfkit.load_scene(hci)
    (hci / "parameters.cfg").write_text(CAMERA.replace("num_cams_x = 3\nnum_cams_y = 3", "num_cams_x = 5\nnum_cams_y = 5"))
    check_broken(r"9 views; .*missing for 5 x 5: input_Cam009\.png, .*input_Cam013\.png and 11 more", hci)


# INRIA, and row and column in the name

@pytest.mark.parametrize("where", ["disparity_2_2.npy", "maps/disp_2_2.npy"])
def test_inria(tmp_path, where):
    folder = write_views(tmp_path / "Bikes_2", "lf_{row}_{column}.png")
    (folder / "maps").mkdir()
    for row, column in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 3)):
        np.save(folder / where.replace("2_2", f"{row}_{column}"), np.full((32, 48), row + column / 10 - 4))
    scene = lfkit.load_scene(folder)
    assert scene.lf[:, :, 0, 0, 0].tolist() == [[0, 10, 20], [30, 40, 50], [60, 70, 80]]
    assert scene.bg_disp == pytest.approx(np.full((32, 48), -1.8)) and scene.fg_disp is None and scene.name == "Bikes_2"


def test_two_maps_of_the_centre_view(tmp_path):
    folder = write_views(tmp_path / "Bikes", "lf_{row}_{column}.png")
    for name in ("disparity_2_2.npy", "disp_2_2.npy"):
        np.save(folder / name, np.zeros((32, 48)))
    check_broken(r"2 disparity maps of the centre view lf_2_2\.png, .*leave one", folder)


@pytest.mark.parametrize("skip, names", [((4,), r"s1_2_2\.png$"), ((6, 7, 8), r"s1_3_1\.png, s1_3_2\.png, s1_3_3\.png$"), ((2, 5), r"s1_1_3\.png, s1_2_3\.png$")])
def test_missing_rows_and_columns_are_named(tmp_path, skip, names):
    check_broken(r"views; .*missing for 3 x 3: " + names, write_views(tmp_path / "s", "s1_{row}_{column}.png", skip=skip))


def test_a_missing_first_row_is_named_where_columns_are_counted_from_0(tmp_path):
    folder = write_views(tmp_path / "s", "{row}_{column}.png", skip=(0, 1, 2))
    for file in sorted(folder.iterdir()):
        row, column = (int(n) - 1 for n in file.stem.split("_"))
        file.rename(folder / f"v{row}_{column}.png")
    check_broken(r"6 views; .*missing for 3 x 3: v0_0\.png, v0_1\.png, v0_2\.png$", folder)


def test_numbers_that_all_names_share_do_not_count(tmp_path):
    scene = lfkit.load_scene(write_views(tmp_path / "s", "run7_{n}_9x9.png"))
    assert scene.lf[:, 0, 0, 0, 0].tolist() == [0, 30, 60]


def test_further_numbers_in_a_name_do_not_count(tmp_path):
    """Stanford's gantry writes the camera's position behind row and column."""
    folder = write_views(tmp_path / "gantry", "out_{row:02d}_{column:02d}.png")
    for n, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / f"{file.stem}_-{381.9 - n}_{1103.37 + n}_.png")
    assert lfkit.load_scene(folder).lf[:, :, 0, 0, 0].tolist() == [[0, 10, 20], [30, 40, 50], [60, 70, 80]]


def test_an_index_with_another_number_behind_it(tmp_path):
    folder = write_views(tmp_path / "s", "v{n}.png")
    for n in range(9):
        (folder / f"v{n}.png").rename(folder / f"v{n}_{(7 * n) % 10}.png")
    assert lfkit.load_scene(folder).lf[:, :, 0, 0, 0].tolist() == [[0, 10, 20], [30, 40, 50], [60, 70, 80]]


def test_an_even_grid_of_rows_and_columns(tmp_path):
    check_broken(r"4 views; .*missing for 3 x 3: v_1_3\.png, v_2_3\.png, v_3_1\.png, v_3_2\.png, v_3_3\.png$", write_views(tmp_path / "s", "v_{row}_{column}.png", side=2))


# one picture of all views

@pytest.mark.parametrize("layout", ["grid", "lenslet"])
@pytest.mark.parametrize("views_num", [3, 5, 9])
@pytest.mark.parametrize("seed", [1, 2, 19])
def test_a_pictures_layout_and_views_are_found(tmp_path, layout, views_num, seed):
    lf = views_of(seed, views_num)
    scene = lfkit.load_scene(picture(tmp_path / "all.png", lf, layout))
    assert np.array_equal(scene.lf, lf) and scene.name == "all" and scene.lf.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("layout", ["grid", "lenslet"])
@pytest.mark.parametrize("name", ["hci/antinous", "rendered/outdoor_tree", "rendered/room_fence", "lytro/2067"])
def test_the_layout_of_real_scenes_is_found(tmp_path, layout, name):
    lf = lfkit.load_scene(real(name)).lf
    assert np.array_equal(lfkit.load_scene(picture(tmp_path / "all.png", lf, layout)).lf, lf)


def test_what_is_told_is_believed(tmp_path):
    lf = views_of(0, 9)
    path = picture(tmp_path / "all.png", lf, "grid")
    assert np.array_equal(lfkit.load_scene(path, "lenslet", 9).lf[4, 4], rearrange(lf, MOSAIC["grid"])[4::9, 4::9])
    assert np.array_equal(lfkit.load_scene(path, "grid", 3).lf, rearrange(lf, "(a u) (b v) h w c -> a b (u h) (v w) c", a=3, b=3))
    assert np.array_equal(lfkit.load_scene(path, "grid").lf, lf) and np.array_equal(lfkit.load_scene(path, views_num=9).lf, lf)


def test_seams_and_smoothness_count_together(tmp_path):
    """Seams alone take the first for a grid of 3 x 3; smoothness alone takes the second, views of four times the usual baseline, for lenslets."""
    lit = views_of(12, 15, size=48)[:14, :14]
    assert np.array_equal(lfkit.load_scene(picture(tmp_path / "a.png", lit, "lenslet")).lf, lit[2:11, 2:11])
    wide = views_of(0, 9)[::4, ::4]
    path = picture(tmp_path / "b.png", wide, "grid")
    assert roughness(iio.imread(path), "lenslet", 3) < roughness(iio.imread(path), "grid", 3)
    assert np.array_equal(lfkit.load_scene(path, views_num=3).lf, wide)


def test_a_told_layout_alone_is_looked_for(tmp_path):
    check_broken("no seams between like views are seen", picture(tmp_path / "all.png", views_of(0, 9), "lenslet"), "grid")


@pytest.fixture(scope="module")
def lytro():
    """14 x 14 views whose outer ones darken, black in the corners, as behind round lenslets."""
    lit = views_of(11, 15, size=48)[:14, :14]
    off = np.abs(np.arange(14) - 6.5)
    lamp = np.clip((7.5 - np.hypot(off[:, None], off)) / 2, 0, 1)   # full to a radius of 5.5 views, black from 7.5
    return (lit * lamp[..., None, None, None]).astype(np.uint8)


@pytest.mark.parametrize("name, layout", [("flowers_7_eslf.png", "lenslet"), ("all.png", "lenslet"), ("all.png", "grid")])
def test_of_14_views_the_middle_9_are_taken(tmp_path, name, layout, lytro):
    scene = lfkit.load_scene(picture(tmp_path / name, lytro, layout))
    assert scene.lf.shape == (9, 9, 48, 48, 3) and np.array_equal(scene.lf, lytro[2:11, 2:11])


def test_16_bits_a_channel(tmp_path, lytro):
    """Stanford's eslf have 16 bits; no writer at hand writes those in colour, so the PNG is put together here."""
    image = rearrange(lytro, MOSAIC["lenslet"]).astype(">u2") * 256 + 77
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in image))
    chunks = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))]
    (tmp_path / "flowers_7_eslf.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert np.array_equal(lfkit.load_scene(tmp_path / "flowers_7_eslf.png").lf, lytro[2:11, 2:11])


def test_pixels_of_an_eslf_go_where_stanford_says(tmp_path):
    image = np.zeros((14 * 20, 14 * 24, 3), np.uint8)
    image[14 * 7 + 3, 14 * 11 + 8] = 200
    iio.imwrite(tmp_path / "x_eslf.png", image)
    lf = lfkit.load_scene(tmp_path / "x_eslf.png").lf
    assert np.argwhere(lf[..., 0]).tolist() == [[1, 6, 7, 11]] and lf.shape == (9, 9, 20, 24, 3)


def test_of_another_even_number_one_less_is_taken(tmp_path):
    lf = views_of(0, 9)[:6, :6]
    assert np.array_equal(lfkit.load_scene(picture(tmp_path / "all.png", lf, "grid"), "grid", 6).lf, lf[:5, :5])


def test_seams_and_roughness_by_hand():
    """3 x 3 views of 2 x 2 pixels, each flat and ten lighter than the one before."""
    lf = np.repeat(np.arange(9, dtype=np.uint8) * 10, 12).reshape(3, 3, 2, 2, 3)
    grid, lenslet = (rearrange(lf, MOSAIC[layout]) for layout in ("grid", "lenslet"))
    assert roughness(grid, "grid", 3) == roughness(lenslet, "lenslet", 3) == 10 + 30 and np.array_equal(unfold(grid, "grid", 3), lf)
    assert seams(lenslet, "lenslet", 3) == min(20 / 10, 60 / 30)   # 10 and 30 from view to view, 20 and 60 from lenslet to lenslet
    assert seams(grid, "grid", 3) == 10 / 1e-6   # no change but at the seams
    assert unlikeness(grid, "grid", 3) == unlikeness(lenslet, "lenslet", 3) == pytest.approx((10 + 30) / 2 / (200 / 9))  # 0 ... 80 deviate by 200 / 9 on average


def test_a_picture_that_does_not_divide(tmp_path):
    iio.imwrite(tmp_path / "all.png", np.zeros((100, 101, 3), np.uint8))
    check_broken(r"all\.png: 100 x 101 pixels do not divide into 9 x 9 views; crop it, or tell the views a side \(views_num, --picture_views\)", tmp_path / "all.png", None, 9)
    check_broken(r"all\.png: 100 x 101 pixels do not divide into a square grid of 3, 5, 7, 9, .* views a side", tmp_path / "all.png")
    iio.imwrite(tmp_path / "x_eslf.png", np.zeros((140, 141, 3), np.uint8))
    check_broken(r"x_eslf\.png: 140 x 141 pixels do not divide into 14 x 14 views", tmp_path / "x_eslf.png")


def test_a_picture_without_views(tmp_path):
    iio.imwrite(tmp_path / "photo.png", views_of(3, 3, size=90)[1, 1])
    check_broken(r"photo\.png: no seams between like views are seen at 3, 5 views a side; tell them \(views_num, --picture_views\) and the layout", tmp_path / "photo.png")


@pytest.mark.parametrize("seed", range(300, 316))
def test_a_single_view_is_not_taken_for_several(tmp_path, seed):
    """A thing's edge at a third of a small picture's side looks like a seam."""
    iio.imwrite(tmp_path / "photo.png", lfkit.synthesize(seed, 90, views_num=3).lf[1, 1])
    check_broken("photo.png: no seams between like views are seen", tmp_path / "photo.png")


def test_a_real_view_is_not_taken_for_several(tmp_path):
    iio.imwrite(tmp_path / "photo.png", np.asarray(lfkit.load_scene(real("hci/antinous")).lf[4, 4, :495, :495]))
    check_broken("photo.png: no seams between like views are seen", tmp_path / "photo.png")


def test_a_picture_and_wrong_words(tmp_path):
    path = picture(tmp_path / "all.png", views_of(0, 3), "grid")
    with pytest.raises(ValueError, match="layout must be 'grid' or 'lenslet': got 'mosaic'"):
        lfkit.load_scene(path, "mosaic")
    check_broken(r"must be at least 3: got 2", path, "grid", 2)
    path.write_bytes(path.read_bytes()[:500])
    check_broken(r"all\.png: not a readable picture", path)


@pytest.mark.parametrize("name", ["x{column}_y{row}.png", "Col {column:02d} Row {row:02d}.png", "c{column:02d}_r{row:02d}.png", "lf_C{column}R{row}.png"])
def test_numbers_after_x_and_y_are_column_and_row(tmp_path, name):
    lf = lfkit.load_scene(write_views(tmp_path / "xy", name)).lf
    assert (lf[..., 0, 0, 0] == 10 * np.arange(9).reshape(3, 3)).all()
    for number, plain in enumerate(("view_{row}_{column}.png", "r{row}_c{column}.png", "src{row}_dir{column}.png")):
        lf = lfkit.load_scene(write_views(tmp_path / f"plain{number}", plain)).lf
        assert (lf[..., 0, 0, 0] == 10 * np.arange(9).reshape(3, 3)).all()


def test_missing_views_are_named_where_the_column_comes_first(tmp_path):
    check_broken("missing for 3 x 3: x3_y2.png", write_views(tmp_path / "xy", "x{column}_y{row}.png", skip=[5]))


def test_a_name_with_another_count_of_numbers_leaves_the_order_open(tmp_path):
    folder = write_views(tmp_path / "v", "view ({n}).png")
    (folder / "view (8).png").rename(folder / "view.png")
    check_broken(r"the numbers in view\.png are not as many as in view \(0\)\.png", folder)


def test_truth_is_read_as_pfm_and_npy(tmp_path):
    folder, mask = write_views(tmp_path / "v", "input_Cam{n:03d}.png"), np.zeros((32, 48), bool)
    mask[4:9, 5:20] = True
    write_pfm(folder / "bg_disp.pfm", np.full((32, 48), 0.5, np.float32))
    write_pfm(folder / "fg_disp.pfm", np.where(mask, 2.0, 0.5).astype(np.float32))
    np.save(folder / "mask.npy", mask)
    scene = lfkit.load_scene(folder)
    assert (scene.bg_disp == 0.5).all() and (scene.fg_disp == np.where(mask, 2.0, 0.5)).all() and (scene.mask == mask).all()
    (folder / "mask.npy").unlink()
    values = mask.astype(np.float32)
    values[0, 0] = np.nan
    np.save(folder / "mask.npy", values)
    with pytest.raises(ValueError, match="mask has 1 NaN or infinite pixels of 1536; fill them first"):
        lfkit.load_scene(folder)
    assert lfkit.load_scene(folder, truth=False).mask is None


def test_a_mask_of_neither_1_nor_255_is_not_lost(tmp_path):
    folder = write_views(tmp_path / "s", "v{n:02d}.png")
    iio.imwrite(folder / "mask.png", np.eye(32, 48, dtype=np.uint8) * 2)
    with pytest.raises(ValueError, match="s: the mask's greatest value is 2, expected 1 or 255"):
        lfkit.load_scene(folder)
    for full in (1, 255):
        iio.imwrite(folder / "mask.png", np.eye(32, 48, dtype=np.uint8) * full)
        assert lfkit.load_scene(folder).mask.sum() == 32


def coloured(mask, *colour):
    return mask[..., None] * np.array(colour, np.uint8)


@pytest.mark.parametrize("picture", [lambda m: coloured(m, 0, 255, 0), lambda m: coloured(m, 0, 0, 255, 255) + coloured(~m, 0, 0, 0, 255), lambda m: coloured(m, 0, 0, 0, 255),
                                     lambda m: coloured(m, 200, 255), lambda m: coloured(m, 0, 255), lambda m: m.astype(np.uint16), lambda m: m * np.uint16(65535), lambda m: m * np.uint8(255)])
def test_a_mask_of_any_colour_or_of_transparency(tmp_path, picture):
    folder, mask = write_views(tmp_path / "s", "v{n:02d}.png"), np.random.default_rng(0).random((32, 48)) < 0.3
    iio.imwrite(folder / "mask.png", picture(mask))
    assert np.array_equal(lfkit.load_scene(folder).mask, mask)


def test_an_opaque_mask_of_nothing_is_empty(tmp_path):
    folder = write_views(tmp_path / "s", "v{n:02d}.png")
    iio.imwrite(folder / "mask.png", coloured(np.ones((32, 48), bool), 0, 0, 0, 255))
    assert not lfkit.load_scene(folder).mask.any()


@pytest.mark.parametrize("name, expected", [("bg_disp.exr", "bg_disp.npy or bg_disp.pfm or gt_disp_lowres.pfm"), ("gt_disp_lowres.tif", "gt_disp_lowres.pfm"),
                                            ("fg_disp.npz", "fg_disp.npy or"), ("mask.jpg", "mask.png or mask.npy")])
def test_truth_of_another_kind_is_not_passed_over(tmp_path, name, expected):
    write_views(tmp_path / "s", "v{n:02d}.png")
    (tmp_path / "s" / name).write_bytes(b"?")
    check_broken(f"{name}: {name[name.index('.'):]} is not read, expected .*{expected}.*; save it as one of these, or take it away", tmp_path / "s")
    assert lfkit.load_scene(tmp_path / "s", truth=False).lf.shape[:2] == (3, 3)


def test_truth_of_an_earlier_scene_is_not_left_beside_new_views(tmp_path):
    scene = lfkit.synthesize(0, size=16, views_num=3)
    folder = lfkit.save_scene(scene, tmp_path, "hci")
    (folder / "fg_disp.npy").rename(folder / "fg_disp.pfm")
    with pytest.raises(ValueError, match="fg_disp.pfm: is of an earlier scene"):
        lfkit.save_scene(lfkit.Scene(scene.name, scene.lf, scene.bg_disp, None, scene.mask, scene.gt_data), tmp_path, "hci")


def test_depth_of_an_earlier_scene_is_not_left_beside_new_views(hci):
    scene = lfkit.synthesize(0, size=16, views_num=3)
    (hci / "parameters.cfg").rename(hci / "other.cfg")
    with pytest.raises(ValueError, match="gt_depth_lowres.pfm: is of an earlier scene"):
        lfkit.save_scene(lfkit.Scene(hci.name, scene.lf), hci.parent, "hci")


def test_sixteen_bits_are_rounded(tmp_path):
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    iio.imwrite(tmp_path / "deep.png", values)
    assert np.array_equal(read_image(tmp_path / "deep.png")[..., 0], np.round(values / 257).astype(np.uint8))


def test_pages_are_no_picture(tmp_path):
    for name, shape in (("grey.tif", (20, 24)), ("colour.tif", (20, 24, 3))):
        first, *rest = [Image.fromarray(np.zeros(shape, np.uint8)) for _ in range(9)]
        first.save(tmp_path / name, save_all=True, append_images=rest)
        with pytest.raises(ValueError, match=f"{name}: holds 9 x 20 x 24.* values, expected one picture"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("name, is_view", [("dispenser_0.png", True), ("gtr_5.png", True), ("centred_1.png", True), ("depths.png", False), ("disp_x.png", False), ("disparity_lowres.png", False), ("depth_map.png", False),
                                           ("depthmap.png", False), ("masks_0.png", False), ("objectIDs_highres.png", False), ("gt_data.png", False), ("Centre.png", False), ("a_bg_disp.png", False), ("000.png", True)])
def test_truth_is_no_view_but_names_that_begin_like_it_are(tmp_path, name, is_view):
    (tmp_path / name).touch()
    assert bool(view_pictures(tmp_path)) == is_view

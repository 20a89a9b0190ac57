import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

import lfkit
from conftest import real
from lfkit.files import read_image, read_pfm
from lfkit.lightfield import Scene, find_scenes, read_scene_list, training_scenes, write_pfm


@pytest.fixture
def small():
    return lfkit.synthesize(0, size=24, views_num=3, occluded=True)


@pytest.fixture
def hci(small, tmp_path):
    return lfkit.save_scene(small, tmp_path / "scenes", "hci")


@pytest.fixture
def note(small, tmp_path):
    return lfkit.save_scene(small, tmp_path / "note")


@pytest.mark.parametrize("layout", ["note", "hci"])
def test_written_and_read_back(small, tmp_path, layout):
    back = lfkit.load_scene(lfkit.save_scene(small, tmp_path, layout))
    assert back.name == small.name and back.two_layers
    for part in ("lf", "bg_disp", "fg_disp", "mask", "gt_data"):
        assert np.array_equal(getattr(back, part), getattr(small, part)), part


def test_npy_stays_memory_mapped(note):
    assert isinstance(lfkit.load_scene(note).lf, np.memmap)


def test_float_views_are_taken_as_they_are(tmp_path):
    lf = np.random.default_rng(0).random((3, 3, 5, 6, 3), np.float32)
    np.save(tmp_path / "s.npy", lf)
    scene = lfkit.load_scene(tmp_path / "s.npy")
    assert np.array_equal(scene.lf, lf) and scene.bg_disp is None and not scene.two_layers


def test_a_folder_of_views_is_row_major_by_number(tmp_path):
    for n in range(9):
        iio.imwrite(tmp_path / f"v{n + 1}.png", np.full((4, 5, 3), 10 * n, np.uint8))
    scene = lfkit.load_scene(tmp_path)
    assert scene.lf[:, :, 0, 0, 0].tolist() == [[0, 10, 20], [30, 40, 50], [60, 70, 80]] and scene.lf.shape == (3, 3, 4, 5, 3)


def test_row_and_column_in_the_name(tmp_path):
    for n in range(9):
        iio.imwrite(tmp_path / f"lf_{n // 3 + 1}_{n % 3 + 10}.png", np.full((4, 5), 10 * n, np.uint8))
    assert lfkit.load_scene(tmp_path).lf[2, 1, 0, 0].tolist() == [70, 70, 70]


def test_pfm_rows_are_stored_bottom_to_top(tmp_path):
    disp = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_pfm(tmp_path / "d.pfm", disp)
    raw = (tmp_path / "d.pfm").read_bytes()
    assert raw.startswith(b"Pf\n4 3\n-1.0\n") and np.frombuffer(raw[-48:-32], "<f4").tolist() == [8, 9, 10, 11]
    assert np.array_equal(read_pfm(tmp_path / "d.pfm"), disp)
    (tmp_path / "big.pfm").write_bytes(b"Pf\n4 3\n1.0\n" + disp[::-1].astype(">f4").tobytes())
    assert np.array_equal(read_pfm(tmp_path / "big.pfm"), disp)


def test_middle_views(small):
    scene = lfkit.synthesize(0, size=20, views_num=5)
    assert np.array_equal(scene.middle(3).lf, scene.lf[1:4, 1:4]) and np.array_equal(scene.middle(3).centre, scene.centre)
    with pytest.raises(ValueError, match="has 3 x 3 views; the middle 9 x 9 were asked for: use --views_num 3"):
        small.middle(9)
    for number in (1, 2, 4):
        with pytest.raises(ValueError, match=f"the middle {number} x {number} were asked for"):
            scene.middle(number)


def test_lists_and_directories(data_dir, tmp_path):
    names = list(find_scenes(data_dir))
    assert len(names) == 5 and list(read_scene_list(data_dir, "testing_images.txt")) == names[-1:]
    assert list(read_scene_list(data_dir, "debug_testing_images.txt")) == names[:1] and list(training_scenes(data_dir)) == names[1:4]
    with pytest.raises(FileNotFoundError, match="no such data directory; make one with `python -m lfkit synth"):
        find_scenes(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"no scene in it; expected LFs/<scene>\.npy"):
        find_scenes(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such scene list"):
        read_scene_list(tmp_path, "testing_images.txt")


def test_the_lists_share_no_scene(tmp_path):
    """Of 16 scenes the last two are for testing, and of the first two the less occluded one that has occluders for validation; scene k has k % 11 covered columns: 8 has eight, 9 nine, 11 none."""
    def render(seed, size):
        mask = np.broadcast_to(np.arange(size) < seed % 11, (size, size))
        return Scene(f"s{seed}", np.zeros((3, 3, size, size, 3), np.uint8), np.zeros((size, size), np.float32), np.zeros((size, size), np.float32), mask)
    lists = lambda root: [list(read_scene_list(root, name)) for name in ("testing_images.txt", "debug_testing_images.txt")]
    lfkit.write_synthetic(tmp_path, scenes=16, size=16, seed=8, render=render)
    assert lists(tmp_path) == [["s22", "s23"], ["s8"]]
    lfkit.write_synthetic(tmp_path / "other", scenes=16, size=16, seed=11, render=render)
    assert lists(tmp_path / "other") == [["s25", "s26"], ["s12"]]
    lfkit.write_synthetic(tmp_path / "more", scenes=64, size=16, seed=4, render=render)  # of 4 to 11, with 4 to 10 columns and none, two of the seven: 6 and 7, beside the middle
    assert lists(tmp_path / "more") == [[f"s{k}" for k in range(60, 68)], ["s6", "s7"]]
    (tmp_path / "testing_images.txt").write_text("# mine\ns10\n\ns22  # a bush")  # her own choice, which later scenes leave as it is
    lfkit.write_synthetic(tmp_path, scenes=16, size=16, seed=108, render=render)
    assert (tmp_path / "testing_images.txt").read_text() == "# mine\ns10\n\ns22  # a bush\ns122\ns123\n"
    assert lists(tmp_path) == [["s10", "s22", "s122", "s123"], ["s8"]]
    assert not {"s8", "s10", "s22", "s122", "s123"} & training_scenes(tmp_path).keys() and "s23" in training_scenes(tmp_path)
    lfkit.write_synthetic(tmp_path / "two", scenes=3, size=16, seed=2, render=render)
    lfkit.write_synthetic(tmp_path / "two", scenes=3, size=16, seed=0, render=render)  # whose last one is validated
    assert lists(tmp_path / "two") == [["s4"], ["s2"]]
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "testing_images.txt").write_text("s1\n")
    lfkit.write_synthetic(tmp_path / "three", scenes=16, size=16, seed=0, render=render)  # whose second one, the one with an occluder, is hers to test
    assert lists(tmp_path / "three") == [["s1", "s14", "s15"], ["s0"]]
    lfkit.write_synthetic(tmp_path / "four", scenes=3, size=16, seed=11, render=render)  # 11 has no occluder
    assert lists(tmp_path / "four") == [["s13"], ["s11"]]
    with pytest.raises(ValueError, match="--scenes must be at least 3, one each to train on, to validate and to test: got 2"):
        lfkit.write_synthetic(tmp_path, scenes=2, size=16, seed=0, render=render)


def test_a_name_with_a_number_sign_is_held_out(tmp_path):
    for name in ("tree", "tree#2", "c"):
        lfkit.save_scene(Scene(name, np.zeros((3, 3, 8, 8, 3), np.uint8), np.zeros((8, 8), np.float32)), tmp_path)
    (tmp_path / "testing_images.txt").write_text("#c\ntree#2 # the second\n")
    (tmp_path / "testing_images.txt").write_text((tmp_path / "testing_images.txt").read_text() + "\ntree#2\n")  # named twice counts once
    assert list(read_scene_list(tmp_path, "testing_images.txt")) == ["tree#2"] and set(training_scenes(tmp_path)) == {"tree", "c"}


def test_truth_is_found_from_within_the_views_folder(note, monkeypatch):
    monkeypatch.chdir(note.parent)
    assert lfkit.load_scene(note.name).two_layers and lfkit.load_scene(f"./{note.name}").mask is not None


def test_a_list_with_a_mark_is_read_and_one_in_another_code_is_named(note):
    names = note.parent.parent / "testing_images.txt"
    names.write_bytes(b"\xef\xbb\xbf" + note.stem.encode() + b"\r\n")
    assert list(read_scene_list(names.parent, names.name)) == [note.stem]
    names.write_bytes("fr\xfch".encode("latin-1"))
    with pytest.raises(ValueError, match=r"testing_images.txt: is not text in UTF-8 .*; save it as UTF-8"):
        read_scene_list(names.parent, names.name)


def test_two_scenes_of_one_name_are_named(small, tmp_path):
    lfkit.save_scene(small, tmp_path)
    lfkit.save_scene(small, tmp_path / "elsewhere", "hci").rename(tmp_path / small.name)
    for layout in ("note", "hci"):
        with pytest.raises(ValueError, match=f"has a scene named {small.name}, .*; give another name"):
            lfkit.save_scene(small, tmp_path, layout)
    with pytest.raises(ValueError, match=f"two scenes are named {small.name}, .*{small.name}.npy and .*{small.name}; rename one, or take it away"):
        find_scenes(tmp_path)


def test_views_alone_do_not_take_another_scenes_truth(small, tmp_path):
    path = lfkit.save_scene(small, tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"bgDisparity.{small.name}.npy: is of an earlier scene"):
        lfkit.save_scene(Scene("other", 255 - small.lf), path, "npy")
    assert path.read_bytes() == before
    path.unlink()  # truth that waits for its views is given them
    assert np.array_equal(lfkit.load_scene(lfkit.save_scene(small, path, "npy")).bg_disp, small.bg_disp)


def test_an_archive_is_no_array(tmp_path):
    np.savez(tmp_path / "s.npz", lf=np.zeros((3, 3, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"s.npy: is an archive of arrays, as numpy.savez writes, not an .npy array; save one array"):
        lfkit.load_scene((tmp_path / "s.npz").rename(tmp_path / "s.npy"))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_printing_colours_are_refused_and_alpha_is_dropped(tmp_path, suffix):
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(colours).convert("CMYK").save(tmp_path / f"view.{suffix}")
    with pytest.raises(ValueError, match=f"view.{suffix}: is in the printing colours CMYK, expected RGB or grey; save it as RGB"):
        read_image(tmp_path / f"view.{suffix}")
    Image.fromarray(colours).convert("RGBA").save(tmp_path / "view.tif")
    assert np.array_equal(read_image(tmp_path / "view.tif"), colours)


def test_a_mask_of_one_bit_is_read(hci, small):
    Image.fromarray(small.mask).convert("1").save(hci / "mask.png")
    assert np.array_equal(read_image(hci / "mask.png"), np.repeat(small.mask[..., None] * np.uint8(255), 3, 2))
    assert np.array_equal(lfkit.load_scene(hci).mask, small.mask)


def test_folders_are_found_as_scenes(hci):
    assert list(find_scenes(hci.parent)) == [hci.name]


def test_a_list_that_names_a_lost_scene(note):
    root = note.parent.parent
    (root / "testing_images.txt").write_text(f"{note.stem}\n\n# a comment\nghost\n")
    with pytest.raises(FileNotFoundError, match="names ghost, not in .*; correct the list or add the scene"):
        read_scene_list(root, "testing_images.txt")


def test_a_list_that_names_everything(note):
    root = note.parent.parent
    (root / "testing_images.txt").write_text(note.stem)
    with pytest.raises(FileNotFoundError, match="no scene to train on"):
        training_scenes(root)


# bad scenes: every sentence names the file and the way out

def check_broken(path, sentence, kind=ValueError):
    with pytest.raises(kind, match=sentence) as caught:
        lfkit.load_scene(path)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_missing_and_empty(tmp_path):
    assert str(tmp_path / "no") in check_broken(tmp_path / "no", "no such file or directory", FileNotFoundError)
    check_broken(tmp_path, "no views in it", FileNotFoundError)
    (tmp_path / "a.txt").write_text("x")
    check_broken(tmp_path / "a.txt", "not a scene")


@pytest.mark.parametrize("lost", [0, 17, 80])
def test_80_of_81_views_names_the_missing_one(tmp_path, lost):
    for n in range(81):
        if n != lost:
            iio.imwrite(tmp_path / f"input_Cam{n:03d}.png", np.zeros((2, 2, 3), np.uint8))
    check_broken(tmp_path, rf"80 views; .*missing for 9 x 9: input_Cam{lost:03d}\.png$")


def test_a_full_count_with_a_gap(tmp_path):
    for n in [*range(8), 9]:
        iio.imwrite(tmp_path / f"input_Cam{n:03d}.png", np.zeros((2, 2, 3), np.uint8))
    check_broken(tmp_path, r"9 views; .*missing for 3 x 3: input_Cam008\.png")


def test_views_of_different_sizes(hci):
    iio.imwrite(hci / "input_Cam005.png", np.zeros((24, 25, 3), np.uint8))
    check_broken(hci, r"input_Cam005\.png: 24 x 25 pixels, but input_Cam000\.png has 24 x 24; all views must be of one size")


def test_a_truncated_png(hci):
    data = (hci / "input_Cam003.png").read_bytes()
    (hci / "input_Cam003.png").write_bytes(data[:len(data) // 2])
    check_broken(hci, r"input_Cam003\.png: not a readable picture .*copy it again")


@pytest.mark.parametrize("array, sentence", [
    (np.zeros((9, 3, 5, 5), np.uint8), r"'u v h w c' with c = 3, got shape \(9, 3, 5, 5\)"),
    (np.zeros((4, 4, 5, 5, 3), np.uint8), "square and odd, at least 3 x 3, got 4 x 4"),
    (np.zeros((3, 3, 0, 5, 3), np.float32), r"has no pixels, its shape is \(3, 3, 0, 5, 3\); save the views again"),
    (np.zeros((3, 5, 5, 5, 3), np.uint8), "square and odd, at least 3 x 3, got 3 x 5"),
    (np.full((3, 3, 5, 5, 3), 200.0, np.float32), r"must lie in \[0, 1\], got 200 to 200; divide by 255"),
    (np.full((3, 3, 5, 5, 3), -0.5, np.float32), r"must lie in \[0, 1\], got -0.5"),
    (np.full((3, 3, 5, 5, 3), np.nan, np.float32), "NaN values"),
    (np.zeros((3, 3, 5, 5, 3), np.int64), "pixels are int64; pass uint8"),
])
def test_bad_npy(tmp_path, array, sentence):
    np.save(tmp_path / "s.npy", array)
    check_broken(tmp_path / "s.npy", sentence)


def test_npy_cut_short_or_with_objects(note):
    data = note.read_bytes()
    note.write_bytes(data[:-100])
    check_broken(note, r"not a readable \.npy array")
    np.save(note, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    check_broken(note, r"not a readable \.npy array")


def test_pfm_cut_short(hci):
    (hci / "bg_disp.npy").unlink()
    data = (hci / "gt_disp_lowres.pfm").read_bytes()
    (hci / "gt_disp_lowres.pfm").write_bytes(data[:-4])
    check_broken(hci, r"gt_disp_lowres\.pfm: cut short, 2300 bytes of pixels where 24 x 24 need 2304")
    (hci / "gt_disp_lowres.pfm").write_bytes(b"PF\n2 2\n-1\n")
    check_broken(hci, "not a single-channel PFM")


@pytest.mark.parametrize("part, folder", [("bg_disp", "bgDisparity"), ("fg_disp", "fgDisparity"), ("mask", "mask")])
def test_truth_of_another_size(note, part, folder):
    np.save(note.parent.parent / folder / note.name, np.zeros((24, 23), np.float32))
    check_broken(note, rf"{part} has shape \(24, 23\), the views are \(24, 24\)")


def test_truth_with_nan(note):
    np.save(note.parent.parent / "bgDisparity" / note.name, np.full((24, 24), np.nan, np.float32))
    check_broken(note, "bg_disp has 576 NaN or infinite pixels of 576")
    np.save(note.parent.parent / "bgDisparity" / note.name, np.full((24, 24), 1e300))  # a number, but not of 32 bits
    check_broken(note, "bg_disp, as float32, has 576 NaN or infinite pixels of 576")


def test_unknown_layout(small, tmp_path):
    with pytest.raises(ValueError, match="layout must be 'note', 'hci' or 'npy'"):
        lfkit.save_scene(small, tmp_path, "other")


# real scenes

def test_antinous_views_follow_its_disparity():
    """The convention of the disparity's sign and of the PFM's rows, against a benchmark scene: the right reading wins clearly."""
    scene = lfkit.load_scene(real("hci/antinous"))
    assert scene.lf.shape == (9, 9, 512, 512, 3) and scene.bg_disp.min() == pytest.approx(-3.13, abs=0.01) and scene.fg_disp is None
    y, x = np.mgrid[15:497, 15:497]
    def error(disp):
        errors = []
        for u, v in ((0, 0), (0, 8), (8, 0), (8, 8)):
            row = np.clip(np.rint(y + (4 - u) * disp[15:497, 15:497]), 0, 511).astype(int)
            col = np.clip(np.rint(x + (4 - v) * disp[15:497, 15:497]), 0, 511).astype(int)
            errors.append(np.abs(scene.lf[u, v][row, col].astype(float) - scene.centre[15:497, 15:497]).mean())
        return np.mean(errors)
    right = error(scene.bg_disp)
    assert right < 0.6 * error(0 * scene.bg_disp) and right < 0.6 * error(-scene.bg_disp) and right < 0.6 * error(scene.bg_disp[::-1])


@pytest.mark.parametrize("name", ["rendered/outdoor_tree", "rendered/room_fence"])
def test_rendered_scenes_bring_both_layers(name):
    scene = lfkit.load_scene(real(name))
    assert scene.two_layers and scene.gt_data.shape == (256, 256, 3)
    assert (scene.fg_disp > scene.bg_disp)[scene.mask].mean() > 0.99 and np.allclose(scene.fg_disp[~scene.mask], scene.bg_disp[~scene.mask])


def test_a_photograph_has_no_truth():
    scene = lfkit.load_scene(real("lytro/2067"))
    assert scene.lf.shape == (9, 9, 383, 552, 3) and scene.bg_disp is None


@pytest.mark.parametrize("layout", ["note", "hci"])
def test_a_scene_may_be_changed_and_written_over_itself(tmp_path, layout):
    rng = np.random.default_rng(0)
    big = Scene("big", rng.integers(0, 256, (5, 5, 64, 64, 3), np.uint8), rng.random((64, 64)).astype(np.float32), mask=np.ones((64, 64), bool))
    mapped = lfkit.load_scene(lfkit.save_scene(big, tmp_path, layout))
    mapped.bg_disp = mapped.bg_disp + 1
    back = lfkit.load_scene(lfkit.save_scene(mapped, tmp_path, layout))
    assert np.array_equal(back.lf, big.lf) and np.array_equal(back.bg_disp, big.bg_disp + 1)
    again = lfkit.load_scene(lfkit.save_scene(back, tmp_path, layout))  # nothing changed: the maps, too, come from the files that they go to
    assert np.array_equal(again.lf, big.lf) and np.array_equal(again.bg_disp, big.bg_disp + 1)


@pytest.mark.parametrize("layout", ["note", "hci"])
def test_a_scene_is_not_mixed_with_an_earlier_one_and_no_truth_is_lost(small, tmp_path, layout):
    path = lfkit.save_scene(small, tmp_path, layout)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*") if file.is_file()}
    for lacking in (["bg_disp"], ["fg_disp"], ["fg_disp", "mask"], ["gt_data"]):
        parts = {part: None if part in lacking else getattr(small, part) for part in ("bg_disp", "fg_disp", "mask", "gt_data")}
        with pytest.raises(ValueError, match=f"is of an earlier scene, and would be read with {small.name}, with which none is written; take it away, or write the scene elsewhere"):
            lfkit.save_scene(Scene(small.name, 255 - small.lf, **parts), tmp_path, layout)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.*") if file.is_file()} == before
    replaced = lfkit.load_scene(lfkit.save_scene(Scene(small.name, 255 - small.lf, small.bg_disp, small.fg_disp, small.mask, small.gt_data), tmp_path, layout))
    assert np.array_equal(replaced.lf, 255 - lfkit.synthesize(0, size=24, views_num=3, occluded=True).lf) and path.exists()


def test_views_of_a_larger_grid_are_not_left_beside_a_smaller_one(tmp_path):
    lfkit.save_scene(Scene("s", np.zeros((5, 5, 8, 8, 3), np.uint8)), tmp_path, "hci")
    with pytest.raises(ValueError, match=r"input_Cam\d+.png: is of an earlier scene"):
        lfkit.save_scene(Scene("s", np.zeros((3, 3, 8, 8, 3), np.uint8)), tmp_path, "hci")


def test_a_link_to_a_scene_names_it(small, tmp_path, monkeypatch):
    lfkit.save_scene(Scene("views", small.lf), tmp_path / "archive", "hci")
    (tmp_path / "fence").symlink_to(tmp_path / "archive" / "views")
    monkeypatch.chdir(tmp_path / "archive" / "views")
    assert [lfkit.load_scene(path).name for path in (tmp_path / "fence", tmp_path / "fence/", ".", "../views")] == ["fence", "fence", "views", "views"]


def test_big_endian_maps_and_views_are_read(small, tmp_path):
    lf = np.clip(small.lf.astype(np.float32) / 255, 0, 1)
    np.save(tmp_path / "big.npy", lf.astype(">f4"))
    scene = lfkit.load_scene(tmp_path / "big.npy")
    assert np.array_equal(lfkit.lightfield.as_float(scene.lf), lf) and np.array_equal(lfkit.lightfield.as_byte(scene.lf), small.lf)
    assert lfkit.get_disp_distribution(np.full((1, 1, 1), 0.25, ">f4"))[0, :, 0, 0].tolist()[4:6] == [0.75, 0.25]


def test_both_layers_disparities_tell_where_the_mask_is(small):
    derived = Scene(small.name, small.lf, small.bg_disp, small.fg_disp).mask
    assert derived.dtype == bool and np.array_equal(derived, small.fg_disp > small.bg_disp) and 0 < derived.mean() < 1
    other = ~derived
    assert np.array_equal(Scene(small.name, small.lf, small.bg_disp, small.fg_disp, other).mask, other) and Scene(small.name, small.lf, small.bg_disp).mask is None


def test_layers_in_the_wrong_order_are_refused(small):
    with pytest.raises(ValueError, match=f"{small.name}: fg_disp, of the first surface, lies behind bg_disp in .* exchange the two"):
        Scene(small.name, small.lf, small.fg_disp, small.bg_disp)
    few = small.bg_disp.copy()
    few[:1, :20] -= 1  # a few pixels of noise pass
    assert Scene(small.name, small.lf, small.bg_disp, few).two_layers


@pytest.mark.parametrize("kind, low, high", [(np.float32, 0.49, 0.5), (np.uint8, 127, 128), (np.uint8, 0, 1), (np.float32, 127.0, 128.0), (bool, False, True)])
def test_a_mask_is_where_at_least_half_is_covered(kind, low, high):
    mask = np.array([[low, high]], kind)
    assert Scene("s", np.zeros((3, 3, 1, 2, 3), np.uint8), mask=mask).mask.tolist() == [[False, True]]


def test_a_pfm_header_may_end_its_lines_as_windows_does(tmp_path):
    disp = np.arange(12, dtype=np.float32).reshape(3, 4)
    (tmp_path / "d.pfm").write_bytes(b"Pf\r\n4 3\r\n-1.0\r\n" + disp[::-1].tobytes())
    assert np.array_equal(read_pfm(tmp_path / "d.pfm"), disp)


def test_only_bytes_and_floats_are_images():
    for function in (lfkit.lightfield.as_float, lfkit.lightfield.as_byte):
        for kind in (np.int32, np.uint16, bool):
            with pytest.raises(ValueError, match=f"pixels are {np.dtype(kind)}; pass uint8"):
                function(np.ones((2, 2, 3), kind))

import json
import logging
import os
import re
import subprocess
import sys

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from einops import rearrange

import lfkit
from conftest import real
from lfkit.__main__ import main
from lfkit.faults import Fault
from lfkit.files import read_pfm
from lfkit.lightfield import find_scenes, is_scene


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data directory written, and a run trained, by the command line."""
    root = tmp_path_factory.mktemp("cli")
    assert main(["synth", "--out", str(root / "d"), "--scenes", "3", "--size", "32", "--seed", "1", "--views_num", "3"]) == 0
    flags = ["--data_dir", str(root / "d"), "--log_dir", str(root / "log"), "--channels", "4", "--views_num", "3", "--patch_size", "24", "--epoch", "2",
             "--device", "cpu"]
    assert main(["train", *flags]) == 0
    return root, flags, next((root / "log").glob("*/model_best.pkl"))


def test_training_leaves_a_run_and_resuming_it_ends_at_once(trained, capsys):
    root, flags, _ = trained
    assert main(["train", *flags, "--resume", "auto"]) == 0
    assert "has trained all of its 2 epochs" in capsys.readouterr().err
    assert len(list((root / "log").iterdir())) == 1


def test_predict_writes_both_layers(trained, tmp_path):
    root, _, weights = trained
    scene = next((root / "d" / "LFs").glob("*.npy"))
    assert main(["predict", str(scene), "--out", str(tmp_path / "out"), "--weights", str(weights), "--device", "cpu"]) == 0
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written >= {f"{scene.stem}_{layer}.{kind}" for layer in ("bg_disp", "fg_disp") for kind in ("pfm", "png")}
    model, _ = lfkit.load_model(weights)
    expected = lfkit.predict_scene(lfkit.load_scene(scene).lf, model, lfkit.choose_device("cpu"))
    assert np.allclose(read_pfm(tmp_path / "out" / f"{scene.stem}_bg_disp.pfm"), expected[2].numpy(), atol=1e-5)
    assert np.allclose(read_pfm(tmp_path / "out" / f"{scene.stem}_fg_disp.pfm"), lfkit.nearest_peak(expected[0][None])[0].numpy(), atol=1e-5)
    assert main(["predict", str(scene), "--out", str(tmp_path / "two"), "--weights", str(weights), "--device", "cpu", "--symmetries", "2"]) == 0
    turned = lfkit.predict_scene(np.rot90(np.rot90(lfkit.load_scene(scene).lf, 2, (0, 1)), 2, (2, 3)), model, lfkit.choose_device("cpu"))[2].numpy()
    mean = (expected[2].numpy() + np.rot90(turned, 2)) / 2
    assert np.allclose(read_pfm(tmp_path / "two" / f"{scene.stem}_bg_disp.pfm"), mean, atol=1e-5) and not np.allclose(mean, expected[2].numpy(), atol=1e-4)
    assert main(["predict", str(scene), "--out", str(tmp_path / "plain"), "--weights", str(weights), "--device", "cpu", "--enlarge", "1"]) == 0
    plain = lfkit.predict_scene(lfkit.load_scene(scene).lf, lfkit.load_model(weights, enlarge=1)[0], lfkit.choose_device("cpu"))[2].numpy()
    assert np.allclose(read_pfm(tmp_path / "plain" / f"{scene.stem}_bg_disp.pfm"), plain, atol=1e-5) and not np.allclose(plain, expected[2].numpy(), atol=1e-4)


def test_a_table_is_printed_before_a_file_that_fails(trained, tmp_path, capsys, monkeypatch):
    root, _, weights = trained
    scenes = sorted((root / "d" / "LFs").glob("*.npy"))
    def full(*_):
        raise Fault("t.json: could not be written")
    monkeypatch.setattr("lfkit.__main__.write_json", full)
    assert main(["validate", str(scenes[0]), "--weights", str(weights), "--device", "cpu", "--border", "4", "--json", str(tmp_path / "t.json")]) == 1
    told = capsys.readouterr()
    assert "MSEx100" in told.out and "t.json: could not be written" in told.err


def test_a_target_behind_a_link_to_nothing(trained, tmp_path, capsys):
    root, _, weights = trained
    scenes = sorted((root / "d" / "LFs").glob("*.npy"))
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    assert main(["predict", str(scenes[0]), "--weights", str(weights), "--device", "cpu", "--out", str(tmp_path / "link")]) == 2
    assert f"can't be written, {tmp_path / 'link'} is a link to a folder that is not there; name another place" in capsys.readouterr().err


def test_validate_prints_and_writes_the_table(trained, tmp_path, capsys):
    root, _, weights = trained
    scenes = sorted((root / "d" / "LFs").glob("*.npy"))[:2]
    argv = ["validate", *map(str, scenes), "--weights", str(weights), "--device", "cpu", "--border", "4", "--json", str(tmp_path / "t" / "t.json")]
    assert main(argv) == 0
    table = json.loads((tmp_path / "t" / "t.json").read_text())
    printed = capsys.readouterr().out
    assert [row["scene"] for row in table["scenes"]] == [s.stem for s in scenes] and table["border"] == 4
    scene, model = lfkit.load_scene(scenes[0]), lfkit.load_model(weights)[0]
    disp = lfkit.predict_scene(scene.lf, model, lfkit.choose_device("cpu"))[2].numpy()
    assert table["scenes"][0]["mse_x100"] == pytest.approx(100 * np.mean((disp - scene.bg_disp)[4:-4, 4:-4] ** 2), rel=1e-4)
    assert "border 4" in printed and "mean" in printed and scenes[1].stem in printed
    assert main([*argv, "--enlarge", "1"]) == 0
    plain = json.loads((tmp_path / "t" / "t.json").read_text())
    disp = lfkit.predict_scene(scene.lf, lfkit.load_model(weights, enlarge=1)[0], lfkit.choose_device("cpu"))[2].numpy()
    assert plain["scenes"][0]["mse_x100"] == pytest.approx(100 * np.mean((disp - scene.bg_disp)[4:-4, 4:-4] ** 2), rel=1e-4)
    assert [(kept["enlarge"], kept["symmetries"]) for kept in (table, plain)] == [(1.5, 1), (1, 1)]
    assert plain["scenes"][0]["mse_x100"] != table["scenes"][0]["mse_x100"]


def test_predicting_into_a_scenes_own_folder_leaves_it_a_scene(trained, tmp_path, capsys):
    weights = trained[2]
    for n, view in enumerate(lfkit.synthesize(0, size=32, views_num=3).lf.reshape(9, 32, 32, 3)):
        (tmp_path / "data" / "it[1]").mkdir(parents=True, exist_ok=True)
        iio.imwrite(tmp_path / "data" / "it[1]" / f"v{n}.png", view)
    for out in (tmp_path / "data" / "it[1]", tmp_path / "data"):
        for _ in range(2):
            assert main(["predict", str(tmp_path / "data" / "it[1]"), "--out", str(out), "--weights", str(weights), "--device", "cpu"]) == 0
            assert "it[1]_bg_disp.pfm, it[1]_bg_disp.png, it[1]_centre.png" in capsys.readouterr().out
    assert list(find_scenes(tmp_path / "data")) == ["it[1]"] and not is_scene(tmp_path / "data")
    assert main(["predict", str(tmp_path / "data" / "it[1]"), "--out", str(tmp_path / "data"), "--name", "it[1]_bg", "--weights", str(weights), "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "data" / "it[1]"), "--out", str(tmp_path / "data"), "--weights", str(weights), "--device", "cpu"]) == 0
    assert "it[1]_bg_bg_disp.pfm" not in capsys.readouterr().out


def test_mistakes_are_known_before_a_network_is_run(trained, tmp_path, monkeypatch, capsys):
    root, _, weights = trained
    monkeypatch.setattr("lfkit.__main__.predict_scene", lambda *args: pytest.fail("the network was run"))
    scene = str(next((root / "d" / "LFs").glob("*.npy")))
    (tmp_path / "file").write_text("")
    common = ["--weights", str(weights), "--device", "cpu"]
    assert main(["validate", scene, *common, "--errors", "mse"]) == 2 and "no error is named mse; there is ause, bad_pix" in capsys.readouterr().err
    assert main(["predict", scene, *common, "--out", str(tmp_path / "file")]) == 2 and "file is a file; name another place" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as for a folder of somebody else's
    told = f"nothing may be written in {tmp_path}; name another place"
    assert main(["predict", scene, *common, "--out", str(tmp_path / "new" / "out")]) == 2 and told in capsys.readouterr().err


def test_what_is_wrong_with_any_scene_or_model_is_known_before_a_network_is_run(trained, tmp_path, monkeypatch, capsys):
    """A checkpoint that is not there or wants more views, a region's mask, a file named twice."""
    root, _, weights = trained
    monkeypatch.setattr("lfkit.__main__.predict_scene", None)
    good, other = (lfkit.save_scene(lfkit.synthesize(seed, size=32, views_num=3), tmp_path / "d", "hci") for seed in (1, 2))
    (other / "mask_planes_lowres.png").write_text("x")
    common = ["--device", "cpu", "--border", "4", "--weights", str(weights)]
    for flags, sentence in (([str(good), *common, str(tmp_path / "none.pkl")], "no checkpoint at"), ([str(good), *common, str(lfkit.checkpoint.WEIGHTS)], "the middle 9 x 9 were asked for"),
                            ([str(good), str(other), *common], "mask_planes_lowres.png: not a readable picture"),
                            ([str(good), *common, "--errors", "bad_pix", "mse_x100_planes"], "no scene has mse_x100_planes; there is"),
                            ([str(good), *common, "--table", str(tmp_path / "t.md"), "--json", str(tmp_path / "d" / ".." / "t.md")], "--json and --table name one file; name two")):
        assert main(["validate", *flags]) == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "t.md").exists()


def test_what_cannot_be_exported_or_predicted_is_known_before_a_network_is_run(trained, tmp_path, monkeypatch, capsys):
    weights, black = trained[2], np.zeros((3, 3, 512, 512, 3), np.uint8)
    monkeypatch.setattr("lfkit.__main__.predict_scene", None)
    scenes = [lfkit.save_scene(lfkit.Scene(name, views), tmp_path / "hci", "hci") for name, views in (("boxes", black), ("cotton", black[:, :, :256, :256]))]
    (tmp_path / "file").touch()
    common = ["--weights", str(weights), "--device", "cpu"]
    assert main(["export-hci", str(tmp_path / "hci"), "--out", str(tmp_path / "out"), *common]) == 2 and "cotton: the benchmark's views are 512 x 512" in capsys.readouterr().err
    assert main(["export-hci", str(scenes[0]), "--out", str(tmp_path / "file"), *common]) == 2 and "file is a file; name another place" in capsys.readouterr().err
    for part in ("bg_disp.png", "fg_disp.pfm", "fg_disp.png", "centre.png"):
        (tmp_path / part / f"a_{part}").mkdir(parents=True)
        assert main(["predict", str(scenes[1]), "--out", str(tmp_path / part), "--name", "a", *common]) == 2 and f"a_{part}: is a folder; name a file" in capsys.readouterr().err


def test_a_folder_that_may_only_be_read_has_a_way_out(monkeypatch, capsys):
    def denied(args):
        raise PermissionError(13, "Permission denied", "ro/log")
    monkeypatch.setitem(lfkit.__main__.COMMANDS, "report", denied)
    assert main(["report", "x"]) == 2 and capsys.readouterr().err == "lfkit: ro/log: Permission denied; correct its rights, or name another place\n"


def test_too_large_a_scene_to_draw_is_one_sentence(tmp_path, capsys):
    """The first allocation is of a million gigabytes, and fails at once."""
    assert main(["synth", "--out", str(tmp_path / "o"), "--scenes", "3", "--size", "32", "--max_disp", "1e6"]) == 1
    assert re.fullmatch(r"lfkit: out of memory \(.*\); try less of what makes it large, such as --size, --channels, --max_disp or --views_num\n", capsys.readouterr().err.rpartition("\r")[2])


def test_an_error_that_no_scene_has_loses_no_score(trained, tmp_path, monkeypatch, capsys):
    root, _, weights = trained
    monkeypatch.setattr("lfkit.__main__.predict_scene", None)
    scene = lfkit.load_scene(next((root / "d" / "LFs").glob("*.npy")))
    clean = lfkit.save_scene(lfkit.Scene("clean", scene.lf, scene.bg_disp), tmp_path / "d")
    argv = ["validate", str(clean), "--border", "4", "--device", "cpu", "--weights", str(weights), "--errors", "mse_x100", "bad_pix_inside", "--json", str(tmp_path / "t.json")]
    assert main(argv) == 2 and "no scene has bad_pix_inside; there is ause, bad_pix, " in capsys.readouterr().err


def test_mistakes_that_are_named(trained, tmp_path, capsys):
    root, flags, _ = trained
    listed, scene = root / "d" / "testing_images.txt", str(next((root / "d" / "LFs").glob("*.npy")))
    for argv, told in {("validate", str(listed)): f"{listed}: is neither a scene nor a data directory", ("convert", scene, str(tmp_path / "deep"), "--to", "hci", "--name", ".."): "expected a name without folders: got '..'",
                       ("synth", "--out", str(tmp_path / "s"), "--max_disp", "inf"): "max_disp >= 2: got", ("train", *flags, "--epochh", "3"): "unrecognized arguments: --epochh 3; `lfkit train --help` lists"}.items():
        assert main(list(argv)) == 2 and told in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_several_weights_stand_side_by_side(trained, tmp_path, capsys):
    root, _, weights = trained
    scenes = sorted((root / "d" / "LFs").glob("*.npy"))[:2]
    last = weights.parent / "model_state" / "model_last.pkl"
    files = [str(tmp_path / "t" / f"t{suffix}") for suffix in (".txt", ".md", ".csv", ".tex")]
    argv = ["validate", *map(str, scenes), "--border", "4", "--device", "cpu", "--table", *files, "--json", str(tmp_path / "t.json")]
    assert main([*argv, "--weights", str(weights), str(last)]) == 0
    printed, table = capsys.readouterr().out, json.loads((tmp_path / "t.json").read_text())
    assert "model_best" in printed and "model_last" in printed and "seconds" in printed and printed == (tmp_path / "t" / "t.txt").read_text()
    lines = (tmp_path / "t" / "t.csv").read_text().splitlines()
    assert lines[0] == "error,scene,model_best,model_last" and lines[1].split(",")[2:] == [repr(model["scenes"][0]["mse_x100"]) for model in table]
    assert "**" in (tmp_path / "t" / "t.md").read_text() and r"\textbf" in (tmp_path / "t" / "t.tex").read_text()
    assert {"nll", "ause", "q25", "bad_pix_003", "fg_bad_pix"} <= set(table[0]["scenes"][0])
    assert main([*argv[:2], "--border", "4", "--errors", "q25", "--weights", str(weights), "--device", "cpu"]) == 0
    assert "Q25 (px / 100)" in capsys.readouterr().out
    assert main([*argv[:2], "--table", "t.xls"]) == 2 and "must end in .txt" in capsys.readouterr().err


def test_the_benchmarks_submission(trained, tmp_path, capsys):
    lfkit.save_scene(lfkit.Scene("cotton", np.zeros((3, 3, 512, 512, 3), np.uint8)), tmp_path / "hci" / "training", "hci")
    argv = ["export-hci", str(tmp_path / "hci"), "--out", str(tmp_path / "out"), "--weights", str(trained[2]), "--device", "cpu", "--test_length", "512", "--shave", "16"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "1 of the benchmark's 12 scenes" in printed and "missing backgammon: no disp_maps/backgammon.pfm" in printed and "missing cotton" not in printed
    assert read_pfm(tmp_path / "out" / "disp_maps" / "cotton.pfm").shape == (512, 512)
    assert float((tmp_path / "out" / "runtimes" / "cotton.txt").read_text()) > 0


@pytest.mark.parametrize("command", ["predict", "validate", "export-hci"])
def test_a_network_enlarges_views_as_the_command_says(command, trained, tmp_path, capsys, monkeypatch):
    scene = tmp_path / "hci" / "cotton"
    lfkit.save_scene(lfkit.Scene("cotton", np.zeros((3, 3, 512, 512, 3), np.uint8), bg_disp=np.zeros((512, 512), np.float32)), scene.parent, "hci")
    def load(path, device, enlarge):
        raise ValueError(f"loaded to enlarge by {enlarge}")
    monkeypatch.setattr("lfkit.__main__.load_model", load)
    assert main([command, str(scene), "--weights", str(trained[2]), *([] if command == "validate" else ["--out", str(tmp_path / "out")]), "--device", "cpu", "--enlarge", "2"]) == 2
    assert "loaded to enlarge by 2" in capsys.readouterr().err


def test_the_report_of_a_run_is_one_page(trained, tmp_path, capsys):
    run = trained[2].parent
    assert main(["report", str(run), "--out", str(tmp_path / "deep" / "r.html")]) == 0
    page = (tmp_path / "deep" / "r.html").read_text()
    assert capsys.readouterr().out.strip() == str(tmp_path / "deep" / "r.html")
    assert run.name in page and "2 epochs trained" in page and "--patch_size" in page and ">24<" in page
    assert main(["report", str(run)]) == 0 and (run / "report.html").read_text() == page


def test_a_data_directory_stands_for_its_testing_list(trained, capsys):
    root, _, weights = trained
    assert main(["validate", str(root / "d"), "--weights", str(weights), "--border", "4", "--device", "cpu"]) == 0
    assert (root / "d" / "testing_images.txt").read_text().strip() in capsys.readouterr().out


@pytest.mark.parametrize("argv, sentence", [
    (["predict", "nowhere", "--out", "x"], "nowhere: no such file or directory"),
    (["validate", "nowhere"], "nowhere: no such file or directory"),
    (["validate", "."], "no scene in it"),
    (["train", "--data_dir", "nowhere", "--device", "cpu"], "nowhere: no such data directory"),
    (["train", "--device", "cuda:77"], "no device 'cuda:77' on this machine: there is cpu"),
    (["train", "--views_num", "8"], "views_num must be odd"),
    (["train", "--max_disp", "4", "--step", "3"], "must be a whole multiple of step"),
    (["train", "--model_save_dir", "none.pkl", "--device", "cpu"], "no checkpoint at none.pkl"),
    (["synth", "--out", "x", "--size", "3"], "must be a whole number from 16"),
    (["convert", "nowhere", "x.npy"], "nowhere: no such file or directory"),
    (["convert", "nowhere", "x"], "x: does not end in .npy; say --to note or --to hci for a data directory, or name an .npy file"),
    (["convert", "nowhere", "x.npy", "--to", "hci"], "x.npy: --to hci writes into a data directory, not an .npy file; name another DST"),
    (["convert", "nowhere", "x", "--to", "npy"], "x: --to npy writes a file that ends in .npy; name another DST"),
    (["convert", "nowhere", "x.npy", "--layout", "mosaic"], "invalid choice: 'mosaic'"),
    (["predict", "nowhere", "--out", "x", "--picture_views", "2"], "must be a whole number from 3"),
    (["report", "nowhere"], "nowhere: no run in it, it has no checkpoint; name a directory under --log_dir"),
    (["export-hci", "nowhere", "--out", "x"], "nowhere: no such file or directory"),
    (["fly"], "invalid choice"),
    ([], "required"),
])
def test_a_users_mistake_is_one_sentence_and_status_2(argv, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert sentence in error[-1] and "Traceback" not in "".join(error)


def test_module_runs_and_help_exits_0():
    for command in ("train", "validate", "predict", "export-hci", "report", "convert", "synth"):
        assert subprocess.run([sys.executable, "-m", "lfkit", command, "--help"], capture_output=True, check=False).returncode == 0
    assert subprocess.run([sys.executable, "-m", "lfkit", "predict"], capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize("name", ["hci/antinous", "rendered/outdoor_tree", "rendered/room_fence", "lytro/2067"])
def test_predict_runs_on_real_scenes(trained, name, tmp_path):
    path, weights = real(name), trained[2]
    assert main(["predict", str(path), "--out", str(tmp_path), "--weights", str(weights), "--device", "cpu"]) == 0
    disp = read_pfm(tmp_path / f"{path.name}_bg_disp.pfm")
    assert disp.shape == lfkit.load_scene(path).centre.shape[:2] and np.isfinite(disp).all()


def test_validate_runs_on_real_scenes_with_truth(trained, tmp_path):
    paths = [real(name) for name in ("hci/antinous", "rendered/outdoor_tree", "rendered/room_fence")]
    argv = ["validate", *map(str, paths), "--weights", str(trained[2]), "--device", "cpu", "--json", str(tmp_path / "t.json")]
    assert main(argv) == 0
    rows = json.loads((tmp_path / "t.json").read_text())["scenes"]
    assert ["mse_x100_inside" in row for row in rows] == [False, True, True]


def test_validate_without_truth(trained, capsys):
    assert main(["validate", str(real("lytro/2067")), "--weights", str(trained[2]), "--device", "cpu"]) == 2
    assert "has no true disparity" in capsys.readouterr().err


def test_training_survives_a_dead_dashboard(trained, tmp_path):
    root, flags, _ = trained
    flags = [*flags[:3], str(tmp_path / "log"), *flags[4:], "--if_visdom", "1", "--visdom_server", "http://127.0.0.1", "--visdom_port", "9"]
    assert main(["train", *flags]) == 0
    recording = next((tmp_path / "log").glob("*/visdom.log"))
    assert os.path.getsize(recording) > 0


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory):
    """A two-layer scene as an HCI folder."""
    return lfkit.save_scene(lfkit.synthesize(0, size=32, views_num=3, occluded=True), tmp_path_factory.mktemp("convert"), "hci")


@pytest.mark.parametrize("flags", [[], ["--to", "npy"]])
def test_convert_to_one_file_drops_the_truth_and_says_so(two_layers, tmp_path, capsys, flags):
    dst = tmp_path / "new" / "fence.npy"
    assert main(["convert", str(two_layers), str(dst), *flags]) == 0
    scene = lfkit.load_scene(dst)
    assert isinstance(scene.lf, np.memmap) and scene.lf.dtype == np.uint8 and np.array_equal(scene.lf, lfkit.load_scene(two_layers).lf)
    assert "3 x 3 views of 32 x 32 pixels, without its bg_disp, fg_disp, mask, gt_data, which --to note or hci would keep" in capsys.readouterr().out
    assert [p.name for p in dst.parent.iterdir()] == ["fence.npy"]


@pytest.mark.parametrize("to, where", [("note", "LFs/{}.npy"), ("hci", "{}")])
def test_convert_keeps_the_truth(two_layers, tmp_path, capsys, to, where):
    assert main(["convert", str(two_layers), str(tmp_path), "--to", to]) == 0
    assert "with bg_disp, fg_disp, mask, gt_data" in capsys.readouterr().out
    back, scene = lfkit.load_scene(tmp_path / where.format(two_layers.name)), lfkit.load_scene(two_layers)
    for part in ("lf", "bg_disp", "fg_disp", "mask", "gt_data"):
        assert np.array_equal(getattr(back, part), getattr(scene, part)), part


def test_a_file_where_a_folder_should_be_is_known_before_the_work(two_layers, tmp_path, capsys, monkeypatch):
    (tmp_path / "taken").touch()
    for name in ("synthesize", "save_scene"):
        monkeypatch.setattr(f"lfkit.__main__.{name}", lambda *args: pytest.fail("worked on"))
    taken, scene = str(tmp_path / "taken"), str(two_layers)
    for command in (["synth", "--out", taken, "--scenes", "3"], ["convert", scene, f"{taken}/x.npy"], ["convert", scene, taken, "--to", "hci"], ["convert", scene, taken, "--to", "note"]):
        assert main(command) == 2
        assert f"can't be written, {taken} is a file; name another place" in capsys.readouterr().err


def test_convert_reads_a_picture_as_it_is_told(tmp_path, capsys):
    lf = lfkit.synthesize(1, size=32, views_num=3).lf
    iio.imwrite(tmp_path / "all.png", rearrange(lf, "u v h w c -> (h u) (w v) c"))
    assert main(["convert", str(tmp_path / "all.png"), str(tmp_path / "a.npy"), "--layout", "lenslet", "--picture_views", "3"]) == 0
    assert np.array_equal(np.load(tmp_path / "a.npy"), lf) and "without truth" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "all.png"), str(tmp_path / "b.npy"), "--layout", "grid", "--picture_views", "3"]) == 0
    assert not np.array_equal(np.load(tmp_path / "b.npy"), lf)


def test_predict_and_validate_take_a_picture(trained, tmp_path, capsys):
    lf = lfkit.synthesize(1, size=32, views_num=3).lf
    iio.imwrite(tmp_path / "all.png", rearrange(lf, "u v h w c -> (h u) (w v) c"))
    common = ["--weights", str(trained[2]), "--device", "cpu"]
    for layout, centre in (("lenslet", lf[1, 1]), ("grid", iio.imread(tmp_path / "all.png")[32:64, 32:64])):
        assert main(["predict", str(tmp_path / "all.png"), "--out", str(tmp_path / layout), "--layout", layout, "--picture_views", "3", *common]) == 0
        assert np.array_equal(iio.imread(tmp_path / layout / "all_centre.png"), centre)
    for views_num, sentence in (("3", "all.png: has no true disparity"), ("5", "all.png: 96 x 96 pixels do not divide into 5 x 5 views")):
        assert main(["validate", str(tmp_path / "all.png"), "--layout", "lenslet", "--picture_views", views_num, *common]) == 2
        assert sentence in capsys.readouterr().err


def test_convert_does_not_write_over_what_it_reads(two_layers, tmp_path, capsys):
    assert main(["convert", str(two_layers), str(tmp_path), "--to", "note"]) == 0
    npy = tmp_path / "LFs" / f"{two_layers.name}.npy"
    for argv in ([two_layers, two_layers.parent, "--to", "hci"], [npy, tmp_path, "--to", "note"], [npy, npy]):
        assert main(["convert", *map(str, argv)]) == 2
        assert "is the scene that is read; name another DST" in capsys.readouterr().err
    for argv, other in (([npy, two_layers.parent, "--to", "note"], two_layers), ([npy, tmp_path, "--to", "hci"], npy)):
        assert main(["convert", *map(str, argv)]) == 2
        assert f"has a scene named {npy.stem}, {other}, beside which" in capsys.readouterr().err
    assert main(["convert", str(npy), str(tmp_path), "--to", "hci", "--name", "other"]) == 0 and sorted(find_scenes(tmp_path)) == sorted([npy.stem, "other"])


def test_what_was_scored_is_told_when_a_validation_is_cut_short(trained, monkeypatch, capsys):
    root, _, weights = trained
    scenes, scored = sorted((root / "d" / "LFs").glob("*.npy"))[:2], []
    def score_one(*args):
        if scored:
            raise KeyboardInterrupt
        scored.append(run(*args))
        return scored[0]
    run = sys.modules["lfkit.__main__"].run_model
    monkeypatch.setattr("lfkit.__main__.run_model", score_one)
    assert main(["validate", *map(str, scenes), "--weights", str(weights), "--border", "4", "--device", "cpu"]) == 130
    printed = capsys.readouterr().out
    assert "cut short; what was done of model_best:" in printed and scenes[0].stem in printed and scenes[1].stem not in printed


def test_crops_that_can_not_cover_a_scene_are_known_before_a_network_is_run(trained, monkeypatch, capsys):
    root, _, weights = trained
    monkeypatch.setattr("lfkit.__main__.predict_scene", None)
    scene = str(next((root / "d" / "LFs").glob("*.npy")))
    assert main(["validate", scene, "--weights", str(weights), "--device", "cpu", "--border", "4", "--test_length", "24", "--shave", "16"]) == 2
    assert "can't cover an axis of 32 pixels with shave 16" in capsys.readouterr().err


def test_the_flags_that_synth_names_train(tmp_path, capsys):
    assert main(["synth", "--out", str(tmp_path / "d"), "--scenes", "3", "--size", "24", "--views_num", "3", "--max_disp", "4.5"]) == 0
    command = re.search(r"`python -m lfkit (.*)`", capsys.readouterr().out)[1]
    assert command.endswith(" --patch_size 24 --views_num 3 --max_disp 5")
    assert main([*command.split(), "--channels", "4", "--epoch", "1", "--device", "cpu", "--log_dir", str(tmp_path / "log")]) == 0


def test_a_page_is_not_written_over_a_folder(trained, tmp_path, capsys):
    assert main(["report", str(trained[2].parent), "--out", str(tmp_path)]) == 2 and "is a folder; name a file" in capsys.readouterr().err


def test_one_file_may_be_written_over_the_views_it_is_mapped_from(tmp_path):
    np.save(tmp_path / "a.npy", np.full((3, 3, 4, 5, 3), 0.2, np.float32))
    assert lfkit.save_scene(lfkit.load_scene(tmp_path / "a.npy"), tmp_path / "a.npy", "npy") == tmp_path / "a.npy"
    assert (np.load(tmp_path / "a.npy") == 51).all()


def test_one_sentence_where_a_file_is_in_the_way(trained, tmp_path, capsys):
    root, flags, weights = trained
    scene = str(next((root / "d" / "LFs").glob("*.npy")))
    (tmp_path / "file").write_text("")
    common = ["--weights", str(weights), "--device", "cpu", "--border", "4"]
    for argv, words in (
        (["predict", scene, "--out", str(tmp_path / "file" / "x"), *common[:4]], "file"),
        (["synth", "--out", str(tmp_path / "file"), "--scenes", "3", "--size", "16", "--views_num", "3"], "file"),
        (["train", *flags[:3], str(tmp_path / "file"), *flags[4:]], "file"),
        (["validate", scene, *common, "--json", str(tmp_path)], "is a folder; name a file"),
        (["validate", scene, *common, "--table", str(tmp_path / "file" / "t.md")], "file is a file; name another place"),
        (["dashboard", "--port", "99999999"], "from 1 to 65535: got 99999999"),
    ):
        assert main(argv) in (1, 2), argv
        told = capsys.readouterr().err
        assert words in told and told.splitlines()[-1].startswith("lfkit: ") and "Traceback" not in told, told


def test_an_interrupted_command_says_how_to_go_on_only_where_that_is_possible(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt
    for command, argv, hint in (("report", ["x"], False), ("train", [], True)):
        monkeypatch.setitem(lfkit.__main__.COMMANDS, command, interrupted)
        assert main([command, *argv]) == 130
        assert ("go on with --resume auto" in capsys.readouterr().err) == hint


def test_running_out_of_memory_is_one_sentence(monkeypatch, capsys):
    def starved(args):
        raise MemoryError("out of memory with one crop")
    monkeypatch.setitem(lfkit.__main__.COMMANDS, "report", starved)
    assert main(["report", "x"]) == 1 and capsys.readouterr().err == "lfkit: out of memory with one crop\n"


def test_mistakes_before_training_leave_no_run(trained, tmp_path, capsys):
    _, flags, _ = trained
    flags = [*flags[:3], str(tmp_path / "log"), *flags[4:]]
    for wrong, words in ((["--data_dir", str(tmp_path / "nowhere")], "no such data directory"), (["--patch_size", "999"], "patch_size 999 is larger"),
                         (["--train_only", "ear"], "got ear"), (["--start_from", str(tmp_path / "none.pkl")], "none.pkl"),
                         (["--data_dir", "synthetic:", "--patch_size", "8"], "size (of a training crop: --patch_size) >= 16, an odd views_num >= 3 and max_disp >= 2: got seed 0, size 8"),
                         (["--data_dir", "synthetic:", "--max_disp", "1"], "max_disp 1")):
        assert main(["train", *flags, *wrong]) == 2
        assert words in capsys.readouterr().err and not list((tmp_path / "log").iterdir())
        assert not logging.getLogger("lfkit").handlers  # the file that it wrote to is gone


def test_scenes_of_one_folder_name_are_told_apart(trained, tmp_path, capsys):
    _, _, weights = trained
    for k in range(2):
        written = lfkit.save_scene(lfkit.synthesize(k, size=32, views_num=3), tmp_path, "hci")
        (tmp_path / f"s{k}").mkdir()
        written.rename(tmp_path / f"s{k}" / "views")
    scenes = [str(tmp_path / f"s{k}" / "views") for k in range(2)]
    assert main(["validate", *scenes, "--weights", str(weights), "--device", "cpu", "--border", "4", "--json", str(tmp_path / "t.json")]) == 0
    assert [row["scene"] for row in json.loads((tmp_path / "t.json").read_text())["scenes"]] == ["s0/views", "s1/views"]
    for k, scene in enumerate(scenes):
        assert main(["convert", scene, str(tmp_path / "d"), "--to", "note", "--name", f"scene{k}"]) == 0
        assert main(["predict", scene, "--out", str(tmp_path / "out"), "--name", f"scene{k}", "--weights", str(weights), "--device", "cpu"]) == 0
        assert np.array_equal(lfkit.load_scene(tmp_path / "d" / "LFs" / f"scene{k}.npy").lf, lfkit.load_scene(scene).lf)
    assert {"scene0_bg_disp.pfm", "scene1_bg_disp.pfm"} <= {path.name for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert main(["predict", scenes[0], "--out", str(tmp_path / "out"), "--name", "a/b"]) == 2
    assert "argument --name: expected a name without folders: got 'a/b'" in capsys.readouterr().err


def test_a_scene_that_is_named_twice_counts_once(trained, tmp_path, capsys):
    root, _, weights = trained
    scene = sorted((root / "d" / "LFs").glob("*.npy"))[0]
    argv = ["validate", str(scene), str(scene.parent / ".." / "LFs" / scene.name), "--weights", str(weights), "--device", "cpu", "--border", "4", "--json", str(tmp_path / "t.json")]
    assert main(argv) == 0
    assert [row["scene"] for row in json.loads((tmp_path / "t.json").read_text())["scenes"]] == [scene.stem]


def test_a_table_that_may_only_be_read_is_known_before_a_network_is_run(trained, tmp_path, monkeypatch, capsys):
    root, _, weights = trained
    table = tmp_path / "t.md"
    table.touch()
    monkeypatch.setattr("lfkit.files.os.access", lambda path, mode: path != table)
    monkeypatch.setattr("lfkit.__main__.predict_scene", None)
    assert main(["validate", str(root / "d"), "--weights", str(weights), "--device", "cpu", "--table", str(table)]) == 2
    assert "t.md: can't be written, it may only be read; name another place" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--lr", "--gamma"])
def test_a_rate_below_0_is_refused(flag, tmp_path, capsys):
    assert main(["train", "--log_dir", str(tmp_path / "log"), f"{flag}=-1"]) == 2
    assert f"argument {flag}: must be a number from 0: got -1" in capsys.readouterr().err and not (tmp_path / "log").exists()


def test_predict_asks_for_no_truth(trained, tmp_path):
    _, _, weights = trained
    folder = lfkit.save_scene(lfkit.synthesize(0, size=32, views_num=3), tmp_path, "hci")
    np.save(folder / "bg_disp.npy", np.full((32, 32), np.nan, np.float32))
    assert main(["predict", str(folder), "--out", str(tmp_path / "out"), "--weights", str(weights), "--device", "cpu"]) == 0


def test_what_can_not_be_scored_is_known_before_a_network_is_run(trained, tmp_path, monkeypatch, capsys):
    root, _, weights = trained
    scene = sorted((root / "d" / "LFs").glob("*.npy"))[0]
    bare = tmp_path / "bare.npy"
    np.save(bare, lfkit.load_scene(scene).lf)
    monkeypatch.setattr("lfkit.__main__.predict_scene", None)
    for flags, sentence in (([str(scene), str(bare)], "bare.npy: has no true disparity"), ([str(scene), str(scene), "--border", "16"], "border")):
        assert main(["validate", *flags, "--weights", str(weights), "--device", "cpu"]) == 2
        assert sentence in capsys.readouterr().err


def test_a_data_directory_with_a_picture_is_no_scene(trained, tmp_path, capsys):
    root, _, weights = trained
    iio.imwrite(root / "d" / "preview.png", np.zeros((8, 8, 3), np.uint8))
    common = ["--weights", str(weights), "--device", "cpu", "--border", "4"]
    assert main(["validate", str(root / "d"), *common]) == 0 and "synthetic_000003" in capsys.readouterr().out
    (tmp_path / "LFs").mkdir()
    np.save(tmp_path / "LFs" / "a.npy", np.zeros((3, 3, 32, 32, 3), np.uint8))
    (tmp_path / "testing_images.txt").write_text("# none yet\n")
    assert main(["validate", str(tmp_path), *common]) == 2 and "no scene, testing_images.txt is empty" in capsys.readouterr().err


def test_scenes_that_were_there_are_named(trained, tmp_path, capsys):
    for scenes, told in (("4", "4 scenes in"), ("3", "3 scenes in .*, beside 1 from before, listed as they were")):
        assert main(["synth", "--out", str(tmp_path), "--scenes", scenes, "--size", "16", "--views_num", "3"]) == 0
        assert re.match(told, capsys.readouterr().out)


def test_a_scene_beyond_the_levels_has_a_row_without_likelihood(tmp_path, capsys):
    lfkit.save_scene(lfkit.Scene("far", np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32, 3), np.uint8), np.full((32, 32), 3.0, np.float32)), tmp_path)
    model = lfkit.DeoccNet(4, 3, 1, 1)
    optimizer = torch.optim.Adam(model.parameters())
    lfkit.save_checkpoint(lfkit.get_parser([]), 0, model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1), tmp_path / "w.pkl")
    assert main(["validate", str(tmp_path), "--weights", str(tmp_path / "w.pkl"), "--device", "cpu", "--json", str(tmp_path / "t.json")]) == 0
    row = json.loads((tmp_path / "t.json").read_text())["scenes"][0]
    assert row["mse_x100"] > 300 and "nll" not in row


def test_help_says_defaults_where_there_are_some(capsys):
    with pytest.raises(SystemExit):
        main(["validate", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "the shipped weights by default" in told and "deoccnet.pkl" not in told and "(default: )" not in told and "None" not in told and "(default: 15)" in told


def test_what_hangs_on_a_models_levels_is_not_compared_between_others(data_dir, tmp_path, capsys, caplog):
    """A likelihood over the few pixels within one's levels is no better than one over all pixels."""
    scene = sorted((data_dir / "LFs").glob("*.npy"))[0]
    files = []
    for max_disp, step in ((4, 1), (1, 0.5)):
        model, args = lfkit.DeoccNet(4, 3, max_disp, step), lfkit.get_parser(["--channels", "4", "--views_num", "3", "--max_disp", str(max_disp), "--step", str(step)])
        optimizer = torch.optim.Adam(model.parameters())
        files.append(str(tmp_path / f"levels_{max_disp}.pkl"))
        lfkit.save_checkpoint(args, 0, model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1), files[-1])
    argv = ["validate", str(scene), "--border", "4", "--device", "cpu"]
    assert main([*argv, "--weights", files[0], "--json", str(tmp_path / "one.json")]) == 0 and "nll" in json.loads((tmp_path / "one.json").read_text())["scenes"][0]
    assert main([*argv, "--weights", *files, "--json", str(tmp_path / "two.json")]) == 0
    assert "the models have other levels: their nll, peak_recall, peak_precision can't be compared, and are left out" in caplog.text
    rows = [model["scenes"][0] for model in json.loads((tmp_path / "two.json").read_text())]
    assert all("mse_x100" in row and "ause" in row and not {"nll", "peak_recall", "peak_precision"} & set(row) for row in rows)
    capsys.readouterr()
    assert main([*argv, "--weights", *files, "--errors", "nll"]) == 2 and "no scene has nll" in capsys.readouterr().err

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import lfkit
from conftest import real
from lfkit.__main__ import main
from lfkit.lightfield import read_pfm


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
    (["fly"], "invalid choice"),
    ([], "required"),
])
def test_a_users_mistake_is_one_sentence_and_status_2(argv, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert sentence in error[-1] and "Traceback" not in "".join(error)


def test_module_runs_and_help_exits_0():
    for command in ("train", "validate", "predict", "synth"):
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

"""The notebooks with scenes of one's own in place of procedural ones: folders of views, without masks, more views than the network takes, some without occluders."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest

import lfkit

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
demo = __import__("demo")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A data directory of HCI folders."""
    folder = tmp_path_factory.mktemp("own") / "my scenes"
    for name, seed, occluded in (("hedge", 21, True), ("court", 22, True), ("clean", 34, False), ("fence", 35, True)):
        scene = lfkit.synthesize(seed, 48, occluded=occluded)
        scene = replace(scene, name=name, lf=np.pad(scene.lf, ((1, 1), (1, 1), (0, 0), (0, 0), (0, 0)), mode="edge") if name == "fence" else scene.lf, mask=None,
                        fg_disp=scene.fg_disp if occluded else None, gt_data=None)
        lfkit.save_scene(scene, folder, "hci")
        (folder / name / "mask.png").unlink(missing_ok=True)
    (folder / "testing_images.txt").write_text("clean\nfence\n")
    (folder / "debug_testing_images.txt").write_text("fence\n")
    return folder


def test_they_take_scenes_of_ones_own(own, tmp_path, monkeypatch):
    monkeypatch.setenv("LFKIT_DATA_DIR", str(own))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LFKIT_RUN_DIR", "~/run")
    monkeypatch.setenv("LFKIT_PROFILE", "ci")
    monkeypatch.setenv("LFKIT_FLAGS", "--seed 7 --model_msg 'my run'")
    monkeypatch.setenv("LFKIT_SCENE", str(own / "hedge"))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    printed = {}
    for name in ("02_data", "03_training", "04_validation", "05_results"):
        if name == "05_results":
            monkeypatch.setenv("LFKIT_WEIGHTS", "~/" + str(lfkit.best_checkpoint(tmp_path / "run" / "log").relative_to(tmp_path)))
        demo.run_notebook(ROOT / "notebooks" / f"{name}.ipynb", tmp_path / f"{name}.ipynb")
        cells = nbformat.read(tmp_path / f"{name}.ipynb", 4).cells
        printed[name] = "".join(out.get("text", "") for cell in cells if cell.cell_type == "code" for out in cell.outputs)
    assert printed["02_data"].startswith("4 scenes, of which for testing: 2")
    assert "2 crops of 32 pixels an epoch" in printed["03_training"] and "validation/epoch2/fence_pred.npy" in printed["03_training"]
    table = (tmp_path / "run" / "table.txt").read_text()
    assert "clean " in table and "fence " in table and "MSEx100 in" in table
    assert "hedge by ~/run/log/DeoccNet_my run_" in printed["05_results"]
    assert not (tmp_path / "run" / "scenes_ci").exists()
    (args,) = [json.loads(file.read_text()) for file in (tmp_path / "run" / "log").glob("DeoccNet_my run_*/args.json")]
    assert args["seed"] == 7 and args["epoch"] == 2  # hers, and the profile's

import csv
import json
import subprocess

import numpy as np
import pytest
import torch

import lfkit
from lfkit.rundir import describe_start, git_commit, make_run_dir, write_curves


def test_a_log_directory_that_links_to_nothing(args, tmp_path):
    args.log_dir = str(tmp_path / "link")
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    with pytest.raises(ValueError, match="link: is a link to a folder that is not there; name another --log_dir, or mount its disk"):
        make_run_dir(args)
    (tmp_path / "unmounted").mkdir()
    assert make_run_dir(args)[0].is_dir()


def test_a_run_can_be_repeated_from_its_directory_alone(args, tmp_path):
    """`@args.json` gives every argument back; the run that it makes has the same curves."""
    args.average, args.model_msg, args.epoch = 0.5, "tag with space", 1
    first = list(lfkit.fit(args))[-1]
    file = first["log_path"] / "args.json"
    again = lfkit.get_parser([f"@{file}"])
    assert vars(again) == vars(args)
    again = lfkit.get_parser([f"@{file}", "--log_dir", str(tmp_path / "again")])
    assert list(lfkit.fit(again))[-1]["curves"] == first["curves"]


def test_what_makes_a_run_go_on_with_another_is_not_repeated(args, tmp_path):
    args.resume, args.epoch = "auto", 0
    log_path = list(lfkit.fit(args))[-1]["log_path"]
    assert json.loads((log_path / "args.json").read_text())["resume"] == "auto" and lfkit.get_parser([f"@{log_path / 'args.json'}"]).resume == ""


def test_no_such_file_of_arguments():
    with pytest.raises(ValueError, match="none.json"):
        lfkit.get_parser(["@none.json"])


@pytest.mark.parametrize("text", ["{}", '{"epoch": 0}', "cut sh", "3"])
def test_an_environment_that_is_no_list_is_begun_anew(tmp_path, text):
    (tmp_path / "environment.json").write_text(text)
    for epoch in (4, 5):
        describe_start(tmp_path, lfkit.get_parser(), torch.device("cpu"), epoch)
    assert [start["epoch"] for start in json.loads((tmp_path / "environment.json").read_text())] == [4, 5]


def test_the_environment_is_written_once_a_start(args, monkeypatch):
    monkeypatch.setattr("sys.argv", ["a run.py", "--seed", "1"])
    args.epoch = 1
    log_path = list(lfkit.fit(args))[-1]["log_path"]
    args.resume, args.epoch = "auto", 2
    list(lfkit.fit(args))
    first, second = json.loads((log_path / "environment.json").read_text())
    assert first["epoch"] == 0 and second["epoch"] == 1
    assert first["versions"]["torch"] == torch.__version__ and first["versions"]["numpy"] == np.__version__
    assert first["device"] == "cpu" and first["processes"] == 1 and first["threads"] == torch.get_num_threads() and first["command"] == "'a run.py' --seed 1"


def test_the_commit_and_whether_files_differ_from_it(tmp_path):
    file = tmp_path / "a"
    assert git_commit(file) is None
    def git(*words):
        command = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e@x", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    git("init")
    file.write_text("1")
    git("add", "a")
    git("commit", "-m", "m")
    assert git_commit(file) == git("rev-parse", "HEAD")
    file.write_text("2")
    assert git_commit(file) == git("rev-parse", "HEAD") + "+"
    (tmp_path / "b").write_text("1")
    assert git_commit(tmp_path / "b") is None  # lfkit may be installed in a folder that another project's repository ignores


def test_curves_as_csv(tmp_path):
    curves = {"train_loss": [3.0, 0.1], "train_metric": [1.0, 2.0], "test_metric": [5.0, 1e-17], "lr": [float("nan"), 1e-3]}
    write_curves(tmp_path, curves, 7)
    with open(tmp_path / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["5", "6"] and [float(row["test_metric"]) for row in rows] == [5.0, 1e-17] and rows[0]["lr"] == "nan"
    assert np.array_equal(np.load(tmp_path / "train_loss.npy"), [3.0, 0.1])


def test_a_file_of_flags_is_read_as_the_command_line_is(tmp_path):
    (tmp_path / "flags.txt").write_text("--lr\n0.5\n\n--seed=7\n--model_msg 'two words'\n")
    args = lfkit.get_parser([f"@{tmp_path / 'flags.txt'}"])
    assert (args.lr, args.seed, args.model_msg) == (0.5, 7, "two words")
    (tmp_path / "junk.txt").write_text("no flag at all\n")
    with pytest.raises(ValueError, match="unrecognized arguments: no flag at all"):
        lfkit.get_parser([f"@{tmp_path / 'junk.txt'}"])
    (tmp_path / "typo.json").write_text('{\n "lr": abc,\n "seed": 7\n}\n')
    with pytest.raises(ValueError, match='the line "lr": abc, is neither flags nor JSON, "name": value .*; correct its quotes'):
        lfkit.get_parser([f"@{tmp_path / 'typo.json'}"])
    (tmp_path / "quote.txt").write_text("--model_msg 'two words\n")
    with pytest.raises(ValueError, match="the line --model_msg 'two words is neither flags nor JSON.*No closing quotation.*correct its quotes"):
        lfkit.get_parser([f"@{tmp_path / 'quote.txt'}"])


@pytest.mark.parametrize("text", ['{"lr": 0.5, "command": "train", "seed": 7, "mask_dir": null}', '\ufeff{\n"lr": 0.5,\n"seed": 7\n}\n', "# mine\n--lr 0.5  # fast\n--seed 7\n", '{\n "lr": 0.5,\n "seed": 7}'])
def test_files_of_flags_that_editors_and_scripts_write(tmp_path, text):
    (tmp_path / "flags").write_text(text, encoding="utf-8")
    args = lfkit.get_parser([f"@{tmp_path / 'flags'}"])
    assert (args.lr, args.seed, args.mask_dir) == (0.5, 7, None)

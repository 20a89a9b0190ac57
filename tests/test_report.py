import base64
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import imageio.v3 as iio
import pytest

import lfkit
from lfkit.report import write_report
from lfkit.visual import plot_curves


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A run of two epochs that keeps its pictures."""
    argv = ["--data_dir", str(data_dir), "--log_dir", str(tmp_path_factory.mktemp("log")), "--patch_size", "24", "--channels", "4", "--views_num", "3", "--epoch", "2",
            "--val_every", "2", "--device", "cpu", "--save_image_every", "2", "--model_msg", "a<b"]
    *_, last = lfkit.fit(lfkit.get_parser(argv))
    return last


class Reader(HTMLParser):
    """The tags, the addresses that they point to, and the text."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.words = [], [], []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(path):
    page = Reader()
    page.feed(path.read_text())
    assert page.open == []
    return page


def test_one_page_with_everything_in_it(run, tmp_path):
    page = read(write_report(run["log_path"], tmp_path / "r.html"))
    assert page.addresses and all(address.startswith("data:image/png;base64,") for address in page.addresses)  # nothing is fetched
    text = " ".join(page.words)
    (name, scores), = run["validation"]["scenes"].items()
    assert run["log_path"].name in text and "a<b" in text
    assert f"{name} {100 * scores['mse']:.2f} {scores['bad_pix']:.2f}" in text
    for heading in ("Curves", "Validation", "Pictures", "Arguments"):
        assert heading in page.words
    assert "--patch_size 24" in text
    kept = run["log_path"] / "validation" / "epoch2"
    pictures = [base64.b64decode(address.split(",")[1]) for address in page.addresses]
    assert pictures[1:] == [(kept / f"{name}_{kind}.png").read_bytes() for kind in ("train", "pred", "gt")]
    assert iio.imread(pictures[0]).shape[0] > 100  # the curves


def test_arguments_are_shown_to_the_last_digit(run, tmp_path):
    words = read(write_report(run["log_path"], tmp_path / "page.html")).words
    assert words[words.index("--lr") + 1] == "0.0001" and words[words.index("--gamma") + 1] == "0.1"


def test_epochs_are_counted_from_the_first(data_dir, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("lfkit.report.plot_curves", lambda curves, trained, tested: drawn.append((len(curves["train_loss"]), trained, tested["epoch"])) or plot_curves(curves, trained, tested))
    argv = ["--data_dir", str(data_dir), "--log_dir", str(tmp_path), "--patch_size", "24", "--channels", "4", "--views_num", "3", "--current_iter", "10", "--epoch", "12", "--device", "cpu"]
    *_, last = lfkit.fit(lfkit.get_parser(argv))
    assert "12 epochs trained" in " ".join(read(write_report(last["log_path"])).words) and drawn == [(2, 12, 12)]
    assert plot_curves(last["curves"], 12).axes[0].lines[0].get_xdata().tolist() == [11, 12]


def test_starts_of_the_runs_directory(run, tmp_path):
    copy = Path(shutil.copytree(run["log_path"], tmp_path / "copy"))
    (copy / "environment.json").write_text(json.dumps([{"epoch": 0, "device": "cpu"}, {"epoch": 1, "device": "cuda:0"}]))
    text = " ".join(read(write_report(copy)).words)
    assert "2 epochs trained" in text and "device cpu cuda:0" in text


def test_a_run_that_has_just_begun(args, tmp_path):
    args.epoch, args.save_image_every = 0, 7
    run = next(lfkit.fit(args))["log_path"]
    for folder in (run / "validation").glob("epoch*"):
        folder.rename(tmp_path / folder.name)
    text = " ".join(read(write_report(run)).words)
    assert "No epoch is trained yet." in text and re.search("No validation kept pictures; --save_image_every", text) and (run / "report.html").exists()


def test_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run in it, it has no checkpoint"):
        write_report(tmp_path)


@pytest.mark.parametrize("text, sentence", [('{"a": 1}', "no list of starts"), ("[1]", "no list of starts"), ('[{"epoch": 0}', "Expecting")])
def test_a_damaged_file_of_starts_is_named(run, tmp_path, text, sentence):
    copy = Path(shutil.copytree(run["log_path"], tmp_path / "copy"))
    (copy / "environment.json").write_text(text)
    with pytest.raises(ValueError, match=f"environment.json: is not the JSON of a run's starts .*{sentence}.*; take it away"):
        write_report(copy)
    assert not (copy / "report.html").exists()


def test_a_copy_that_lost_the_files_times_shows_the_last_validation(run, tmp_path):
    copy = Path(shutil.copytree(run["log_path"], tmp_path / "copy"))
    os.utime(copy / "model_state" / "model_0.pkl", (4e9, 4e9))
    last = f"After {run['validation']['epoch']} epochs, border 11"
    assert run["validation"]["epoch"] > 0 and last in " ".join(read(write_report(copy)).words)


def test_another_folder_beside_the_pictures_is_passed_over(run, tmp_path):
    folder = run["log_path"] / "validation" / "epoch2 copy"
    folder.mkdir()
    try:
        assert "After 2 epochs" in write_report(run["log_path"], tmp_path / "r.html").read_text()
    finally:
        folder.rmdir()

import json
import logging
import socket

import matplotlib
import numpy as np
import pytest
from visdom import Visdom

from lfkit import plot_loss
from lfkit.dashboard import Dashboard, draw_report, plot_predictions, replay, replay_new, run_dashboard, start_server

REPORT = {"train": {"loss": 3.0, "loss1": 1.0, "loss2": 1.5, "loss3": 0.5, "mse": 0.02}, "validation": {"epoch": 0, "mse": 0.03, "bad_pix": 40.0}}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    port = free_port()
    process = start_server(port, tmp_path_factory.mktemp("visdom"))
    yield port
    process.terminate()
    process.wait(10)


class Recorder:
    def __init__(self):
        self.lines = []

    def line(self, **options):
        self.lines.append(options)


def test_what_is_drawn():
    vis = Recorder()
    plot_loss(vis, 1, REPORT)
    loss, train_mse, test_mse, bad_pix = vis.lines
    assert loss["Y"] == [[3.0, 1.0, 1.5, 0.5]] and loss["X"] == [[1] * 4] and loss["update"] == "append"
    assert (train_mse["Y"], test_mse["Y"], bad_pix["Y"]) == ([2.0], [3.0], [40.0]) and test_mse["X"] == [0]
    assert train_mse["win"] == test_mse["win"] != bad_pix["win"] and "x 100" in train_mse["opts"]["title"]


def window(port, env, win):
    return json.loads(Visdom(server="http://127.0.0.1", port=port, env=env, use_incoming_socket=False, raise_exceptions=True).get_window_data(win))


def test_a_live_server_gets_the_curves(server, tmp_path):
    board = Dashboard("run", "http://127.0.0.1", server, tmp_path / "visdom.log")
    for epoch in (1, 2):
        plot_loss(board, epoch, REPORT)
    data = window(server, "run", "loss")["content"]["data"]
    assert [trace["y"] for trace in data] == [[3.0, 3.0], [1.0, 1.0], [1.5, 1.5], [0.5, 0.5]] and data[0]["x"] == [1, 2]
    mse = {trace["name"]: trace["y"] for trace in window(server, "run", "mse")["content"]["data"]}
    assert mse == {"training crops": [2.0, 2.0], "validation scenes": [3.0, 3.0]}
    assert not (tmp_path / "visdom.log").exists()


def test_our_server_listens_on_loopback_alone(server):
    listening = {line.split()[1] for line in open("/proc/net/tcp") if line.split()[3] == "0A" and line.split()[1].endswith(f":{server:04X}")}
    assert listening == {f"0100007F:{server:04X}"}
    with open("/proc/net/tcp6") as file:
        assert not any(line.split()[1].endswith(f":{server:04X}") for line in file.readlines()[1:])


def test_a_dead_server_is_one_warning_and_a_recording_that_plays_back(server, tmp_path, caplog):
    recording = tmp_path / "deep" / "visdom.log"
    logging.getLogger("lfkit").propagate = True
    with caplog.at_level("WARNING", "lfkit"):
        board = Dashboard("dead", "http://127.0.0.1", free_port(), recording)
        for epoch in (1, 2, 3):
            plot_loss(board, epoch, REPORT)
    assert len(caplog.records) == 1 and "no visdom server at http://127.0.0.1" in caplog.text and str(recording) in caplog.text
    replay(recording, "http://127.0.0.1", server)
    assert window(server, "dead", "loss")["content"]["data"][0]["y"] == [3.0, 3.0, 3.0]


def test_a_server_that_dies_in_between(tmp_path, caplog):
    port = free_port()
    process = start_server(port, tmp_path / "env")
    board = Dashboard("dies", "http://127.0.0.1", port, tmp_path / "visdom.log")
    plot_loss(board, 1, REPORT)
    process.kill()
    process.wait(10)
    plot_loss(board, 2, REPORT)
    entries = [json.loads(line) for line in (tmp_path / "visdom.log").read_text().splitlines()]
    assert [(kind, entry["data"][0]["x"]) for kind, entry in entries if entry["win"] == "loss"] == [("events", [1.0]), ("update", [2.0])]


def test_no_recording(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such recording"):
        replay(tmp_path / "none.log")


PREDICTED = {"validation": {"epoch": 2, "scenes": {"s": {"mse": 0.5}}, "predictions": {"s": np.arange(12.0).reshape(3, 4)}}}


def test_a_prediction_is_a_picture_with_its_range():
    shown = []
    vis = type("Vis", (), {"image": lambda self, **options: shown.append(options)})()
    plot_predictions(vis, PREDICTED)
    (image,) = shown
    assert image["win"] == "disparity s" and image["img"].dtype == np.uint8 and image["img"].shape == (3, 3 * 64, 4 * 64)
    assert "epoch 2" in image["opts"]["title"] and image["opts"]["caption"] == "0.00 to 11.00 px/view, MSEx100 50.0"
    colour = 255 * np.array(matplotlib.colormaps["viridis"](1.0)[:3])
    assert np.allclose(image["img"][:, -1, -1], colour, atol=1)  # the largest disparity has the last colour


def test_curves_and_pictures_outlive_the_server(tmp_path):
    port = free_port()
    process = start_server(port, tmp_path / "env")
    board = Dashboard("kept", "http://127.0.0.1", port, tmp_path / "run" / "visdom.log")
    draw_report(board, REPORT | {"epoch": 1, "validation": REPORT["validation"] | PREDICTED["validation"] | {"mse": 0.03}})
    process.terminate()
    process.wait(10)
    kept = json.loads((tmp_path / "env" / "kept.json").read_text())["jsons"]
    assert {"loss", "mse", "bad_pix", "disparity s"} <= set(kept)
    for epoch in (2, 3):  # nobody answers now
        draw_report(board, REPORT | {"epoch": epoch, "validation": REPORT["validation"] | PREDICTED["validation"]})
    lines = [json.loads(line) for line in (tmp_path / "run" / "visdom.log").read_text().splitlines()]
    assert sum(entry.get("win") == "loss" for _, entry in lines) == 3  # from the first epoch on
    process = start_server(port, tmp_path / "env2")
    assert [path.parent.name for path in replay_new(tmp_path, tmp_path / "env2", "http://127.0.0.1", port)] == ["run"]
    assert len(window(port, "kept", "loss")["content"]["data"][0]["y"]) == 3 and "src" in window(port, "kept", "disparity s")["content"]
    process.terminate()
    process.wait(10)


def test_a_taken_port_is_named(server, tmp_path):
    with pytest.raises(ValueError, match=f"port {server} is taken, perhaps by another dashboard; pass another --port"):
        run_dashboard(server, tmp_path, tmp_path)


def test_a_recording_that_can_not_be_written_stops_no_training(tmp_path, caplog):
    (tmp_path / "file").touch()
    for recording in (tmp_path / "file" / "visdom.log", tmp_path):  # below a file, and a folder itself
        caplog.clear()
        with caplog.at_level(logging.WARNING, "lfkit"):
            board = Dashboard("run", "http://127.0.0.1", free_port(), recording)
            for epoch in (1, 2):
                draw_report(board, REPORT | {"epoch": epoch, "validation": REPORT["validation"] | PREDICTED["validation"]})
        assert sum("nothing more is drawn" in record.getMessage() for record in caplog.records) == 1


def test_a_server_that_can_not_start_is_one_sentence(tmp_path, monkeypatch, capsys):
    from lfkit.__main__ import main
    monkeypatch.setattr("lfkit.dashboard.SERVER_SECONDS", 0.5)
    monkeypatch.setattr("lfkit.dashboard.page_or_none", lambda *_: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert main(["dashboard", "--port", str(taken.getsockname()[1]), "--env_path", str(tmp_path / "v"), "--log_dir", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "did not answer within 0.5 s; is the port taken?" in told and "Traceback" not in told


def test_a_validation_is_drawn_once(tmp_path):
    board = Dashboard("run", "http://127.0.0.1", free_port(), tmp_path / "visdom.log")
    for epoch, tested in ((1, 0), (2, 0), (3, 2), (4, 2)):
        draw_report(board, REPORT | {"epoch": epoch, "validation": PREDICTED["validation"] | REPORT["validation"] | {"epoch": tested}})
    drawn = [entry for _, entry in map(json.loads, (tmp_path / "visdom.log").read_text().splitlines())]
    points = lambda win: [entry["data"][0]["x"] for entry in drawn if entry.get("win") == win]
    assert points("bad_pix") == [[0], [2]] and len(points("loss")) == 4
    assert sum(entry.get("win") == "disparity s" for entry in drawn) == 2  # its pictures too


def curves(epochs, tested):
    """Of a run of so many epochs, whose losses are their numbers, validated before the given ones."""
    held = [max(k for k in tested if k <= epoch) for epoch in range(epochs)]
    return {"train_loss": [k + 1.0 for k in range(epochs)], "loss1": [0.0] * epochs, "loss2": [0.0] * epochs, "loss3": [0.0] * epochs, "train_metric": [0.1] * epochs,
            "test_metric": [1.0 + k for k in held], "bad_pix": [10.0 + k for k in held]}


def points(entries, win, trace=0):
    return [(data["x"], data["y"]) for entry in entries if entry.get("win") == win for data in entry["data"][trace:trace + 1]]


def test_a_run_that_goes_on_is_recorded_from_its_first_epoch(server, tmp_path):
    """Five epochs validated before 0, 2 and 4, the last two by another process; none of them has a server."""
    recording, tested = tmp_path / "visdom.log", PREDICTED["validation"] | REPORT["validation"]
    for epochs in (range(1, 4), range(4, 6)):
        board = Dashboard("goes_on", "http://127.0.0.1", free_port(), recording)
        for epoch in epochs:
            before = (epoch - 1) // 2 * 2
            draw_report(board, {"epoch": epoch, "train": REPORT["train"] | {"loss": float(epoch)}, "curves": curves(epoch, (0, 2, 4)),
                                "validation": tested | {"epoch": before, "mse": 1.0 + before, "bad_pix": 10.0 + before}})
    replay(recording, "http://127.0.0.1", server)
    drawn = {win: window(server, "goes_on", win)["content"]["data"] for win in ("loss", "mse", "bad_pix")}
    assert drawn["loss"][0]["x"] == drawn["loss"][0]["y"] == [1, 2, 3, 4, 5]
    assert drawn["bad_pix"][0]["x"] == [0, 2, 4] and drawn["bad_pix"][0]["y"] == [10, 12, 14]
    assert {trace["name"]: (trace["x"], trace["y"]) for trace in drawn["mse"]} == {"training crops": ([1, 2, 3, 4, 5], pytest.approx([10] * 3 + [2] * 2)), "validation scenes": ([0, 2, 4], [100, 300, 500])}


def test_a_run_that_went_back_is_drawn_anew(server, tmp_path):
    """The server has three epochs of a run that goes on from the first of them."""
    for epochs in ((1, 2, 3), (2,)):
        board = Dashboard("went_back", "http://127.0.0.1", server, tmp_path / "visdom.log")
        for epoch in epochs:
            draw_report(board, {"epoch": epoch, "train": REPORT["train"] | {"loss": float(epoch)}, "curves": curves(epoch, (0,)), "validation": REPORT["validation"] | PREDICTED["validation"] | {"epoch": 0}})
    assert window(server, "went_back", "loss")["content"]["data"][0]["x"] == [1, 2]
    assert not (tmp_path / "visdom.log").exists()


def test_the_end_of_a_run_has_no_epoch_of_its_own(tmp_path):
    board = Dashboard("end", "http://127.0.0.1", free_port(), tmp_path / "visdom.log")
    draw_report(board, {"epoch": 2, "train": None, "curves": curves(2, (0,)), "validation": REPORT["validation"] | PREDICTED["validation"]})
    entries = [entry for _, entry in map(json.loads, (tmp_path / "visdom.log").read_text().splitlines())]
    assert points(entries, "loss") == [([1, 2], [1, 2])] and points(entries, "bad_pix") == [([0], [10]), ([2], [40])]


def test_a_place_where_nothing_may_be_written_is_known_before_a_page_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("lfkit.dashboard.page_or_none", lambda *_: pytest.fail("a page was made"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="main.json: can't be written, .*file is a file; name another place"):
        run_dashboard(free_port(), tmp_path / "file", tmp_path)

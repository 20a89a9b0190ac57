"""Curves and pictures in visdom while a run trains; recorded to a file where no server answers."""

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path

import matplotlib
import numpy as np
from visdom import Visdom

from lfkit.faults import Fault
from lfkit.files import check_target
from lfkit.visdom_page import page_or_none
from lfkit.visual import DISP_MAP, disp_limits, validated_epochs

logger = logging.getLogger("lfkit")
SERVER_SECONDS = 30  # a server that we start answers within that
CURVE_WINDOWS = ("loss", "mse", "bad_pix")
IMAGE_SIDE = 256     # pixels that a picture in the dashboard has a side, at least


class Dashboard:
    """A visdom client that never stops a training: where the server is dead it records, with one warning.

    Args:
        env: visdom environment, the run's name.
        server: address, such as http://localhost.
        port: its port.
        recording: file that gets what the server can't; `replay` plays it back.
    """

    def __init__(self, env: str, server: str, port: int, recording: str | Path):
        self.env, self.recording = env, Path(recording)
        self.address, self.history, self.vis = f"{server}:{port}", [], None
        self.tested = None  # epoch of the validation that was drawn last
        logging.getLogger("visdom").setLevel(logging.ERROR)  # it warns of every session that it sets up
        try:
            self.vis = Visdom(env=env, server=server, port=port, raise_exceptions=True, use_incoming_socket=False)
        except Exception as error:  # whatever keeps a picture from being drawn must not keep the network from training
            self._record(error)

    def _record(self, error: Exception) -> None:
        """Goes on in a file, from the run's first line: a server that died took its windows along; without pictures where that can't be written either."""
        if self.vis is not None and self.vis.offline:
            logger.warning("%s can't be written (%s): nothing more is drawn", self.recording, error)
            self.vis = None
            return
        logger.warning("no visdom server at %s (%s): recording to %s; start one and call lfkit.dashboard.replay", self.address,
                       type(error).__name__, self.recording)
        self.vis = Visdom(env=self.env, offline=True, log_to_filename=str(self.recording), use_incoming_socket=False)
        try:
            self.recording.parent.mkdir(parents=True, exist_ok=True)
            self.recording.unlink(missing_ok=True)
        except OSError as unwritable:
            self._record(unwritable)
        past, self.history = self.history, []
        for kind, options in past:
            self._draw(kind, **options)

    def _draw(self, kind: str, **options) -> None:
        if self.vis is None:
            return
        known = any(past["win"] == options["win"] for _, past in self.history)
        if kind == "image":  # the newest takes the place of those before
            self.history = [past for past in self.history if past[1]["win"] != options["win"]]
        self.history.append((kind, options))
        # a live client asks the server whether the window is there; in a recording the first line has to make it
        recorded = options if known or not self.vis.offline else {k: v for k, v in options.items() if k != "update"}
        try:
            getattr(self.vis, kind)(**recorded)
        except Exception as error:  # as above
            self._record(error)

    line, image = partialmethod(_draw, "line"), partialmethod(_draw, "image")  # as Visdom's

    def clear(self) -> None:
        """Takes the curves away, to be drawn anew: of a run that goes on the server may have more than it goes on from, or less."""
        for win in CURVE_WINDOWS:
            self._ask("close", win)

    def save(self) -> None:
        """Lets the server write the run's windows to its disk, so that they outlive it; a recording is on the disk already."""
        self._ask("save", [self.env])

    def _ask(self, what: str, value) -> None:
        """Calls Visdom's method of that name where a server answers."""
        if self.vis is not None and not self.vis.offline:
            try:
                getattr(self.vis, what)(value)
            except Exception as error:  # as above
                self._record(error)


def plot_loss(vis, epoch: int, report: dict) -> None:
    """Adds one epoch to the curves: total and three losses, MSE x 100, BadPix 0.07.

    Args:
        vis: a `Dashboard` or a visdom.Visdom.
        epoch: number of epochs trained.
        report: of `fit`, with train and validation; or of `train_epoch` alone.
    """
    trained, tested = report.get("train", report), report.get("validation")
    _add(vis, [trained | {"epoch": epoch}] if trained else [], [tested] if tested else [])


def _add(vis, trained: list[dict], tested: list[dict]) -> None:
    """Adds epochs and validations, each with its epoch, to the curves."""
    column = lambda reports, name: [report[name] for report in reports]
    if trained:
        names = ["loss", "loss1", "loss2", "loss3"]
        vis.line(X=[[epoch] * 4 for epoch in column(trained, "epoch")], Y=[[report[name] for name in names] for report in trained], win="loss", update="append",
                 opts={"title": "training loss", "xlabel": "epoch", "legend": ["total", "T (both layers)", "S (background)", "disparity"]})
        # no legend here: with one, visdom drops what is appended to a named line
        vis.line(X=column(trained, "epoch"), Y=[100 * mse for mse in column(trained, "mse")], win="mse", name="training crops", update="append",
                 opts={"title": "MSE x 100 (px²)", "xlabel": "epoch", "showlegend": True})
    if tested:
        vis.line(X=column(tested, "epoch"), Y=[100 * mse for mse in column(tested, "mse")], win="mse", name="validation scenes", update="append")
        vis.line(X=column(tested, "epoch"), Y=column(tested, "bad_pix"), win="bad_pix", update="append",
                 opts={"title": "BadPix 0.07 (%), validation scenes", "xlabel": "epoch"})


def plot_predictions(vis, report: dict) -> None:
    """Shows each validated scene's predicted disparity, in its own range, with that and the error in the caption.

    Args:
        vis: a `Dashboard` or a visdom.Visdom.
        report: of `fit`.
    """
    tested = report["validation"]
    for name, disp in tested["predictions"].items():
        low, high = disp_limits(disp)
        colours = matplotlib.colormaps[DISP_MAP]((disp - low) / (high - low), bytes=True)[..., :3]
        zoom = max(1, -(-IMAGE_SIDE // max(disp.shape)))
        vis.image(img=np.kron(colours.transpose(2, 0, 1), np.ones((1, zoom, zoom), np.uint8)), win=f"disparity {name}", opts={
            "title": f"{name}, epoch {tested['epoch']}", "caption": f"{low:.2f} to {high:.2f} px/view, MSEx100 {100 * tested['scenes'][name]['mse']:.1f}"})


def _past(report: dict) -> tuple[list[dict], list[dict]]:
    """What a report of `fit` tells of the epochs before its own by its curves: those trained and the validations, each with its epoch."""
    curves, last = report.get("curves") or {"train_loss": [], "test_metric": []}, report["train"] is not None
    length = len(curves["train_loss"])
    first = report["epoch"] - length  # epochs before the first of the curves
    row = lambda k, **names: {name: curves[curve][k] for name, curve in names.items()}
    trained = [{"epoch": first + k + 1, **row(k, loss="train_loss", loss1="loss1", loss2="loss2", loss3="loss3", mse="train_metric")} for k in range(length - last)]
    return trained, [{"epoch": first + k, **row(k, mse="test_metric", bad_pix="bad_pix")} for k in validated_epochs(curves["test_metric"]) if first + k != report["validation"]["epoch"]]


def draw_report(board: Dashboard, report: dict) -> None:
    """Adds one report of `fit` to the dashboard: the curves, and after a validation its pictures; to a new dashboard of a run that goes on also the epochs before."""
    if board.tested is None and any(past := _past(report)):
        board.clear()
        _add(board, *past)
    if report["validation"]["epoch"] == board.tested:  # reports hold the newest until there is another
        report = report | {"validation": None}
    else:
        plot_predictions(board, report)
        board.tested = report["validation"]["epoch"]
    plot_loss(board, report["epoch"], report)
    board.save()


def replay(recording: str | Path, server: str = "http://localhost", port: int = 9878) -> None:
    """Plays a recording back into a visdom server, and saves its environment there.

    Raises:
        FileNotFoundError: when there is no recording.
        ConnectionError: when no server answers.
    """
    if not Path(recording).exists():
        raise FileNotFoundError(f"{recording}: no such recording")
    vis = Visdom(server=server, port=port, raise_exceptions=True, use_incoming_socket=False)
    vis.replay_log(str(recording))
    vis.save(vis.get_env_list())


def replay_new(log_dir: str | Path, env_path: str | Path, server: str, port: int) -> Iterator[Path]:
    """Plays back the recordings of the runs in log_dir that are newer than what the server has saved of their runs, and yields each."""
    for recording in sorted(Path(log_dir).glob("*/visdom.log")):
        saved = Path(env_path) / f"{recording.parent.name}.json"
        if not saved.exists() or saved.stat().st_mtime < recording.stat().st_mtime:
            replay(recording, server, port)
            yield recording


START = """
import sys
from visdom.server import app, run_server
if sys.argv[1]:
    app.tornado_settings.update(static_path=sys.argv[1], template_path=sys.argv[1])
del sys.argv[1]
run_server.main()
"""


def start_server(port: int, env_path: str | Path, page: str | Path | None = None) -> subprocess.Popen:
    """Starts a visdom server on the loopback interface and waits until it answers.

    It is started past visdom's own download of its page, so that it starts without the internet too.

    Args:
        port: where it listens, on 127.0.0.1 only.
        env_path: folder of its saved environments; made if missing.
        page: folder of a complete page, see `lfkit.visdom_page.make_page`; without it the server works, and its page is blank.

    Raises:
        Fault: when it ends, or does not answer within 30 seconds.
    """
    Path(env_path).mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen([sys.executable, "-c", START, str(Path(page).resolve()) if page else "", "-port", str(port), "-bind_local",
                               "-env_path", str(env_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            Visdom(server="http://127.0.0.1", port=port, raise_exceptions=True, use_incoming_socket=False)
            if server.poll() is None:  # else another's answered, who has the port
                return server
        except Exception:  # not up yet, whatever the reason
            time.sleep(0.2)
    server.terminate()
    raise Fault(f"the visdom server on port {port} did not answer within {SERVER_SECONDS} s; is the port taken?")


def run_dashboard(port: int, env_path: str | Path, log_dir: str | Path) -> None:
    """Serves the dashboard on loopback until it is interrupted, with the recordings that runs in log_dir made while it was down.

    Raises:
        ValueError: when the port is taken, or nothing may be written in env_path.
    """
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise ValueError(f"port {port} is taken, perhaps by another dashboard; pass another --port, and to train --visdom_port")
    check_target(Path(env_path) / "main.json")
    server = start_server(port, env_path, page_or_none(Path(env_path) / "page"))
    try:
        for recording in replay_new(log_dir, env_path, "http://127.0.0.1", port):
            print(f"replayed {recording}")
        print(f"http://127.0.0.1:{port}; train with --if_visdom 1 --visdom_port {port}; stop with Ctrl-C", flush=True)
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.terminate()
        server.wait()

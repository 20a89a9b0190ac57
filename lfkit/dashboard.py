"""Curves in visdom while a run trains; recorded to a file where no server answers."""

import logging
import subprocess
import sys
import time
from pathlib import Path

from visdom import Visdom

logger = logging.getLogger("lfkit")
SERVER_SECONDS = 30  # a server that we start answers within that


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
        self.address, self.history = f"{server}:{port}", []
        logging.getLogger("visdom").setLevel(logging.ERROR)  # it warns of every session that it sets up
        try:
            self.vis = Visdom(env=env, server=server, port=port, raise_exceptions=True, use_incoming_socket=False)
        except Exception as error:  # whatever keeps a picture from being drawn must not keep the network from training
            self._record(error)

    def _record(self, error: Exception) -> None:
        """Goes on in a file, from the run's first line: a server that died took its windows along."""
        logger.warning("no visdom server at %s (%s): recording to %s; start one and call lfkit.dashboard.replay", self.address,
                       type(error).__name__, self.recording)
        self.recording.parent.mkdir(parents=True, exist_ok=True)
        self.recording.unlink(missing_ok=True)
        self.vis = Visdom(env=self.env, offline=True, log_to_filename=str(self.recording), use_incoming_socket=False)
        past, self.history = self.history, []
        for options in past:
            self.line(**options)

    def line(self, **options) -> None:
        """As Visdom.line."""
        known = any(past["win"] == options["win"] for past in self.history)
        self.history.append(options)
        # a live client asks the server whether the window is there; in a recording the first line has to make it
        recorded = options if known or not self.vis.offline else {k: v for k, v in options.items() if k != "update"}
        try:
            self.vis.line(**recorded)
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
    if trained:
        names = ["loss", "loss1", "loss2", "loss3"]
        vis.line(X=[[epoch] * 4], Y=[[trained[name] for name in names]], win="loss", update="append",
                 opts={"title": "training loss", "xlabel": "epoch", "legend": ["total", "T (both layers)", "S (background)", "disparity"]})
        vis.line(X=[epoch], Y=[100 * trained["mse"]], win="mse", name="training crops", update="append",
                 opts={"title": "MSE x 100 (px²)", "xlabel": "epoch", "showlegend": True, "legend": ["training crops"]})
    if tested:
        vis.line(X=[tested["epoch"]], Y=[100 * tested["mse"]], win="mse", name="validation scenes", update="append")
        vis.line(X=[tested["epoch"]], Y=[tested["bad_pix"]], win="bad_pix", update="append",
                 opts={"title": "BadPix 0.07 (%), validation scenes", "xlabel": "epoch"})


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


def start_server(port: int, env_path: str | Path) -> subprocess.Popen:
    """Starts a visdom server on the loopback interface and waits until it answers.

    It is started past visdom's own download of its page, so that it starts without the internet too.

    Args:
        port: where it listens, on 127.0.0.1 only.
        env_path: folder of its saved environments; made if missing.

    Raises:
        RuntimeError: when it ends, or does not answer within 30 seconds.
    """
    Path(env_path).mkdir(parents=True, exist_ok=True)
    start = "from visdom.server.run_server import main; main()"
    server = subprocess.Popen([sys.executable, "-c", start, "-port", str(port), "-bind_local", "-env_path", str(env_path)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            Visdom(server="http://127.0.0.1", port=port, raise_exceptions=True, use_incoming_socket=False)
            return server
        except Exception:  # not up yet, whatever the reason
            time.sleep(0.2)
    server.terminate()
    raise RuntimeError(f"the visdom server on port {port} did not answer within {SERVER_SECONDS} s; is the port taken?")

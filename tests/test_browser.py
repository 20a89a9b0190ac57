"""The dashboard and the training notebook, looked at in a headless browser. Screenshots are kept in runs/screenshots."""

import json
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import imageio.v3 as iio
import nbformat
import numpy as np
import pytest

from browser import Browser, find_browser, wait
from lfkit.__main__ import main
from lfkit.dashboard import replay_new, start_server
from lfkit.visdom_page import make_page

ROOT = Path(__file__).parents[1]
PAGE = Path(os.environ.get("LFKIT_VISDOM_PAGE", ROOT / "runs" / "visdom" / "page"))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def browser(tmp_path):
    find_browser()
    page = Browser(tmp_path / "profile")
    yield page
    page.close()


@pytest.fixture
def page_folder():
    find_browser()  # before the packages are asked for
    try:
        return make_page(PAGE)
    except (FileNotFoundError, ConnectionError) as error:
        pytest.skip(f"no page to look at: {error}")


@pytest.fixture
def logger():
    """The package's logger, given back as it was: a run that trains in this process takes it over."""
    log = logging.getLogger("lfkit")
    handlers, propagate = list(log.handlers), log.propagate
    yield log
    log.handlers[:], log.propagate = handlers, propagate


LINE = "document.querySelectorAll('.js-plotly-plot .scatterlayer path.js-line').length"
IMAGE = "[...document.querySelectorAll('.window img')].some(i => i.naturalWidth >= 128)"


def test_training_fills_the_dashboard_and_a_recording_is_replayed(browser, page_folder, tmp_path, logger):
    flags = ["--data_dir", str(tmp_path / "d"), "--patch_size", "24", "--channels", "4", "--views_num", "3", "--device", "cpu", "--val_every", "1", "--epoch", "3",
             "--if_visdom", "1", "--visdom_server", "http://127.0.0.1"]
    assert main(["synth", "--out", str(tmp_path / "d"), "--scenes", "3", "--size", "32", "--views_num", "3"]) == 0
    assert main(["train", *flags, "--visdom_port", "9", "--log_dir", str(tmp_path / "down")]) == 0  # nobody answers there
    port = free_port()
    server = start_server(port, tmp_path / "env", page_folder)
    try:
        played = list(replay_new(tmp_path / "down", tmp_path / "env", "http://127.0.0.1", port))
        assert len(played) == 1 and list(replay_new(tmp_path / "down", tmp_path / "env", "http://127.0.0.1", port)) == []
        assert main(["train", *flags, "--visdom_port", str(port), "--log_dir", str(tmp_path / "up")]) == 0
        runs = {"replayed": played[0].parent.name, "live": next((tmp_path / "up").iterdir()).name}
        for kind, run in runs.items():
            browser.open(f"http://127.0.0.1:{port}/env/{run}")
            assert browser.wait_for(f"{LINE} >= 5 && {IMAGE} && {LINE}") >= 5  # four losses, two MSEs, BadPix
            assert "training loss" in browser.run("document.body.innerText")
            assert np.ptp(iio.imread(browser.screenshot(f"dashboard_{kind}.png"))[..., :3]) > 200
        assert (tmp_path / "env" / f"{runs['live']}.json").exists()
        assert not browser.outside
    finally:
        server.terminate()
        server.wait()


def start_lab(folder):
    """JupyterLab on loopback, on a folder, without the pop-ups of a first start; its process and the address of a notebook in it."""
    port, token = free_port(), secrets.token_hex(16)
    parts = {name: folder / name.lower() for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    settings = {"apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
                "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True}}  # all cells in the page; no dialog
    for name, values in settings.items():
        file = parts["JUPYTERLAB_SETTINGS_DIR"] / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    env = {**os.environ, **{name: str(path) for name, path in parts.items()}, "LFKIT_PROFILE": "ci", "LFKIT_RUN_DIR": str(folder / "run"), "OMP_NUM_THREADS": "1",
           "JUPYTER_PATH": str(Path(sys.prefix) / "share" / "jupyter"), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    env.pop("MPLBACKEND", None)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
               f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'notebooks'}", "--LabApp.expose_app_in_browser=True",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", *(["--allow-root"] if os.geteuid() == 0 else [])]
    lab = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    def answers():
        assert lab.poll() is None, f"jupyter lab ended with {lab.returncode}"
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=5)
        except OSError:
            return None
    wait(answers, 90, "an answer of jupyter lab")
    return lab, lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}?token={token}&reset"


@pytest.fixture
def lab(tmp_path):
    find_browser()
    (tmp_path / "notebooks").mkdir()
    process, address = start_lab(tmp_path)
    yield tmp_path / "notebooks", address
    process.terminate()
    process.wait(30)


READY = "document.querySelector('.jp-NotebookPanel .jp-Notebook-ExecutionIndicator')?.getAttribute('data-status') === 'idle' "
CELLS = "[...document.querySelectorAll('.jp-NotebookPanel .jp-CodeCell')]"
# keeps each picture that a cell has shown, by the cell's place
WATCH = f"""window.seen = {{}}; setInterval(() => {CELLS}.forEach((cell, k) => cell.querySelectorAll('.jp-OutputArea-output img').forEach(
    image => (window.seen[k] ??= new Set()).add(image.src))), 50); 1"""
PROMPTS = f"{CELLS}.map(cell => cell.querySelector('.jp-InputPrompt').innerText)"
DONE = f"{PROMPTS}.length > 0 && {PROMPTS}.every(text => /[0-9]/.test(text) || text.trim() === '') && !{PROMPTS}.some(text => text.includes('*'))"
ERRORS = "document.querySelectorAll('[data-mime-type=\"application/vnd.jupyter.error\"]').length"


def run_all(browser, folder, address, notebook):
    """Opens a notebook, runs all of its cells by the command behind the menu's Run All, and waits for their end."""
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}  # else a dialog asks for it
    nbformat.write(notebook, folder / "run_all.ipynb")
    browser.open(address("run_all.ipynb"))
    browser.wait_for(READY, 90)
    browser.run(WATCH)
    time.sleep(3)  # a kernel that says idle has not told all of its page's extensions yet: widgets made at once are never drawn
    def done():
        if browser.run(f"{DONE} || {ERRORS} > 0"):
            return True
        if not browser.run(f"{PROMPTS}.some(text => text.includes('*'))"):  # again where a kernel that has only just been connected dropped the cells
            browser.click(700, 600)  # only a notebook that was clicked into is the active one, whose cells a command runs
            if browser.run("window.jupyterapp.commands.isEnabled('notebook:run-all-cells')"):
                browser.run("void window.jupyterapp.commands.execute('notebook:run-all-cells')")  # it gives a promise of the end; not waited for
            time.sleep(2)
        return False
    wait(done, 300, "the end of the notebook")
    assert browser.run(ERRORS) == 0


def test_run_all_draws_live_curves_in_jupyterlab(browser, lab):
    folder, address = lab
    notebook = nbformat.read(ROOT / "notebooks" / "03_training.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.source = cell.source.replace("device = lfkit.choose", "args.epoch = 4  # so that a curve grows before one's eyes\ndevice = lfkit.choose")
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("args.epoch = 4" in source for source in code) == 1
    run_all(browser, folder, address, notebook)
    live = [k for k, source in enumerate(code) if "live(report)" in source]
    pictures = browser.run("Object.fromEntries(Object.entries(window.seen).map(([k, s]) => [k, s.size]))")
    browser.screenshot("lab_03_training.png")
    assert len(live) == 2 and all(pictures.get(str(k), 0) >= 2 for k in live), pictures  # epochs 1 and 2, and after resuming 3 and 4
    assert browser.run(f"{CELLS}[{live[-1]}].querySelectorAll('.jp-OutputArea-output img').length") == 1


PICK = """import numpy as np
from lfkit.inspection import inspect_pixel
both, single = np.random.default_rng(0).random((2, 9, 40, 60))
inspect_pixel(both, single, (np.indices((40, 60)).sum(0)[..., None] % 2 * np.ones(3)), 4, 1)"""


def test_a_click_in_jupyterlab_reaches_the_kernel(browser, lab):
    folder, address = lab
    run_all(browser, folder, address, nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PICK)]))
    browser.wait_for("!!document.querySelector('img[onclick]') && document.querySelectorAll('[data-mime-type=\"image/png\"] img, .jp-RenderedImage img').length > 0", 40)
    picture = "document.querySelector('.jp-RenderedImage img')"
    before = browser.run(f"{picture}.src")
    place = browser.run("(() => { const i = document.querySelector('img[onclick]'); i.scrollIntoView({block: 'center'}); const r = i.getBoundingClientRect(); "
                        "return [r.x, r.y, i.width, i.height]; })()")
    browser.click(place[0] + place[2] * 12.5 / 60, place[1] + place[3] * 30.5 / 40)
    assert browser.wait_for("document.querySelector('[class*=lfkit-pixel] input').value") == "30, 12"
    browser.wait_for(f"{picture}.src !== {json.dumps(before)}")
    browser.screenshot("lab_click.png")


def test_a_browser_that_is_not_there_is_a_skip_with_its_reason(monkeypatch):
    monkeypatch.setenv("LFKIT_BROWSER", "none")
    with pytest.raises(pytest.skip.Exception, match=re.escape("no browser: looked for none; install Chromium, or name one with LFKIT_BROWSER")):
        find_browser()
    assert shutil.which("none") is None

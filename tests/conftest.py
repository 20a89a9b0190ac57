"""What the tests share: small scenes, a small trained-on-nothing network."""

import logging
import os
import signal
from pathlib import Path

import pytest
import torch

import lfkit

torch.set_num_threads(1)  # the tensors are small, and two processes whose threads wait for one another are slow
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored

DATA = Path(os.environ.get("LFKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def scene():
    """A two-layer scene of 48 x 48 pixels without noise."""
    return lfkit.synthesize(3, size=48, noise=0.0, occluded=True)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data directory of five small scenes: three to train on, one to validate, one to test."""
    root = tmp_path_factory.mktemp("data")
    lfkit.write_synthetic(root, scenes=5, size=40, seed=0, render=lfkit.synthesize)
    return root


@pytest.fixture
def args(data_dir, tmp_path):
    """Arguments of a tiny run."""
    return lfkit.get_parser(["--data_dir", str(data_dir), "--log_dir", str(tmp_path / "log"), "--patch_size", "24", "--batch_size", "2",
                             "--channels", "4", "--views_num", "3", "--epoch", "3", "--val_every", "2", "--device", "cpu", "--lr", "1e-3", "--test_length", "64"])


@pytest.fixture
def model():
    """A seeded network for 9 x 9 views."""
    torch.manual_seed(0)
    return lfkit.DeoccNet(channels=4)


def real(path: str) -> Path:
    """A real scene, or a skip that says where it was looked for."""
    if not (DATA / path).exists():
        pytest.skip(f"no real scene at {DATA / path}; set LFKIT_DATA to the folder that holds it")
    return DATA / path


@pytest.fixture(autouse=True)
def plain_logger():
    """The logger as it is before a run: what one test's run directory made of it does not come to the next."""
    yield
    logger = logging.getLogger("lfkit")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


def plane(disp: float, size: int = 40, n: int = 5) -> torch.Tensor:
    """A smooth picture at one disparity, 'b n c h w', written down from the definition of disparity."""
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    views = []
    for u in range(n):
        for v in range(n):
            i, j = y - (n // 2 - u) * disp, x - (n // 2 - v) * disp  # the centre's pixel that this view's pixel shows
            views.append(torch.stack([torch.sin(0.4 * i + 0.2 * j), torch.cos(0.3 * j), torch.sin(0.25 * (i - j))]) * 0.3 + 0.5)
    return torch.stack(views)[None]

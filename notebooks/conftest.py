"""The notebooks under nbval: in order, in one fresh run directory, small; nothing after a cell that failed."""

import os
import shutil
import tempfile

import pytest

failed = []


def pytest_configure(config):
    if getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("the notebooks are ordered and share a run directory: run them without -n")
    config.lfkit_run_dir = tempfile.mkdtemp(prefix="lfkit-run-")
    os.environ["LFKIT_RUN_DIR"] = config.lfkit_run_dir  # kernels inherit the environment
    os.environ.setdefault("LFKIT_PROFILE", "ci")
    os.environ.setdefault("OMP_NUM_THREADS", "1")        # as in tests/conftest.py
    os.environ.pop("MPLBACKEND", None)                  # Agg would switch inline figures off


def pytest_unconfigure(config):
    shutil.rmtree(config.lfkit_run_dir, ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: (item.path.name, getattr(item, "cell_num", -1)))


def pytest_runtest_makereport(item, call):
    if call.excinfo is not None and call.when != "teardown" and not call.excinfo.errisinstance(pytest.skip.Exception):
        failed.append(item.name)


def pytest_runtest_setup(item):
    if failed:
        pytest.skip(f"{failed[0]} failed before")

import re
import shlex
from pathlib import Path

import pytest

from lfkit.__main__ import make_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    python -m lfkit")]


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_parse(command):
    argv = [word for word in shlex.split(command)[3:] if word != "..."]
    assert make_parser().parse_args(argv).command == argv[0]


def test_its_files_are_there():
    assert len(COMMANDS) >= 5
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    for notebook in re.findall(r"`(0\d_\w+)`", README):
        assert (ROOT / "notebooks" / f"{notebook}.ipynb").exists(), notebook


def test_its_make_targets_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"make ([a-z]+)", README)) <= set(targets)

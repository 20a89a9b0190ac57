"""environment.yml and pyproject.toml name the same packages at the same versions."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"matplotlib-base": "matplotlib"}


def split(requirement):
    name, version = re.match(r"([A-Za-z0-9_-]+)\s*(.*)", requirement).groups()
    return CONDA_NAMES.get(name, name), version.replace(" ", "")


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = dict(split(r) for r in [*project["dependencies"], *project["optional-dependencies"]["test"]])
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    given = dict(split(r) for r in [*plain, *(p for p in pip if not p.startswith("-"))])
    python = given.pop("python")
    given.pop("pip")
    assert given == wanted and project["requires-python"] == ">=3.11" and python.startswith(">=3.11")
    assert environment["channels"][0] == "conda-forge" and "-e ." in pip


def test_the_top_level_is_what_the_mission_names():
    for name in ("notebooks", "lfkit", "environment.yml", "tests", "README.md", "LICENSE", "Makefile", "pyproject.toml", ".ci/run"):
        assert (ROOT / name).exists(), name

"""The workflows of the forge run the scripts of ``.ci/``, which are what ``.ci/run`` runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_each_command_is_a_script_that_is_there(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    scripts = set(re.findall(r"\.ci/[\w.]+(?=[ \n\)])", text))
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)
    commands = re.findall(r"^ +- run: (.*)$", text, re.MULTILINE)
    others = [command for command in commands if ".ci/" not in command]
    assert all(command.startswith("python -m pip install -q") for command in others)


def test_the_job_that_is_published_is_one_of_the_matrix() -> None:
    listed = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "matrix.py"), "--list"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    release = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert re.findall(r"matrix\.py (\w+)", release) == ["build"]
    assert {"build", "docs", "lint"} <= {*listed}


def test_every_supported_python_is_set_up() -> None:
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    supported = set(re.findall(r"Python :: (3\.\d+)", project))
    assert supported <= set(re.findall(r"^ +(3\.\d+)$", ci, re.MULTILINE))

"""When, where and of what a report was made."""

from __future__ import annotations

import platform
import shlex
import subprocess
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

_PACKAGES = ("pytest-djcelery", "celery", "Django", "pytest")
_PATIENCE = 2.0  # seconds for git


def of_run(config: pytest.Config) -> dict[str, Any]:
    """The date, the commit, the command and the versions of a run, and the root of its paths."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": _commit(config.rootpath),
        "command": shlex.join(["pytest", *map(str, config.invocation_params.args)]),
        "versions": {
            "Python": platform.python_version(),
            **{name: found for name in _PACKAGES if (found := _version(name))},
        },
        "root": str(config.rootpath),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(folder: Path) -> str | None:
    """The commit that is checked out, marked where there are changes; ``None`` without git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],  # noqa: S607 - wherever the developer has it
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None

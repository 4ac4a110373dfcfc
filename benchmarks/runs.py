"""Start pytest in a separate process, with exactly the plugins that are wanted."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution, entry_points
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

HERE = Path(__file__).parent
PROJECT = HERE / "project"

OURS = "djcelery"
PYTEST_CELERY = ("celery", "docker_tools")  # it brings pytest-docker-tools

# Bytecode of this benchmark's own, kept until it ends: what is measured is a warm start, also where
# the environment has Python write none.
_BYTECODE = tempfile.TemporaryDirectory(prefix="djcelery-benchmark-")
_UNWANTED = ("DJANGO_SETTINGS_MODULE", "PYTEST_ADDOPTS", "PYTHONDONTWRITEBYTECODE")


class RunFailedError(Exception):
    """A measured pytest run did not pass; its output says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Seconds. On a busy machine, processor time says more than wall-clock time."""

    clock: float
    processor: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(clock=self.clock + other.clock, processor=self.processor + other.processor)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(clock=self.clock - other.clock, processor=self.processor - other.processor)

    def __truediv__(self, count: int) -> Cost:
        return Cost(clock=self.clock / count, processor=self.processor / count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What `probe` has measured in one run."""

    raw: dict[str, Any]

    def seconds(self, test: str, *phases: str) -> list[float]:
        """For each run of a test, the seconds of these phases together; of all if none is given."""
        return [cost.clock for cost in self.costs(test, *phases)]

    def costs(self, test: str, *phases: str) -> list[Cost]:
        """The same, in processor time."""
        cases: list[Cost] = []
        for name, when, clock, processor in self.raw["reports"]:
            if name != test:
                continue
            if when == "setup":
                cases.append(Cost(clock=0, processor=0))
            if when in (phases or ("setup", "call", "teardown")):
                cases[-1] += Cost(clock=clock, processor=processor)
        return cases


def measured(
    tests: str,
    *options: str,
    keep: Sequence[str],
    count: int,
    environment: dict[str, str] | None = None,
) -> Figures:
    """Run tests of the project under `probe`.

    Args:
        tests: A file, or a file and a test.
        *options: Options for pytest.
        keep: Entry points of plugins to load, besides pytest-django.
        count: The value of ``BENCHMARK_COUNT`` for the tests.
        environment: More variables.

    Raises:
        RunFailedError: A test fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "figures.json")
        variables = {
            "BENCHMARK_COUNT": str(count),
            "BENCHMARK_OUTPUT": str(output),
            **(environment or {}),
        }
        run_pytest("-p", "probe", *options, tests, keep=keep, folder=PROJECT, environment=variables)
        return Figures(raw=json.loads(output.read_text()))


def forget_rewritten() -> None:
    """Let the next run start cold: without pytest's cache of the modules that it rewrites.

    A fresh container starts like that, since pip has compiled what it installed.
    """
    for file in Path(_BYTECODE.name).rglob("*-pytest-*.pyc"):
        file.unlink()


@contextmanager
def installed() -> Iterator[dict[str, str]]:
    """Make the plugin look as if it were installed from a wheel, and return how a run sees that.

    For an editable installation, which this one is, pytest knows no modules to rewrite.
    """
    with tempfile.TemporaryDirectory(prefix="djcelery-benchmark-") as folder:
        package = Path(folder, "pytest_djcelery")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(HERE.parent / "pytest_djcelery", package, ignore=ignored)
        about = Path(folder, "pytest_djcelery-0.dist-info")
        about.mkdir()
        own = distribution("pytest-djcelery")
        for name in ("METADATA", "entry_points.txt"):
            (about / name).write_text(own.read_text(name) or "", encoding="utf-8")
        files = [file.relative_to(folder) for file in Path(folder).rglob("*") if file.is_file()]
        record = "".join(f"{file.as_posix()},,\n" for file in files)
        (about / "RECORD").write_text(record, encoding="utf-8")
        yield {"PYTHONPATH": os.pathsep.join([str(HERE), folder])}


def unreachable(name: str, host: str, port: int) -> str:
    """Why a server can't be measured; nothing if it answers."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError as error:
        return f"no {name} at {host}:{port} ({error})"
    return ""


def startup_cost(folder: Path) -> Cost:
    """What our plugin did in a pytest process in which no test used it, as `probe_startup` saw."""
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary, "figures.json")
        run_pytest(
            "-p", "probe_startup", "bench_one_test.py",
            keep=[OURS], folder=folder, environment={"BENCHMARK_OUTPUT": str(output)},
        )  # fmt: skip
        return Cost(**json.loads(output.read_text()))


def run_pytest(
    *arguments: str, keep: Sequence[str], folder: Path, environment: dict[str, str] | None = None
) -> Cost:
    """Run pytest in a folder, and return what its process cost.

    Raises:
        RunFailedError: A test fails.
    """
    command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider"]
    command += [*_only(keep), *arguments]
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, "PYTHONPATH": path, "PYTHONPYCACHEPREFIX": _BYTECODE.name}
    variables = {name: value for name, value in variables.items() if name not in _UNWANTED}
    variables |= environment or {}
    start, before = perf_counter(), _processor_time_of_children()
    process = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    cost = Cost(clock=perf_counter() - start, processor=_processor_time_of_children() - before)
    if process.returncode:
        raise RunFailedError(f"{' '.join(command)}\n{process.stdout}\n{process.stderr}")
    return cost


def _processor_time_of_children() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


def _only(keep: Sequence[str]) -> list[str]:
    """Options that block all plugins installed here except pytest-django and these."""
    names = {each.name for each in entry_points(group="pytest11")}
    blocked = sorted(names - {"django", *keep})
    return [option for name in blocked for option in ("-p", f"no:{name}")]


def added(without: Callable[[], Cost], with_it: Callable[[], Cost], pairs: int) -> Cost:
    """What something adds: the medians of the differences of runs next to each other in time.

    Each goes first as often as the other.
    """
    differences = []
    for number in range(pairs):
        if number % 2:
            after, before = with_it(), without()
        else:
            before, after = without(), with_it()
        differences.append(after - before)
    return middle(differences)


def least(costs: Sequence[Cost]) -> Cost:
    """The smallest of each: the cost when nothing else uses the machine."""
    return Cost(
        clock=min(each.clock for each in costs),
        processor=min(each.processor for each in costs),
    )


def middle(costs: Sequence[Cost]) -> Cost:
    """The medians."""
    return Cost(
        clock=median(each.clock for each in costs),
        processor=median(each.processor for each in costs),
    )

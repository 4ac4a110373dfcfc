"""Run Celery's own integration tests over a worker of the plugin.

``python -m tests.celery_suite.run ENGINE [PYTEST ARGUMENTS]``, an engine of `declared.ENGINES`, or
``all``: side by side, for they wait more than they work.

The tests are those of the Celery that is installed, out of its sdist, which pip downloads: nothing
of them is copied into this project. `conftest_of_suite.py` stands in the place of their
``conftest.py``, and `declared.py` has what does not pass, with its reasons: an entry that passes
fails the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import celery

from tests.celery_suite.declared import ENGINES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODULES = ("test_tasks.py", "test_canvas.py")
TIMEOUT = 900  # seconds, five times what the longest takes
INI = """
[pytest]
DJANGO_SETTINGS_MODULE = suite_project.settings
pythonpath = .
djcelery_timeout = 25
log_level = INFO
djcelery_unhandled_failures = ignore
djcelery_sent_in_transaction = ignore
xfail_strict = true
python_classes = test_*
addopts = -ra -p no:randomly -p no:cacheprovider -p no:asyncio -p no:anyio
filterwarnings =
    ignore::pytest.PytestUnknownMarkWarning
    ignore::DeprecationWarning
    ignore::celery.exceptions.CPendingDeprecationWarning
    ignore::pytest_djcelery.QueueNotConsumedWarning
    ignore::pytest_djcelery.LimitNotEnforcedWarning
"""


def sdist(folder: Path) -> Path:
    """Unpack the sdist of the installed Celery, and return where it is."""
    wanted = f"celery=={celery.__version__}"
    pip = os.environ.get("PIP", f"{sys.executable} -m pip").split()
    download = ["download", "-q", "--no-deps", "--no-binary", "celery", "-d", str(folder), wanted]
    subprocess.run([*pip, *download], check=True)
    [archive] = folder.glob("celery-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def prepare(source: Path, folder: Path) -> None:
    """Lay out a Django project with Celery's tests in it."""
    shutil.copytree(
        source / "t", folder / "t", ignore=shutil.ignore_patterns("unit", "smoke", "benchmarks")
    )
    tests = folder / "t/integration"
    (tests / "conftest.py").rename(tests / "conftest_of_celery.py")
    shutil.copy(HERE / "conftest_of_suite.py", tests / "conftest.py")
    for module in MODULES:
        # The plugin's fixture of that name is a worker in a thread, and inline is none.
        text = (tests / module).read_text()
        (tests / module).write_text(text.replace("celery_session_worker", "suite_worker"))
    shutil.copy(HERE / "declared.py", folder / "declared.py")
    shutil.copytree(HERE / "suite_project", folder / "suite_project")
    (folder / "pytest.ini").write_text(INI)


def start(engine: str, source: Path, folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """Start the tests over an engine; what they print goes to ``output.txt`` in the folder."""
    folder.mkdir()
    prepare(source, folder)
    command = [sys.executable, "-m", "pytest", *ENGINES[engine].arguments(), *arguments]
    if not any(argument.startswith("t/") for argument in arguments):
        command += [f"t/integration/{module}" for module in MODULES]
    environment = {**os.environ, "CELERY_SUITE_ENGINE": engine}
    for name in ("PYTEST_ADDOPTS", "DJANGO_SETTINGS_MODULE"):
        environment.pop(name, None)
    with (folder / "output.txt").open("w") as output:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
        )


def main(chosen: str, *arguments: str) -> int:
    """Run the tests over an engine, or all; 1 where a test is not as `declared.py` has it."""
    if chosen not in {*ENGINES, "all"}:
        print(f"no such engine: {chosen}; there are: {', '.join(ENGINES)}, all", file=sys.stderr)
        return 2
    engines = list(ENGINES) if chosen == "all" else [chosen]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = sdist(folder)
        runs = {name: start(name, source, folder / name, list(arguments)) for name in engines}
        try:
            codes = {name: run.wait(TIMEOUT) for name, run in runs.items()}
        finally:
            for name, run in runs.items():
                run.kill()
                print(f"\n=== Celery's tests over {name}", flush=True)
                print((folder / name / "output.txt").read_text(), flush=True)
    return int(any(codes.values()))


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or ["all"])))

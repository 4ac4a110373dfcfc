#!/usr/bin/env python3
"""Run the jobs of the matrix: `python3 .ci/matrix.py [--list] [NAME …]`, all when none is named.

Two jobs run at a time (DJCELERY_CI_JOBS changes that). What a job printed is in
`.ci/work/NAME.log`, and is shown here when the job fails. Jobs share no database and no Redis
database. A job whose Python or server is missing is skipped, and failed where CI=true.

Needs Python 3.10 and pip; what else is missing (uv, MariaDB's headers, Chromium) it installs.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".ci" / "work"
LEFT_OUT = WORK / "left-out.txt"  # the tests that the quick start skipped, for want of servers
UV = WORK / "tools" / "bin" / "uv"
NEWEST = "3.13"
FORKY = threading.Lock()
JOB_TIMEOUT = 1800  # seconds, thrice what the longest takes; then a job that hangs is ended
IN_CI = os.environ.get("CI") == "true"
SUMMARY = re.compile(r"^=+ .*\b(?:passed|failed|skipped|error)\b.* in .*=+$", re.MULTILINE)


class JobError(Exception):
    """A job failed for a reason that is not a command's exit code."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something to run in an environment of its own."""

    name: str
    python: str = NEWEST
    optional: ClassVar[bool] = False  # whether it may be skipped in CI, too

    @property
    def env(self) -> Path:
        """The folder of the job's environment."""
        return WORK / self.name

    def command(self, program: str) -> str:
        """Return the path of a program of the job's environment."""
        return str(self.env / "bin" / program)

    def install(self, shell: Shell, *arguments: str) -> None:
        """Make the environment anew and install into it."""
        shell.run(
            str(UV), "venv", "-q", "--clear", "--python", find_python(self.python), str(self.env)
        )
        # Compiled once here, not by each of the processes that the tests start.
        install = [str(UV), "pip", "install", "-q", "--compile-bytecode"]
        shell.run(*install, "--python", str(self.env), *arguments)

    def perform(self, shell: Shell) -> None:
        """Do the job; an exception is its failure."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Lint(Job):
    """Ruff's rules and formatting, strict types here and in the example, imports' direction."""

    def perform(self, shell: Shell) -> None:
        self.install(shell, "--group", "dev", "-e", ".")
        shell.run(self.command("ruff"), "check", ".")
        shell.run(self.command("ruff"), "format", "--check", ".")
        shell.run(self.command("mypy"), "--strict")
        shell.run(self.command("python"), "-m", "tests.types_of_examples")
        shell.run(self.command("lint-imports"))


@dataclass(frozen=True, kw_only=True)
class Docs(Job):
    """The site, built without a warning; addresses on it are tried where there is a network."""

    def perform(self, shell: Shell) -> None:
        self.install(shell, "--group", "docs", "-e", ".")
        build = [self.command("sphinx-build"), "-q", "-E", "-W", "--keep-going"]
        shell.run(*build, "-b", "html", "docs", str(self.env / "html"))
        if self.reaches_the_internet():
            links = str(self.env / "linkcheck")
            shell.run(self.command("sphinx-build"), "-q", "-b", "linkcheck", "docs", links)
        else:
            shell.say("No network: links to other sites were not tried.")

    @staticmethod
    def reaches_the_internet() -> bool:
        """Whether a site that the pages link to answers; a CI machine may have no way out."""
        try:
            with urllib.request.urlopen("https://docs.celeryq.dev/", timeout=10):
                return True
        except OSError:  # which a refusal of a proxy is, too
            return False


@dataclass(frozen=True, kw_only=True)
class Build(Job):
    """The wheel, built from the sdist, away from the source: the example as a user runs it."""

    def perform(self, shell: Shell) -> None:
        dist = WORK / "dist"
        shutil.rmtree(dist, ignore_errors=True)
        shell.run(
            str(UV), "build", "-q", "--python", find_python(self.python), "--out-dir", str(dist)
        )
        [wheel] = dist.glob("*.whl")
        [sdist] = dist.glob("*.tar.gz")
        groups = [f"{ROOT / 'pyproject.toml'}:{name}" for name in ("test", "packaging")]
        self.install(shell, "--group", groups[0], "--group", groups[1], str(wheel))
        shell.run(self.command("twine"), "check", "--strict", str(wheel), str(sdist))
        shell.run(self.command("check-wheel-contents"), str(wheel))
        # Two points are for an address of the project and one of its authors: there are none yet.
        shell.run(self.command("pyroma"), "--min=8", str(sdist))
        with tempfile.TemporaryDirectory() as elsewhere:
            project = Path(elsewhere) / "example_project"
            shutil.copytree(ROOT / "example_project", project)
            shell.run(self.command("python"), "-c", self.CHECK, cwd=project)
            shell.run(self.command("pytest"), cwd=project)
            shell.run(self.command("python"), "-c", self.NOT_REWRITTEN, cwd=project)

    CHECK: ClassVar[str] = (
        "import pathlib, pytest_djcelery as it\n"
        "folder = pathlib.Path(it.__file__).parent\n"
        "assert folder.parent.name == 'site-packages', folder\n"
        "assert (folder / 'py.typed').is_file(), 'py.typed is not in the wheel'\n"
        "from pytest_djcelery.audit.page import page\n"
        "report = {'tests': 0, 'kinds': [], 'findings': [], 'troubles': []}\n"
        "page(report)  # which reads files of the wheel\n"
    )
    # Beside `__init__`, which pytest finds before us.
    NOT_REWRITTEN: ClassVar[str] = (
        "import pathlib, pytest_djcelery as it\n"
        "compiled = pathlib.Path(it.__file__).parent.rglob('*-pytest-*.pyc')\n"
        "assert {each.name.partition('.')[0] for each in compiled} <= {'__init__'}\n"
    )


@dataclass(frozen=True, kw_only=True)
class Cell(Job):
    """Tests of the suite, and the example's, under one set of versions."""

    django: str
    celery: str
    pytest: str
    tests: tuple[str, ...]
    chosen: str  # those of them that `pytest -k` finds by this
    database: str = "sqlite"
    pool: bool = False  # Django's connection pool, which Celery closes since 5.6
    lowest: bool = False  # every direct dependency at its bound in pyproject.toml
    brokers: tuple[str, ...] = ()  # that the example's tests run over, too
    beside: tuple[str, ...] = ()  # packages that some versions of Celery only allow
    completes: bool = False  # runs what the quick start left out, and is measured with it

    #: A test of the example that is about the default.
    IN_MEMORY: ClassVar[tuple[str, ...]] = ("-k", "not test_messages_stay_in_memory")

    def perform(self, shell: Shell) -> None:
        self.install_versions(shell)
        if self.completes:  # those in a browser, too
            install_chromium(shell)
        shell.env |= {
            "DATABASE": self.database,
            "DATABASE_NAME": f"djcelery_{self.name.replace('-', '_')}",
            "DATABASE_POOL": "1" if self.pool else "",
            "DJCELERY_REQUIRE_SERVICES": "1",
            # Redis has 16 databases, and a developer uses the first.
            "REDIS_URL": f"redis://{REDIS}/{1 + JOBS.index(self)}",
        }
        self.run_suite(shell)
        pytest = [self.command("python"), "-m", "pytest"]
        shell.run(*pytest, "example_project")
        for broker in self.brokers:
            url = {"redis": shell.env["REDIS_URL"], "rabbitmq": RABBITMQ}[broker]
            over = (f"--djcelery-broker={url}", *self.IN_MEMORY)
            shell.run(*pytest, "example_project", "-n", "2", *over)

    def install_versions(self, shell: Shell) -> None:
        versions = self.env.with_suffix(".versions")
        versions.write_text(
            f"django=={self.django}.*\n"
            f"celery=={self.celery}.*\n"  # without pytest-celery: the quick start is beside it
            f"pytest=={self.pytest}.*\n"
        )
        # django-celery-beat forbids a Django that it has not seen, for about a year.
        overrides = self.env.with_suffix(".overrides")
        overrides.write_text(f"django=={self.django}.*\n")
        arguments = [
            "--override",
            str(overrides),
            "-r",
            str(versions),
            "--group",
            "test",
            "-e",
            ".",
        ]
        arguments += self.beside
        if self.lowest:
            arguments += ["--resolution", "lowest-direct"]
        if self.database == "mariadb":
            install_mariadb_headers(shell)
            arguments += ["--group", "mariadb"]
        self.install(shell, *arguments)
        installed = shell.output(str(UV), "pip", "list", "-q", "--python", str(self.env))
        shell.say(
            "\n".join(re.findall(r"(?mi)^(?:celery|django|kombu|pytest(?:-\S+)?) .*", installed))
        )
        if "pytest-celery" in installed:
            message = "pytest-celery is installed, and the suite is to pass without it here."
            raise JobError(message)

    def run_suite(self, shell: Shell) -> None:
        seed = random.randrange(2**32)  # noqa: S311 - an order of tests, no secret
        # Many of the tests wait for processes of their own more than they work.
        arguments = ["-m", "pytest", "-n", "2", "--dist", "worksteal", f"--randomly-seed={seed}"]
        arguments.append(f"--hypothesis-seed={seed}")  # the command is printed
        arguments += ["-k", self.chosen, *self.tests]
        if not self.completes:
            shell.run(self.command("python"), *arguments)
            return
        if LEFT_OUT.exists():  # all of CI is run, and not this job alone
            arguments.append(f"@{LEFT_OUT}")
        shell.env.setdefault("COVERAGE_FILE", str(self.env / ".coverage"))
        shell.run(self.command("coverage"), "run", *arguments)


@dataclass(frozen=True, kw_only=True)
class CelerySuite(Job):
    """Celery's own integration tests, over workers of the plugin (`tests/celery_suite`)."""

    celery: str

    def perform(self, shell: Shell) -> None:
        require_redis()
        self.install(shell, "--group", "test", "-e", ".", f"celery=={self.celery}.*", "pydantic")
        shell.env["PIP"] = str(UV.parent / "pip")  # uv can't download an sdist
        shell.run(self.command("python"), "-m", "tests.celery_suite.run", "all")


@dataclass(frozen=True, kw_only=True)
class Coming(Job):
    """The example and unit tests on a Python that this machine need not have.

    Debian's next release has it: it is unpacked into a folder, and the tests run there. Where that
    can't be had either, the job is skipped with the reason, in CI too.
    """

    tests: tuple[str, ...]
    optional: ClassVar[bool] = True

    def perform(self, shell: Shell) -> None:
        shell.env |= {"DATABASE": SQLITE}
        if has_python(self.python):
            self.install(shell, "--group", "test", "-e", ".")
            for tests in self.tests:
                shell.run(self.command("python"), "-m", "pytest", tests)
            return
        root = unpack_forky(shell)
        source = root / "src" / self.name
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        listed = shell.output("git", "-C", str(ROOT), "ls-files", "-z").split("\0")
        for name in filter(None, listed):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
        inside = f"/src/{self.name}"
        python = f"python{self.python}"
        own = f"{inside}/.venv/bin/python"
        # A mirror may keep the release for longer than it says that it is valid.
        apt = ("apt-get", "-qq", "-oAcquire::Check-Valid-Until=false")
        packages = ("-y", "--no-install-recommends", "install", python, f"{python}-venv")
        group = f"{inside}/pyproject.toml:test"
        try:
            with FORKY:  # apt-get lets nobody in beside it
                in_forky(shell, root, *apt, "update")
                in_forky(shell, root, *apt, *packages)
            in_forky(shell, root, python, "-m", "venv", f"{inside}/.venv")
            in_forky(shell, root, own, "-m", "pip", "install", "-q", "--group", group, "-e", inside)
        except JobError as error:
            message = f"What the tests need is not to be had for Python {self.python}: {error}"
            raise LookupError(message) from error
        for tests in self.tests:
            in_forky(shell, root, "sh", "-c", f"cd {inside} && {own} -m pytest {tests}")


SQLITE, POSTGRESQL, MARIADB = "sqlite", "postgresql", "mariadb"
REDIS = os.environ.get("REDIS_ADDRESS", "127.0.0.1:6379")
RABBITMQ = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//")
#: What Celery and Django do, which is what differs from version to version.
CONTRACT = "tests/contract"
#: The audit stands on what differs, too.
AUDIT = tuple(
    f"tests/audit/test_{each}.py"
    for each in ("attribution", "changes_nothing", "example", "findings", "mocks")
)
NO_BROKERS = "not (redis or rabbitmq)"
#: The default broker and backend of each worker are shown by the quick start and by the lowest.
NOT_THE_FIRST = f"{NO_BROKERS} and not live-filesystem-memory"
#: Nor is what the one cell has run that has everything: the databases that aren't MariaDB.
WITH_MARIADB = f"(test_contract or mariadb) and {NOT_THE_FIRST}"
JOBS: list[Job] = [
    # The longest first.
    Cell(name="py310-dj42-lowest", python="3.10", django="4.2", celery="5.4", pytest="8",
         tests=(CONTRACT, "tests/pitfalls", *AUDIT), chosen=NO_BROKERS, lowest=True),
    Cell(name="py313-dj61-pg", python="3.13", django="6.1", celery="5.7", pytest="9",
         tests=("tests/pitfalls", "tests/inline"), chosen="", database=POSTGRESQL, completes=True),
    Cell(name="py312-dj60-maria", python="3.12", django="6.0", celery="5.5", pytest="8",
         tests=(CONTRACT, "tests/databases"), chosen=WITH_MARIADB, database=MARIADB),
    Cell(name="py311-dj52-pg", python="3.11", django="5.2", celery="5.6", pytest="9",
         tests=(CONTRACT, "tests/worker/test_batches.py"), chosen=NOT_THE_FIRST,
         database=POSTGRESQL, pool=True, brokers=("redis", "rabbitmq"),
         beside=("celery-batches>=0.11",)),
    Coming(name="py314", python="3.14", tests=("example_project",)),
    Coming(name="py315", python="3.15", tests=("example_project", "tests/unit/workers")),
    CelerySuite(name="celery-suite", celery="5.7"),
    Build(name="build"),
    Docs(name="docs"),
    Lint(name="lint"),
]  # fmt: skip


class Shell:
    """Runs a job's commands; what they print goes to the job's log."""

    def __init__(self, log: IO[str]) -> None:
        self.log = log
        self.env = dict(os.environ)
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)  # see `Job.install`
        self._deadline = time.monotonic() + JOB_TIMEOUT

    def say(self, text: str) -> None:
        """Write a line of the driver's own."""
        print(text, file=self.log, flush=True)

    def run(self, *command: str, cwd: Path = ROOT) -> None:
        """Run a command, and fail where it does."""
        self.say("$ " + " ".join(command))
        with subprocess.Popen(
            command,
            cwd=cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its workers can be ended with it
        ) as process:
            try:
                code = process.wait(self._deadline - time.monotonic())
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if code:
            message = f"exit code {code} of: {' '.join(command)}"
            raise JobError(message)

    def output(self, *command: str) -> str:
        """Return what a command prints."""
        return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def find_python(version: str) -> str:
    """Return a Python of this minor version: on PATH, else one that pyenv keeps."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [f"python{version}", *map(str, pyenv.glob(f"versions/{version}.*/bin/python"))]
    for candidate in candidates:
        path = shutil.which(candidate)
        # A shim of pyenv's can stand on PATH and refuse to run.
        if (
            path
            and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0
        ):
            return path
    message = f"Python {version} is neither on PATH nor in pyenv."
    raise LookupError(message)


def has_python(version: str) -> bool:
    """Whether this machine has a Python of this minor version."""
    try:
        find_python(version)
    except LookupError:
        return False
    return True


def unpack_forky(shell: Shell) -> Path:
    """Unpack Debian's next release, once, and return its folder; raise where that can't be."""
    root = WORK / "forky"
    with FORKY:  # two jobs may want it at once
        if (root / "usr/bin/python3").exists():
            return root
        if not shutil.which("apt-get") or os.geteuid() != 0:
            message = "The Python is not here, and only root could unpack Debian's next release."
            raise LookupError(message)
        try:
            apt_install(shell, "The next Pythons", "debootstrap")
            scripts = Path("/usr/share/debootstrap/scripts")
            if not (scripts / "forky").exists():  # this debootstrap is older than the release
                (scripts / "forky").symlink_to("sid")
            shutil.rmtree(root, ignore_errors=True)
            shell.run(
                "debootstrap", "--variant=minbase", "--include=python3,ca-certificates",
                "forky", str(root),
            )  # fmt: skip
        except JobError as error:
            message = f"The Python is not here, and Debian's next release can't be had: {error}"
            raise LookupError(message) from error
        for name in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt"):
            if Path(name).exists():
                shutil.copyfile(name, f"{root}{name}")
        return root


def in_forky(shell: Shell, root: Path, *command: str) -> None:
    """Run a command in the unpacked release; what it needs mounted is gone with it."""
    script = (
        'mount --bind /dev "$0/dev" && mount -t proc proc "$0/proc" && root=$0 && '
        'exec chroot "$root" "$@"'
    )
    shell.run("unshare", "--mount", "sh", "-c", script, str(root), *command)


def require_redis() -> None:
    """Find Redis, or raise: a job that is of no use without is skipped, and fails where CI=true."""
    host, _, port = REDIS.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        message = f"Redis does not answer at {REDIS}: {error}."
        raise LookupError(message) from error


def install_uv() -> None:
    """Install uv by pip, in an environment of its own; it then installs from where pip would."""
    if not UV.exists():
        subprocess.run([sys.executable, "-m", "venv", UV.parent.parent], check=True)
        subprocess.run([UV.parent / "pip", "install", "-q", "uv"], check=True)
    os.environ["UV_PYTHON_DOWNLOADS"] = "never"  # a missing Python is reported, not replaced
    os.environ.pop("VIRTUAL_ENV", None)
    index = subprocess.run(
        [UV.parent / "pip", "config", "get", "global.index-url"],
        check=False,
        capture_output=True,
        text=True,
    ).stdout.strip()
    if index:
        os.environ.setdefault("UV_DEFAULT_INDEX", index)


def install_mariadb_headers(shell: Shell) -> None:
    """Install what mysqlclient, which has no wheels for Linux, is compiled against."""
    found = shutil.which("gcc") and shutil.which("pkg-config")
    if (
        found
        and subprocess.run(["pkg-config", "--exists", "libmariadb"], check=False).returncode == 0
    ):
        return
    apt_install(shell, "MariaDB's cells", "libmariadb-dev", "pkg-config", "gcc", "libc6-dev")


def install_chromium(shell: Shell) -> None:
    """Install what the page of the audit is tested in."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        apt_install(shell, "The tests of the audit's page", "chromium")


def apt_install(shell: Shell, who: str, *packages: str) -> None:
    """Install what is missing by `apt-get`, or say who needs it where that may not be done."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        message = f"{who} need {', '.join(packages)}: install them."
        raise JobError(message)
    lock = "-oDPkg::Lock::Timeout=120"  # two jobs may install at once
    shell.run("apt-get", lock, "-qq", "update")
    shell.run("apt-get", lock, "-qq", "-y", "--no-install-recommends", "install", *packages)


def perform(job: Job) -> tuple[str, float]:
    """Run a job; return `passed`, `failed` or `skipped`, and the seconds it took."""
    started = time.monotonic()
    with job.env.with_suffix(".log").open("w", encoding="utf-8") as log:
        shell = Shell(log)
        try:
            if not job.optional:
                find_python(job.python)
            job.perform(shell)
        except LookupError as error:
            shell.say(str(error))
            outcome = "failed" if IN_CI and not job.optional else "skipped"
        except Exception as error:  # noqa: BLE001 - whatever it is, the other jobs go on
            shell.say(f"{type(error).__name__}: {error}")
            outcome = "failed"
        else:
            outcome = "passed"
    return outcome, time.monotonic() - started


def report(job: Job, outcome: str, seconds: float) -> None:
    """Print how a job ended: all it printed when it failed, else the summaries."""
    text = job.env.with_suffix(".log").read_text(encoding="utf-8")
    print(f"\n=== {job.name}: {outcome} in {seconds:.0f} s", flush=True)
    print("\n".join(SUMMARY.findall(text)) if outcome == "passed" else text, flush=True)


def main() -> int:
    """Run the jobs that are named on the command line."""
    parser = argparse.ArgumentParser(description="Run the jobs of the matrix.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a job; all when none is named")
    parser.add_argument("--list", action="store_true", help="print the names of the jobs")
    options = parser.parse_args()
    jobs = {job.name: job for job in JOBS}
    if options.list:
        print(*jobs, sep="\n")
        return 0
    if unknown := set(options.names) - set(jobs):
        parser.error(f"no such job: {', '.join(sorted(unknown))}; there are: {', '.join(jobs)}")
    chosen = [jobs[name] for name in options.names] or JOBS

    WORK.mkdir(exist_ok=True)
    install_uv()
    outcomes: list[str] = []
    with ThreadPoolExecutor(int(os.environ.get("DJCELERY_CI_JOBS", "2"))) as pool:
        running = {pool.submit(perform, job): job for job in chosen}
        for done in as_completed(running):
            outcome, seconds = done.result()
            report(running[done], outcome, seconds)
            outcomes.append(outcome)
    counts = [f"{outcomes.count(outcome)} {outcome}" for outcome in ("passed", "failed", "skipped")]
    print(f"\njobs: {', '.join(counts)}", flush=True)
    return 1 if "failed" in outcomes else 0


if __name__ == "__main__":
    sys.exit(main())

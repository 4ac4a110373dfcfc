"""pytest in a process of its own, without the second that each takes to import what all import.

The suite runs pytest hundreds of times. A process that has imported pytest, Django, Celery and
plugins, and looked through what is installed, forks for each of these runs; what is forked goes on
as ``python -m pytest`` does. The processes that such a run starts, of xdist or of a live worker,
are forked as well, before it begins. What our own plugin loads only on demand is not imported
before; and nothing of it is where coverage is measured, which has to see its modules being run.
"""

from __future__ import annotations

import ast
import atexit
import gc
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryFile
from types import FunctionType, ModuleType
from typing import IO, Any, NoReturn

import coverage
import pytest
from _pytest.config import _prepareconfig
from execnet import gateway_io

_IMPORTED = (
    "django.core.mail.backends.locmem", "django.core.management.commands.flush",
    "django.core.management.commands.migrate", "django.core.servers.basehttp",
    "django.db.backends.sqlite3.base", "django.db.migrations", "django.db.models", "django.forms",
    "django.test", "celery", "celery.app.amqp", "celery.app.control", "celery.app.task",
    "celery.app.trace", "celery.backends.base", "celery.canvas", "celery.concurrency.solo",
    "celery.concurrency.thread", "celery.fixups.django", "celery.loaders.app", "celery.result",
    "celery.signals", "celery.worker", "celery.worker.components", "celery.worker.consumer",
    "celery.worker.control", "celery.worker.pidbox", "celery.worker.strategy", "kombu.pools",
    "kombu.transport.virtual", "kombu.utils.json", "coverage.sqldata",
    # A live worker's.
    "celery.apps.worker", "celery.bin.celery", "celery.concurrency.asynpool",
    "celery.concurrency.prefork",
)  # fmt: skip
_OF_PYTEST_CELERY = (  # which is half of what a run takes beside it
    "docker", "memcache", "psutil", "redis.asyncio", "requests", "tenacity",
)  # fmt: skip
_NOT_LOADED = ("djcelery", "anyio", "asyncio", "faker", "hypothesispytest", "randomly")
_OURS_ON_DEMAND = re.compile(
    r"pytest_djcelery\.(audit|contract|exploration|fault_injection|trace)\b"
    r"|pytest_djcelery\.(brokers\.(?!memory)|workers\.live|.*\.shortcuts)"
)
MEASURED = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
_LIVE_WORKER = "pytest_djcelery.workers.live.entry_point"
_MOST_SPARES = 12  # each takes four milliseconds
_FILES = 1024  # more than a process has open
FRESH = "DJCELERY_FRESH_PROCESSES"  # set for a run that imports plugins, and starts processes, anew
_OF_EACH_RUN = (*MEASURED, "PYTEST_ADDOPTS", "PYTHONDONTWRITEBYTECODE")


class ForkedRun:
    """What `pytest.Pytester.run` needs of a `subprocess.Popen`."""

    stdin = None

    def __init__(self, answers: IO[bytes]) -> None:
        self._answers = answers

    def wait(self) -> int:
        """The exit code, once it is over."""
        return int(self._answers.readline())


class ForkServer:
    """The process that forks, as it is seen from the tests."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._answers = self._socket.makefile("rb")
        env = {name: value for name, value in os.environ.items() if name not in _OF_EACH_RUN}
        measured = str(int(bool(os.environ.keys() & set(MEASURED))))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), measured],
                pass_fds=[theirs.fileno()],
                env=env,
            )

    def run(
        self,
        arguments: Sequence[str],
        stdout: IO[Any],
        stderr: IO[Any],
        folder: str | os.PathLike[str] = "",
        environment: Mapping[str, str] = os.environ,
    ) -> ForkedRun:
        """Begin ``python -m pytest``, in the folder and the environment of now if none is given."""
        folder = os.path.abspath(folder)
        path = filter(None, [folder, environment.get("PYTHONPATH")])  # as `Pytester.popen`
        request = {
            "arguments": [str(each) for each in arguments],
            "folder": folder,
            "environment": {**environment, "PYTHONPATH": os.pathsep.join(path)},
        }
        files = [stdout.fileno(), stderr.fileno()]
        socket.send_fds(self._socket, [json.dumps(request).encode() + b"\n"], files)
        return ForkedRun(self._answers)

    def complete(
        self, *arguments: object, folder: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python -m pytest`` to its end, and capture what it prints."""
        command = [str(argument) for argument in arguments]
        with TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
            code = self.run(command, stdout, stderr, folder, environment).wait()
            for file in (stdout, stderr):
                file.seek(0)
            return subprocess.CompletedProcess(command, code, stdout.read(), stderr.read())

    def close(self) -> None:
        """Let the process end."""
        self._answers.close()
        self._socket.close()
        self._process.wait()


def _serve(requests: socket.socket) -> None:
    """Fork for each request, and answer with its exit code; a child returns from here."""
    while True:
        request, files = _received(requests)
        if request is None:
            sys.exit()
        pid = os.fork()
        if not pid:
            requests.close()
            _become(request, files)
            return
        for each in files:
            os.close(each)
        _, status = os.waitpid(pid, 0)
        requests.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _received(requests: socket.socket) -> tuple[Any, list[int]]:
    """The next request and its files; ``None`` if there will be none."""
    line, files, *_ = socket.recv_fds(requests, 1 << 16, 3)
    while line and not line.endswith(b"\n"):
        line += requests.recv(1 << 16)
    return (json.loads(line) if line else None), files


def _become(request: dict[str, Any], files: Sequence[int]) -> None:
    """Be what a fresh interpreter would be that was started with this."""
    with open(os.devnull, "rb") as nothing:
        _take_over(request, (nothing.fileno(), *files))
    for each in files:
        os.close(each)
    fresh = bool(os.environ.pop(FRESH, None))
    if fresh:
        for name in list(sys.modules):
            if name.partition(".")[0] == "pytest_djcelery" or name == "celery.contrib.pytest":
                del sys.modules[name]
    tempfile.tempdir = None  # which the first who asked was told, and not by this environment
    sys.argv = ["pytest", *request["arguments"]]
    sys.path[:1] = [request["folder"], *request["environment"]["PYTHONPATH"].split(os.pathsep)]
    importlib.invalidate_caches()
    if not fresh:
        _fork_spares(request["arguments"])
    if os.environ.keys() & set(MEASURED):
        coverage.process_startup()


def _take_over(request: dict[str, Any], files: Sequence[int]) -> None:
    """Have the files, the folder and the environment that a process was to be started with."""
    for found, wanted in zip(files, (0, 1, 2), strict=True):
        os.dup2(found, wanted)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])


class _Spare:
    """A process to be one that the run starts, of xdist's or a live worker's.

    It was forked before the run began, so it has imported what the run had, and nothing else.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid:
            theirs.close()
        else:
            self._serve(theirs)

    def start(self, arguments: Sequence[str], files: Sequence[int], **rest: object) -> None:
        """Have it begin as ``python`` with these arguments."""
        request = {"arguments": arguments, **rest}
        socket.send_fds(self._socket, [json.dumps(request).encode() + b"\n"], files)
        self._socket.close()

    def _serve(self, requests: socket.socket) -> NoReturn:
        """Be what is asked for, once it is."""
        os.closerange(3, requests.fileno())  # what other processes wait to see closed
        os.closerange(requests.fileno() + 1, _FILES)
        request, files = _received(requests)
        if request is None:  # the run is over
            os._exit(0)
        _take_over(request, files)
        os.closerange(3, _FILES)
        if request["session"]:
            os.setsid()
        if os.environ.keys() & set(MEASURED):
            coverage.process_startup()
        option, what, *arguments = request["arguments"]
        sys.argv = [option, *arguments]
        sys.path[0] = request["folder"] if option == "-m" else ""
        try:
            if option == "-m":
                runpy.run_module(what, run_name="__main__", alter_sys=True)
            else:
                exec(what, {"__name__": "__main__"})
        except SystemExit as asked:
            _end(asked.code if isinstance(asked.code, int) else int(bool(asked.code)))
        _end(0)


def _fork_spares(arguments: Sequence[str]) -> None:
    """Fork the processes that the run will ask for; any more it starts itself."""
    found = re.search(r"(?:^| )-n ?(\d+)", " ".join(arguments))
    spares = [_Spare() for _ in range((int(found[1]) if found else 0) + _live_workers())]

    class Forked(subprocess.Popen):
        def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
            """Have a spare be the process.

            Private API, with the arguments that it has on Python 3.10 to 3.13.
            """
            if not spares or not {gateway_io.popen_bootstrapline, _LIVE_WORKER} & set(args):
                super()._execute_child(args, *rest)
                return
            spare = spares.pop()
            given = (rest[9], rest[12], rest[14])  # the ends of the new process
            files = [own if each < 0 else each for own, each in enumerate(given)]
            spare.start(
                [argument for argument in args[1:] if argument != "-u"],
                files,
                folder=rest[4] or os.getcwd(),
                environment=dict(os.environ if rest[5] is None else rest[5]),
                session=rest[20],
            )
            self.pid, self._child_created = spare.pid, True
            self._close_pipe_fds(*rest[9:15])

    if spares:
        subprocess.Popen = Forked


def _live_workers() -> int:
    """How many live workers the tests of the current folder may start, at most a dozen."""
    tests = [path.read_text() for path in Path().glob("**/*test*.py")]
    mentioned = sum(text.count("live_worker") for text in tests)
    return min(mentioned + len(tests), _MOST_SPARES) if mentioned else 0


def _import_all() -> list[ModuleType]:
    """Import what most runs import, and return the plugins of them all."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as each of the runs would take them
        options = [option for name in _NOT_LOADED for option in ("-p", f"no:{name}")]
        # Loads the plugins, and marks for rewriting what a run would mark.
        config = _prepareconfig(["-c", os.devnull, "--noconftest", *options])
        plugins = config.pluginmanager.get_plugins()
        config._ensure_unconfigure()
        for name in _IMPORTED:
            importlib.import_module(name)
        if importlib.util.find_spec("pytest_celery") is not None:
            for name in _OF_PYTEST_CELERY:
                importlib.import_module(name)
    return [plugin for plugin in plugins if isinstance(plugin, ModuleType)]


def _show_only_hooks_and_fixtures(plugins: Sequence[ModuleType]) -> None:
    """Have ``dir()`` of a plugin name only what pytest looks for in it.

    Each run looks at all that fifty modules contain, twice, which takes a sixth of its time.
    """
    for plugin in plugins:
        shown = [
            name
            for name, value in vars(plugin).items()
            if name.startswith("pytest_") or _is_fixture(value)
        ]
        vars(plugin)["__dir__"] = partial(list, shown)


def _is_fixture(value: object) -> bool:
    """Whether it is a fixture, in pytest 8.0 to 8.3, or since 8.4 (private).

    Only its type is looked at: a plugin may have a lazy object, such as Celery's current app.
    """
    if type(value) is FunctionType:
        return "_pytestfixturefunction" in vars(value)
    return type(value).__name__ == "FixtureFunctionDefinition"


def _import_ours() -> None:
    [folder] = importlib.import_module("pytest_djcelery").__path__
    for path in sorted(Path(folder).rglob("*.py")):
        name = ".".join(path.relative_to(Path(folder).parent).with_suffix("").parts)
        if not _OURS_ON_DEMAND.match(name):
            importlib.import_module(name.removesuffix(".__init__"))


def _remember_what_is_installed() -> None:
    """Read each distribution's metadata once: each run of pytest looks twice through all of it."""
    kind = importlib.metadata.PathDistribution
    for name in ("entry_points", "files", "metadata"):
        remembered = cached_property(getattr(kind, name).fget)
        remembered.__set_name__(kind, name)
        setattr(kind, name, remembered)
    installed = [*importlib.metadata.distributions()]
    for distribution in installed:
        if any(each.group == "pytest11" for each in distribution.entry_points):
            _ = distribution.metadata
            # pytest asks for the text of each path, which takes longer than all it does with it.
            vars(distribution)["files"] = [str(path) for path in distribution.files or ()]
    importlib.metadata.distributions = lambda: installed


def _parse_without_collecting() -> None:
    """Keep garbage from being collected while source is parsed.

    Before Python 3.11.8 and 3.12.2 (gh-106905), code that parses while another does so, in a
    finalizer or a thread that garbage collection lets in, makes that one a ``SystemError``. To show
    a traceback is to parse.
    """
    if not (3, 11) <= sys.version_info < (3, 11, 8) and not (3, 12) <= sys.version_info < (
        3,
        12,
        2,
    ):
        return
    parse = ast.parse

    def parse_alone(*args: Any, **options: Any) -> ast.AST:
        collects = gc.isenabled()
        gc.disable()
        try:
            return parse(*args, **options)
        finally:
            if collects:
                gc.enable()

    ast.parse = parse_alone


def main() -> int:
    """Serve until there are no more requests; in a child, run pytest."""
    _show_only_hooks_and_fixtures(_import_all())
    if sys.argv[2] == "0":
        _import_ours()
    _remember_what_is_installed()
    _parse_without_collecting()
    inspect.getmodule(main.__code__)  # has it look up all files of modules, once for all failures
    gc.collect()
    gc.freeze()  # what is there now is not looked through by each run
    _serve(socket.socket(fileno=int(sys.argv[1])))
    return int(pytest.main())


def _end(code: int) -> NoReturn:
    """End as an interpreter does, but for freeing all that was imported: a sixth of a short run.

    Private API (what the interpreter itself calls at its end), checked on Python 3.10 to 3.13.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _end(main())

"""The pytest hooks of a run with a contract."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Generator, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from pytest_djcelery.contract import contract_file
from pytest_djcelery.contract.breaks import Break, of_new_messages, of_old_messages
from pytest_djcelery.contract.records import Contract, Shape, merged_places
from pytest_djcelery.contract.verdict import Verdict, add_to_junit, counted
from pytest_djcelery.errors import DjceleryError
from pytest_djcelery.locations import from_root
from pytest_djcelery.project.finding import find_app
from pytest_djcelery.session.session import current_session

if TYPE_CHECKING:
    from pytest_djcelery.contract.release import BeatEntry, Release
    from pytest_djcelery.contract.sent_shapes import SentByTask, SentShapes
    from pytest_djcelery.options import Options

_OVER = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


class DatabaseSchedule:
    """Reads the periodic schedule that the migrations have left in the database, once.

    Args:
        config: pytest's configuration of this run.
        read: Called when the database of the tests is there.
    """

    def __init__(self, config: pytest.Config, read: Callable[[], None]) -> None:
        self._config = config
        self._read = read

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Read it after the fixture that makes the database; then watch no fixture any more."""
        value = yield
        if fixturedef.argname == "django_db_setup":
            self._config.pluginmanager.unregister(self)
            with request.getfixturevalue("django_db_blocker").unblock():
                self._read()
        return value


class ContractRun:
    """Collects what the tests send, and checks or writes the contract at the end of the run.

    Under xdist each process collects, and the one that distributes the tests checks and writes.

    Args:
        config: pytest's configuration of this run.
        options: The plugin's options.
        suite: The files of the tests.

    Raises:
        ContractFileError: There is no contract that could be used.
    """

    def __init__(self, config: pytest.Config, options: Options, suite: Container[str]) -> None:
        self._config = config
        self._options = options
        self._suite = suite
        self._is_worker = hasattr(config, "workerinput")  # a process of xdist
        root = str(config.rootpath)
        self._path = os.path.join(root, options.contract_file)
        self._shown = from_root(self._path, root)
        self._recorded = Contract() if self._is_worker else self._read()
        self._listening = ExitStack()
        self._release: Release | None = None
        self._shapes: SentShapes | None = None
        self._sent: SentByTask = {}  # by other processes
        self._entries: dict[str, BeatEntry] = {}  # of the database
        self._lost = 0  # processes of xdist that did not say what their tests sent
        self._troubles: dict[str, None] = {}
        self._verdict: Verdict | None = None
        self._notes: list[str] = []

    def _read(self) -> Contract:
        mode = self._options.contract
        if mode == "rewrite" or (mode == "update" and not os.path.exists(self._path)):
            return Contract()
        return contract_file.read(self._path, self._shown)

    def pytest_report_header(self) -> str:
        """Say what is done with the contract."""
        return f"celery: contract: {self._options.contract} {self._shown}"

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        """Import what a worker imports, before a test imports more; then listen."""
        from pytest_djcelery.contract.places import shown_from
        from pytest_djcelery.contract.release import begin_release, check_one_app
        from pytest_djcelery.contract.sent_shapes import SentShapes

        session = current_session()
        try:
            # In an audit the app stays as it is.
            app = find_app(self._options) if session.audit else session.use_project().app
            release = begin_release(app, self._suite, self._options.contract_include)
            if not self._options.app:
                check_one_app(app, self._suite)
        except DjceleryError as error:
            raise pytest.UsageError(error.with_notes()) from None
        self._release = release
        self._shapes = SentShapes(release, shown_from(str(self._config.rootpath)))
        if release.keeps_schedule_in_database:
            self._config.pluginmanager.register(DatabaseSchedule(self._config, self._read_schedule))
        if not self._config.option.collectonly:
            self._listening.enter_context(self._shapes.listening())

    def _read_schedule(self) -> None:
        from pytest_djcelery.contract.release import entries_of_database

        try:
            self._entries.update((entry.name, entry) for entry in entries_of_database())
        except Exception as error:  # noqa: BLE001 - the suite may make its database itself
            self._troubles[f"the periodic tasks of the database: {error}"] = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Collect what the tests of another process have sent."""
        output = getattr(node, "workeroutput", {}).get("djcelery_contract")
        if output is None:
            self._lost += 1
            return
        self._entries.update(_entries_unpacked(output["entries"]))
        self._add(_unpacked(output["sent"]))
        self._troubles.update(dict.fromkeys(output["troubles"]))

    def _add(self, sent: SentByTask) -> None:
        for name, shapes in sent.items():
            self._sent[name] = merged_places(self._sent.get(name, {}), shapes)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Check or write the contract; fail the run if messages would break."""
        self._listening.close()
        if self._release is None or self._shapes is None:
            return
        if self._is_worker:
            self._config.workeroutput["djcelery_contract"] = {  # type: ignore[attr-defined]  # by xdist
                "sent": _packed(self._shapes.by_task()),
                "entries": [asdict(entry) for entry in self._entries.values()],
                "troubles": list(self._troubles | self._shapes.troubles),
            }
            return
        self._add(self._shapes.by_task())
        self._troubles |= self._shapes.troubles
        self._add_entries(self._release)
        if self._options.contract == "check":
            self._check(session, self._release)
        elif session.exitstatus in _OVER:
            self._write(session, self._release)
        else:
            self._notes.append(f"{self._shown} is not written: the run did not come to its end.")

    def _add_entries(self, release: Release) -> None:
        """Add the messages that beat sends."""
        from pytest_djcelery.contract.sent_shapes import named_shape

        for entry in self._all_entries(release):
            if entry.task in release.names:
                kinds = {name: type(value) for name, value in entry.kwargs.items()}
                parameters = release.record(entry.task).parameters
                shape = named_shape([*map(type, entry.args)], kinds, parameters)
                self._add({entry.task: {shape: entry.place}})

    def _all_entries(self, release: Release) -> Iterable[BeatEntry]:
        entries = {entry.name: entry for entry in release.beat_entries()} | self._entries
        return [entry for _, entry in sorted(entries.items())]

    def _check(self, session: pytest.Session, release: Release) -> None:
        found: list[Break] = list(self._old_breaks(self._recorded, release))
        if not self._config.option.collectonly:
            found += of_new_messages(self._recorded, release, self._sent)
        retired, rolling = self._recorded.retired, self._options.contract_rolling
        self._verdict = verdict = Verdict.of(found, retired, rolling)
        self._note_lost("not checked against old workers")
        count = len(verdict.failing)
        add_to_junit(self._config, verdict.failing, f"check: {counted(count, 'break')}")
        ended_well = session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        )
        if verdict.failing and ended_well:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _old_breaks(self, contract: Contract, release: Release) -> Iterable[Break]:
        entries = self._all_entries(release)
        return of_old_messages(contract, release, entries, self._options.queues)

    def _note_lost(self, what: str) -> None:
        """Say what the tests may have sent without it being known here."""
        self._notes += [f"Not read: {trouble}" for trouble in self._troubles]
        if self._lost:
            self._notes.append(
                f"{counted(self._lost, 'process', 'processes')} of xdist ended early: what the "
                f"tests there had sent is {what}."
            )

    def _write(self, session: pytest.Session, release: Release) -> None:
        now = release.contract()
        # Tasks of `django.tasks` are known by their messages alone.
        of_django = {name: release.record(name) for name in self._sent.keys() - now.tasks.keys()}
        tasks = {
            name: task.with_sent(self._sent.get(name, {}))
            for name, task in {**now.tasks, **of_django}.items()
        }
        contract = self._recorded.updated(Contract(tasks=tasks, queues=now.queues))
        try:
            changed = contract_file.write(self._path, contract)
        except OSError as error:
            self._notes.append(f"{self._shown} is not written: {error}")
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
            return
        shapes = sum(len(task.sent) for task in contract.tasks.values())
        self._notes.append(
            f"{self._shown} is {'written' if changed else 'as it was'}: "
            f"{counted(len(contract.tasks), 'task')}, {counted(shapes, 'shape')} of messages."
        )
        self._note_lost("not in it")
        left = Verdict.of(self._old_breaks(contract, release), contract.retired, "ignore")
        if left.old:
            keys = ", ".join(each.keys[0] for each in left.old)
            self._notes.append(
                f"It still records what breaks on this code ({keys}), so that a check fails. Begin "
                'it anew (rewrite) once no such message is left, or plan the break in "retired".'
            )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the section."""
        verdict = self._verdict
        lines = [] if verdict is None else [*verdict.lines(self._shown)]
        lines += self._notes
        if not lines:
            return
        failing = verdict is not None and bool(verdict.failing)
        terminalreporter.write_sep("=", "celery contract", red=failing, bold=failing)
        for line in lines:
            terminalreporter.write_line(line)

    def pytest_unconfigure(self) -> None:
        """Listen no more, also where the run ended before its time."""
        self._listening.close()


# What travels between the processes of xdist ------------------------------------------------


def _packed(sent: SentByTask) -> list[Any]:
    return [
        (name, [[*map(list, shape.args)], dict(shape.kwargs), shape.way, shape.serializer, place])
        for name, shapes in sent.items()
        for shape, place in shapes.items()
    ]


def _unpacked(packed: Iterable[Any]) -> SentByTask:
    found: SentByTask = {}
    for name, (args, kwargs, way, serializer, place) in packed:
        shape = Shape(
            args=tuple((taker, kind) for taker, kind in args),
            kwargs=tuple(sorted(kwargs.items())),
            way=way,
            serializer=serializer,
        )
        found.setdefault(name, {})[shape] = place
    return found


def _entries_unpacked(packed: Iterable[Any]) -> Iterable[tuple[str, BeatEntry]]:
    from pytest_djcelery.contract.release import BeatEntry

    return [(fields["name"], BeatEntry(**fields)) for fields in packed]

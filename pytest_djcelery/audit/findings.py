"""What an audit finds: the kinds, the findings by place with their tests, and their fixes."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pytest_djcelery.options import FINDINGS

if TYPE_CHECKING:
    from pytest_djcelery.options import FindingName


EXAMPLES = 3  # tests named for each finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of finding, as it is named in options, report and page."""

    name: FindingName  # in options and in JSON
    title: str
    why: str
    remedy: str


IN_TRANSACTION = Kind(
    name="published-in-transaction",
    title="published inside an open transaction",
    why="A worker can run the task before the commit, and not see what was written.",
    remedy="Send it with delay_on_commit. celery_outbox warns at that very line, and "
    "djcelery_sent_in_transaction = error stops new ones.",
)
HOOKS = Kind(
    name="hooks-never-ran",
    title="on_commit hooks that never ran",
    why="Production runs them after the commit; what they do is not tested here.",
    remedy="Any fixture of this plugin runs them when production would; celery_on_commit lists "
    "them, celery_outbox what they sent.",
)
NEVER_RUN = Kind(
    name="published-never-run",
    title="published and never run",
    why="No worker, no eager mode and no mock took the message: the task is not tested here.",
    remedy="celery_inline.run() runs it in the test's own transaction; celery_outbox only "
    "compares it.",
)
FAILURES = Kind(
    name="failures-nobody-saw",
    title="task failures nobody saw",
    why="The task raised, and the test is green.",
    remedy="celery_inline.run() raises what a task fails with; with any fixture a failure that "
    "nobody looked at fails the test.",
)
MOCKED = Kind(
    name="mocked-publishes",
    title="mocked publishes",
    why="A mock takes arguments that no task has and that no serializer can encode.",
    remedy="celery_outbox records real messages: assert celery_outbox == [task.s(…)].",
)
OUTSIDE = Kind(
    name="outside-reached",
    title="outside reached: brokers and result backends",
    why="Tests that share a server with other runs, or with development, disturb one another.",
    remedy="Without --djcelery-audit the plugin keeps messages and results in memory.",
)

BEYOND = Kind(
    name="eta-beyond-visibility-timeout",
    title="ETAs beyond the broker's visibility timeout",
    why="The worker holds the message until its ETA, and after the visibility timeout the broker "
    "delivers it once more: the task runs twice.",
    remedy="Let broker_transport_options have a visibility_timeout above the longest ETA, or have "
    "a periodic task send the message when its time has come.",
)

#: The worst first.
KINDS = (IN_TRANSACTION, BEYOND, FAILURES, MOCKED, HOOKS, NEVER_RUN, OUTSIDE)
#: Why a finding is marked as sure.
SURE = "an argument is the key of a row that the transaction wrote, or the call would fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something was seen, and what: sightings with equal places are one finding.

    ``subject`` is what was seen: a task, a hook, a URL. Paths are relative to pytest's root.
    """

    kind: str
    path: str
    line: int
    function: str
    code: str  # the line itself, by which a baseline recognizes it when line numbers change
    subject: str

    def __str__(self) -> str:
        if not self.path:
            return "no line of the project"
        return f"{self.path}:{self.line} in {self.function}"


@dataclass(slots=True, kw_only=True)
class Sighting:
    """What one test has shown at one place.

    ``facts`` are details, by their names. For ``sure``, see `SURE`.
    """

    count: int = 0
    facts: dict[str, set[str]] = field(default_factory=dict)
    sure: bool = False

    def add(self, facts: Mapping[str, str | None], *, sure: bool = False) -> None:
        """Count it once more, with these facts."""
        self.count += 1
        self.sure |= sure
        for name, value in facts.items():
            if value:
                self.facts.setdefault(name, set()).add(value)


@dataclass(slots=True, kw_only=True)
class Shown:
    """What the events of one test show.

    Attributes:
        sightings: What was seen, by place.
        waiting: By id, the messages that no worker has taken yet, with the place to report if none
            ever does.
        taken: Ids of messages of earlier tests that a worker has taken meanwhile.
        late: By test, what was seen of earlier tests whose tasks have only ended now.
    """

    sightings: dict[Place, Sighting] = field(default_factory=dict)
    waiting: dict[str, Place] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    late: dict[str, dict[Place, Sighting]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A place, and what all tests together have shown there."""

    place: Place
    count: int
    tests: int
    examples: tuple[str, ...]
    facts: Mapping[str, tuple[str, ...]]
    sure: bool

    @property
    def kind(self) -> str:
        """The name of its kind."""
        return self.place.kind

    def as_json(self) -> dict[str, Any]:
        """The finding as plain data."""
        return {
            **asdict(self.place),
            "sure": self.sure,
            "facts": {name: list(values) for name, values in self.facts.items()},
            "count": self.count,
            "tests": self.tests,
            "examples": list(self.examples),
        }


class Findings:
    """Collects what the tests show, whichever process they run in."""

    def __init__(self) -> None:
        self.tests = 0  # how many were watched
        self._seen: dict[Place, tuple[Sighting, dict[str, bool]]] = {}  # by test: whether sure
        self._waiting: dict[str, tuple[str, Place]] = {}

    def add(self, test: str, shown: Shown) -> None:
        """Add what one test has shown."""
        self.tests += 1
        self._see(test, shown.sightings)
        for earlier, sightings in shown.late.items():
            self._see(earlier, sightings)
        for task_id, place in shown.waiting.items():
            self._waiting[task_id] = test, place
        for task_id in shown.taken:
            self._waiting.pop(task_id, None)

    def _see(self, test: str, sightings: Mapping[Place, Sighting]) -> None:
        for place, sighting in sightings.items():
            known, tests = self._seen.setdefault(place, (Sighting(), {}))
            known.count += sighting.count
            known.sure |= sighting.sure
            for name, values in sighting.facts.items():
                known.facts.setdefault(name, set()).update(values)
            tests[test] = tests.get(test, False) or sighting.sure

    def ranked(self) -> list[Finding]:
        """All findings, the worst first: by kind, certainty, number of tests, place."""
        while self._waiting:
            _, (test, place) = self._waiting.popitem()
            self._see(test, {place: Sighting(count=1)})
        return sorted(self._findings(), key=_rank)

    def _findings(self) -> Iterator[Finding]:
        for place, (seen, tests) in self._seen.items():
            # The surest come first.
            first = heapq.nsmallest(EXAMPLES, ((not sure, test) for test, sure in tests.items()))
            yield Finding(
                place=place,
                count=seen.count,
                tests=len(tests),
                examples=tuple(test for _, test in first),
                facts={name: tuple(sorted(values)) for name, values in sorted(seen.facts.items())},
                sure=seen.sure,
            )


def _rank(finding: Finding) -> Any:
    place = finding.place
    return (
        FINDINGS.index(finding.kind), not finding.sure, not place.path, -finding.tests, place.path,
        place.line, place.subject,
    )  # fmt: skip


def packed(shown: Shown) -> dict[str, Any]:
    """What a test has shown, as plain data for the reports that xdist passes on."""
    return {
        "sightings": _packed(shown.sightings),
        "waiting": [(task_id, astuple(place)) for task_id, place in shown.waiting.items()],
        "taken": shown.taken,
        "late": {test: _packed(sightings) for test, sightings in shown.late.items()},
    }


def unpacked(data: Mapping[str, Any]) -> Shown:
    """The opposite of `packed`."""
    return Shown(
        sightings=_unpacked(data["sightings"]),
        waiting={task_id: _place(values) for task_id, values in data["waiting"]},
        taken=data["taken"],
        late={test: _unpacked(sightings) for test, sightings in data["late"].items()},
    )


def _packed(sightings: Mapping[Place, Sighting]) -> list[dict[str, Any]]:
    return [
        {
            "place": astuple(place),
            "count": seen.count,
            "facts": {name: sorted(values) for name, values in seen.facts.items()},
            "sure": seen.sure,
        }
        for place, seen in sightings.items()
    ]


def _unpacked(data: Iterable[Mapping[str, Any]]) -> dict[Place, Sighting]:
    return {
        _place(seen["place"]): Sighting(
            count=seen["count"],
            facts={name: set(values) for name, values in seen["facts"].items()},
            sure=seen["sure"],
        )
        for seen in data
    }


def _place(values: Iterable[Any]) -> Place:
    names = (field.name for field in fields(Place))
    return Place(**dict(zip(names, values, strict=True)))


# What to write in place of what was found, to be copied -----------------------------------

_LATER = {
    ".delay(": ".delay_on_commit(",
    ".apply_async(": ".apply_async_on_commit(",
    ".enqueue(": ".enqueue, ",
}


def fix_of(finding: Mapping[str, Any]) -> str:
    """Code that answers a finding.

    Args:
        finding: The finding, as in the JSON report.
    """
    make = _FIXES.get(finding["kind"])
    return "" if make is None else make(finding)


def _after_commit(finding: Mapping[str, Any]) -> str:
    code = finding["code"]
    if ".enqueue(" in code:
        call = code[code.index(".enqueue(") - len(code.partition(".enqueue(")[0].split()[-1]) :]
        return f"transaction.on_commit(partial({call.replace('.enqueue(', '.enqueue, ')})"
    for now, later in _LATER.items():
        if now in code:
            return str(code.replace(now, later))
    return f"{_name(finding)}.delay_on_commit(…)"


def _look(finding: Mapping[str, Any]) -> str:
    raised = finding["facts"].get("raised", ["Exception"])[0]
    return f"assert celery_results.of({_name(finding)}) == [Failure({raised})]"


def _outbox(finding: Mapping[str, Any]) -> str:
    return f"assert celery_outbox == [{_name(finding)}.s(…)]"


def _timeout(finding: Mapping[str, Any]) -> str:
    needed = finding["facts"].get("set at least", ["…"])[0]
    return f'CELERY_BROKER_TRANSPORT_OPTIONS = {{"visibility_timeout": {needed}}}'


def _name(finding: Mapping[str, Any]) -> str:
    return str(finding["subject"]).rpartition(".")[2]


_FIXES = {
    IN_TRANSACTION.name: _after_commit,
    FAILURES.name: _look,
    MOCKED.name: _outbox,
    HOOKS.name: lambda _: "[hook] = celery_on_commit.ran",
    NEVER_RUN.name: lambda _: "celery_inline.run()",
    OUTSIDE.name: lambda _: "djcelery_broker = memory",
    BEYOND.name: _timeout,
}

"""The report: in the terminal and in a file, and what is new compared with a baseline."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_djcelery.audit.findings import KINDS, SURE, Kind, fix_of
from pytest_djcelery.audit.page import counted, page
from pytest_djcelery.errors import BadOptionError

if TYPE_CHECKING:
    import pytest

    from pytest_djcelery.audit.findings import Finding, Findings

_Key = tuple[str, ...]
_SURE = f"! marks the surest: {SURE}."
_MOST = 5  # findings of a kind, unless -v is given
_MOST_VALUES = 4  # of a fact


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is new, what was known, and what makes the run fail."""

    tests: int
    new: list[Finding]
    known: list[Finding]
    gone: int  # known before, and no longer found
    failing: list[Finding]  # of the new ones
    troubles: list[str]  # what went wrong in the audit itself
    compared: bool = False  # with a baseline
    run: Mapping[str, Any] = field(default_factory=dict)  # see `circumstances.of_run`


class Baseline:
    """The findings that an earlier run has written.

    Args:
        findings: The findings, as in the JSON report.
    """

    def __init__(self, findings: Iterable[Mapping[str, Any]] | None = None) -> None:
        self._given = findings is not None
        self._faults: dict[_Key, list[set[str]]] = {}  # by key, those of each finding
        for finding in findings or ():
            self._faults.setdefault(_key(finding), []).append(_faults(finding))

    def compare(
        self,
        findings: Findings,
        fail_on: Collection[str],
        troubles: Iterable[str],
        run: Mapping[str, Any] | None = None,
    ) -> Verdict:
        """Split the findings of this run into new and known ones.

        Args:
            findings: The findings of this run.
            fail_on: The names of the kinds whose new findings fail the run.
            troubles: What went wrong in the audit itself.
            run: When and of what this was found.
        """
        left = {key: faults.copy() for key, faults in self._faults.items()}
        new, known = [], []
        for finding in findings.ranked():
            data = finding.as_json()
            same = left.get(_key(data), [])
            # Two equal findings in one function count as two, so a third one is new. So is one at
            # a known line whose call no longer fits its task.
            match = next((faults for faults in same if _faults(data) <= faults), None)
            if match is None:
                new.append(finding)
            else:
                same.remove(match)
                known.append(finding)
        return Verdict(
            tests=findings.tests,
            new=new,
            known=known,
            gone=sum(map(len, left.values())),
            failing=[finding for finding in new if finding.kind in fail_on],
            troubles=list(troubles),
            compared=self._given,
            run=run or {},
        )


def _key(finding: Mapping[str, Any]) -> _Key:
    """What a finding is recognized by: its place without the line number, which edits change."""
    # Python 3.10 has only the last part of a function's name.
    function = finding["function"].rpartition(".")[2]
    return (*(finding[name] for name in ("kind", "path", "code", "subject")), function)


def _faults(finding: Mapping[str, Any]) -> set[str]:
    return set(finding["facts"].get("fault", ()))


def read_baseline(path: str) -> Baseline:
    """Read the findings in a file.

    Raises:
        BadOptionError: The file was not written by the audit.
    """
    try:
        return Baseline(json.loads(Path(path).read_text(encoding="utf-8"))["findings"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        msg = (
            f"djcelery_audit_baseline = {path!r}: expected a file that "
            f"--djcelery-audit-report=PATH.json has written, but {type(error).__name__}: {error}"
        )
        raise BadOptionError(msg) from None


def write_section(
    terminal: pytest.TerminalReporter, verdict: Verdict, *, report: str | None
) -> None:
    """Write the section, or a single line if nothing was found.

    Args:
        terminal: Where it is written.
        verdict: What was found.
        report: What became of the report file, if one was asked for.
    """
    tests = counted(verdict.tests, "test")
    if not verdict.new and not verdict.known and not verdict.troubles:
        terminal.write_line(f"celery audit: {tests} watched, nothing found.")
    else:
        terminal.write_sep("=", "celery audit")
        for line in lines(verdict, tests, verbose=terminal.verbosity > 0):
            terminal.write_line(line, **_colours(line))
        for trouble in verdict.troubles:
            terminal.write_line(
                f"The audit itself failed, and may have missed something: {trouble}", red=True
            )
    if report is not None:
        terminal.write_line(f"celery audit: {report}")
    if verdict.failing:
        kinds = ", ".join(dict.fromkeys(finding.kind for finding in verdict.failing))
        new = counted(len(verdict.failing), "finding")
        terminal.write_line(f"celery audit: failed by {new} of {kinds}", red=True)


def _colours(line: str) -> dict[str, bool]:
    """How a line of the section is printed, by what it begins or ends with."""
    if line.startswith("  ! "):
        return {"red": True, "bold": True}
    if line.endswith("]") and not line.startswith(" "):  # the title of a kind
        return {"yellow": True, "bold": True}
    if line.startswith(" " * 6):
        return {"light": True}
    return {}


def lines(verdict: Verdict, tests: str, *, verbose: bool) -> Iterator[str]:
    """What was found, the worst first."""
    yield f"{tests} watched, {counted(len(verdict.new), 'finding')}{_known(verdict)}."
    if any(finding.sure for finding in verdict.new):
        yield _SURE
    for kind in KINDS:
        found = [finding for finding in verdict.new if finding.kind == kind.name]
        if found:
            yield ""
            yield from _of_kind(kind, found, verbose=verbose)


def _of_kind(kind: Kind, found: list[Finding], *, verbose: bool) -> Iterator[str]:
    yield f"{kind.title}: {counted(len(found), 'place')}  [{kind.name}]"
    yield f"  {kind.why}"
    yield f"  {kind.remedy}"
    shown = found if verbose else found[:_MOST]
    for finding in shown:
        yield from _described(finding)
    if len(found) > len(shown):
        yield f"  … and {len(found) - len(shown)} more: -v shows all"


def _described(finding: Finding) -> Iterator[str]:
    times = "" if finding.count == finding.tests else f"{counted(finding.count, 'time')} "
    mark = "! " if finding.sure else "- "
    yield (
        f"  {mark}{finding.place}: {finding.place.subject}, "
        f"{times}in {counted(finding.tests, 'test')}"
    )
    for name, values in finding.facts.items():
        label = f"      {name}: "
        for value in values[:_MOST_VALUES]:
            yield label + value
            label = " " * len(label)
        if len(values) > _MOST_VALUES:
            yield f"{label}… and {len(values) - _MOST_VALUES} more"
    more = finding.tests - len(finding.examples)
    yield f"      tests: {', '.join(finding.examples)}{f' and {more} more' if more else ''}"


def _known(verdict: Verdict) -> str:
    known = f", {len(verdict.known)} known before" if verdict.known else ""
    gone = f" ({verdict.gone} of the baseline no longer found)" if verdict.gone else ""
    return known + gone


def write_file(path: str, verdict: Verdict) -> None:
    """Write what was found, known and new alike, so that a JSON file can be the next baseline."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.lower() == ".html":
        text = page(_for_page(verdict))
    else:
        text = json.dumps(as_json(verdict), indent=2, ensure_ascii=False) + "\n"
    # A file's name can contain bytes that are not text: they become escapes, as in JSON.
    file.write_text(text, encoding="utf-8", errors="backslashreplace")


def _for_page(verdict: Verdict) -> dict[str, Any]:
    """The report with what only a person reads; a baseline is the same from run to run."""
    report = as_json(verdict)
    findings = [{**finding, "fix": fix_of(finding)} for finding in report["findings"]]
    return {
        **report,
        "run": dict(verdict.run),
        "compared": verdict.compared,
        "findings": sorted(findings, key=lambda finding: (finding["known"], not finding["sure"])),
    }


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The whole report as plain data."""
    by_rank = [
        *((finding, False) for finding in verdict.new),
        *((finding, True) for finding in verdict.known),
    ]
    return {
        "version": 1,
        "tests": verdict.tests,
        "gone": verdict.gone,
        "troubles": verdict.troubles,
        "kinds": [
            {"name": kind.name, "title": kind.title, "why": kind.why, "remedy": kind.remedy}
            for kind in KINDS
        ],
        "findings": [{**finding.as_json(), "known": known} for finding, known in by_rank],
    }

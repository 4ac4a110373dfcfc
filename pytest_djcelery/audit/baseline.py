"""What was known before, and what is new."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import BadOptionError

if TYPE_CHECKING:
    from pytest_djcelery.audit.findings import Finding, Findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is new, what was known, and what makes the run fail."""

    tests: int
    new: list[Finding]
    known: list[Finding]
    gone: int  # known before, and found no more
    failing: list[Finding]  # of the new ones
    troubles: list[str]  # what went wrong in the audit itself


class Baseline:
    """The findings that an earlier run has written.

    Args:
        findings: as JSON has them.
    """

    def __init__(self, findings: Iterable[Mapping[str, Any]] = ()) -> None:
        self._faults: dict[_Key, list[set[str]]] = {}  # of each finding of a key
        for finding in findings:
            self._faults.setdefault(_key(finding), []).append(_faults(finding))

    def judge(
        self, findings: Findings, fail_on: Collection[str], troubles: Iterable[str]
    ) -> Verdict:
        """Split the findings of this run into new and known ones.

        Args:
            findings: of this run.
            fail_on: names of the kinds of which a new one fails the run.
            troubles: what went wrong in the audit itself.
        """
        left = {key: faults.copy() for key, faults in self._faults.items()}
        new, known = [], []
        for finding in findings.ranked():
            data = finding.as_json()
            same = left.get(_key(data), [])
            # Two of the same in one function are two: a third one is new. So is a call of a known
            # line that no longer fits its task.
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
        )


_Key = tuple[str, ...]


def _key(finding: Mapping[str, Any]) -> _Key:
    """What it is known by: its place, but for the number of the line, which other changes move."""
    # Python 3.10 has only the last part of a function's name.
    function = finding["function"].rpartition(".")[2]
    return (*(finding[name] for name in ("kind", "path", "code", "subject")), function)


def _faults(finding: Mapping[str, Any]) -> set[str]:
    return set(finding["facts"].get("fault", ()))


def read_baseline(path: str) -> Baseline:
    """The findings in a file.

    Raises:
        BadOptionError: It is not a file that the audit has written.
    """
    try:
        return Baseline(json.loads(Path(path).read_text(encoding="utf-8"))["findings"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        msg = (
            f"djcelery_audit_baseline = {path!r}: expected a file that "
            f"--djcelery-audit-report=PATH.json has written, but {type(error).__name__}: {error}"
        )
        raise BadOptionError(msg) from None

"""The recorded truth: `losses.json`, each outcome once, and which case has which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("losses.json")

#: What happened in a case, as `tests.contract.losses.recording.outcome` makes it.
Outcome = dict[str, Any]
#: Outcomes by the case's name.
Record = dict[str, Outcome]
#: The record of each Celery and broker, such as ``5.7 redis``.
Records = dict[str, Record]


def read() -> Records:
    """Return what has been recorded; nothing, if there is no file."""
    if not FILE.exists():
        return {}
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    records: Records = {where: {} for where in stored["recorded"]}
    for name, indices in stored["cases"].items():
        for where in indices if isinstance(indices, dict) else stored["recorded"]:
            index = indices[where] if isinstance(indices, dict) else indices
            records[where][name] = stored["outcomes"][index]
    return records


def versions() -> dict[str, str]:
    """Return what each record was made with."""
    recorded: dict[str, str] = json.loads(FILE.read_text(encoding="utf-8"))["recorded"]
    return recorded


def write(records: Records, made_with: dict[str, str]) -> None:
    """Store records in place of those that there are."""
    outcomes: dict[str, int] = {}
    cases: dict[str, dict[str, int]] = {}
    for where, record in sorted(records.items()):
        for name, outcome in record.items():
            text = json.dumps(outcome)
            cases.setdefault(name, {})[where] = outcomes.setdefault(text, len(outcomes))
    everywhere = set(records)
    of_case = {name: _shortest(indices, everywhere) for name, indices in cases.items()}
    parts = {
        "recorded": _lines(dict(sorted(made_with.items()))),
        "cases": _lines(of_case),
        "outcomes": "[\n{}\n]".format(",\n".join(outcomes)),
    }
    text = ",\n".join(f'"{name}": {part}' for name, part in parts.items())
    FILE.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")


def differences(recorded: Record, found: Record) -> list[str]:
    """Return in which tasks of which cases what was found is not what was recorded."""
    nothing: Outcome = {}
    return [
        f"{name}: {role}\n  recorded {json.dumps(before.get(role))}\n"
        f"  now      {json.dumps(outcome.get(role))}"
        for name in {**recorded, **found}
        for before, outcome in [(recorded.get(name, nothing), found.get(name, nothing))]
        for role in {**before, **outcome}
        if before.get(role) != outcome.get(role)
    ]


def _lines(mapping: dict[str, Any]) -> str:
    rows = (f"{json.dumps(key)}: {json.dumps(mapping[key])}" for key in mapping)
    return "{\n" + ",\n".join(rows) + "\n}"


def _shortest(indices: dict[str, int], everywhere: set[str]) -> int | dict[str, int]:
    """Return one index where all records agree, else that of each."""
    [first, *others] = set(indices.values())
    return indices if others or indices.keys() != everywhere else first

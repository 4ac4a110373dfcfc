"""What happened in a case, in the form in which it is recorded."""

from __future__ import annotations


def outcome(notes, states, rows):
    """Return what happened to each task, the states that it left, and the rows.

    Args:
        notes: The notes of the case, in order.
        states: State and result of each of its tasks, by role.
        rows: The names of the rows that it left.
    """
    told = {}
    for each in notes:
        if each["kind"] != "recorder":
            told.setdefault(each["role"], {}).setdefault(each["kind"], []).append(each["what"])
    for role in told.keys() - {"victim"}:
        # When the others run depends on what the worker has taken meanwhile, and on where in its
        # queue a broker puts back what is redelivered.
        told[role] = {kind: sorted(whats) for kind, whats in told[role].items()}
    for role, (state, result) in states.items():
        told.setdefault(role, {})["state"] = _described(state, result)
    return {"rows": list(rows), **{role: told[role] for role in sorted(told)}}


def _described(state, result):
    if isinstance(result, BaseException):
        return f"{state} {type(result).__name__}"
    return f"{state} {result!r}" if state == "SUCCESS" else state

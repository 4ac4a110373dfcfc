"""What to write in place of what was found, to be copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_djcelery.audit import findings

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
    findings.IN_TRANSACTION.name: _after_commit,
    findings.FAILURES.name: _look,
    findings.MOCKED.name: _outbox,
    findings.HOOKS.name: lambda _: "[hook] = celery_on_commit.ran",
    findings.NEVER_RUN.name: lambda _: "celery_inline.run()",
    findings.OUTSIDE.name: lambda _: "djcelery_broker = memory",
    findings.BEYOND.name: _timeout,
}

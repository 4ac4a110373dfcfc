"""Receivers of Celery's signals, in whatever process: connected at import, recorded on demand."""

from __future__ import annotations

import os
from pathlib import Path

from celery import signals
from shop.contract.log import LOG

LISTENING = Path(os.environ["CONTRACT_LOG"]).with_suffix(".listening")
PUBLISHING = ("before_task_publish", "after_task_publish")
IN_WORKER = (
    "task_received", "task_prerun", "task_success", "task_failure", "task_retry", "task_postrun",
    "task_revoked", "task_unknown", "task_rejected", "task_internal_error",
)  # fmt: skip


def attempt(sender, *, headers=None, request=None, task=None, **_):
    """The retries of the message that a signal tells of; ``None``: it knows of no message."""
    if isinstance(headers, dict):
        return headers.get("retries", 0)
    fields = request or getattr(task or sender, "request", None)
    fields = getattr(fields, "request_dict", fields)
    if isinstance(fields, dict):
        return fields.get("retries") or 0
    return getattr(fields, "retries", None)


def receiver_of(name):
    def receiver(sender=None, **kwargs):
        if LISTENING.exists():
            LOG.append((name, attempt(sender, **kwargs)))

    return receiver


RECEIVERS = {name: receiver_of(name) for name in (*PUBLISHING, *IN_WORKER)}
for _name, _receiver in RECEIVERS.items():
    getattr(signals, _name).connect(_receiver, weak=False)

"""Celery's request, which notes what becomes of its message."""

from __future__ import annotations

from celery.worker.request import Request

from shop.notes import note


class NotedRequest(Request):
    def acknowledge(self):
        was = self.acknowledged
        super().acknowledge()
        self._note(was, "acknowledged")

    def reject(self, requeue=False):  # noqa: FBT002 - as Celery has it
        was = self.acknowledged
        super().reject(requeue=requeue)
        self._note(was, "requeued" if requeue else "rejected")

    def _note(self, was, what):
        if not was:
            note(self.kwargs["case"], self.task.role, what, kind="message")

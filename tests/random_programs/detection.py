"""Which messages of a random program race with a commit, derived from the program alone.

Copied into inner projects, which import it as `detection`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from programs import ALIASES, Interpreter, Program


@dataclass(eq=False)
class Frame:
    """A block or a savepoint that is open: when it wrote and, if outermost, what it sent when."""

    undoes: bool  # what was written in it, where it fails
    writes: list[int] = field(default_factory=list)
    sent: list[tuple[int, int]] = field(default_factory=list)


class Races(Interpreter):
    """Runs a program and keeps separate books.

    ``certain`` are the messages that race with what outlasts its savepoints. ``possible`` are those
    after which something was written, which may be undone later: an error has to be raised before.
    """

    def __init__(self, publish: Callable[[int], object]) -> None:
        super().__init__(self._send, self._send_after_commit)
        self._deliver = publish
        self._frames: dict[str, list[Frame]] = {alias: [] for alias in ALIASES}
        self._clock = count(1)
        self.certain: set[int] = set()
        self.possible: set[int] = set()

    def _send(self, number: int) -> None:
        now = next(self._clock)
        for frames in self._frames.values():
            if frames:
                frames[0].sent.append((number, now))
                if any(frame.writes for frame in frames):
                    self.certain.add(number)
        self._deliver(number)

    def _send_after_commit(self, number: int) -> None:
        from django.db import transaction

        transaction.on_commit(lambda: self._send(number))

    def _wrote(self, alias: str) -> None:
        frames = self._frames[alias]
        if frames:
            frames[-1].writes.append(next(self._clock))
            self.possible.update(number for number, _ in frames[0].sent)

    def do_write(self, alias: str, number: int) -> None:
        """A write, which is noted when it is done."""
        super().do_write(alias, number)
        self._wrote(alias)

    def do_fail_to_write(self, alias: str, number: int) -> None:
        """Of two statements the first writes."""
        from shop.models import Order

        for _ in range(2):
            order = Order(pk=-number, name=f"key {number}")  # no key that a database draws
            order.save(using=alias, force_insert=True)
            self._wrote(alias)

    def do_block(self, alias: str, options: dict[str, Any], body: Program) -> None:
        """A block, which takes its writes with it where it fails and has a savepoint."""
        from django.db import connections, transaction

        connection = connections[alias]
        has_savepoint = options.get("savepoint", True) and not connection.needs_rollback
        failed = True
        frame = Frame(undoes=has_savepoint)
        with transaction.atomic(using=alias, **options):
            self._frames[alias].append(frame)
            try:
                self.body(body)
                failed = connection.needs_rollback
            finally:
                self._leave(alias, frame, failed=failed)

    def do_savepoint(self, alias: str, rolled_back: bool, body: Program) -> None:  # noqa: FBT001
        """A savepoint by hand, likewise."""
        from django.db import transaction

        point = transaction.get_connection(alias).savepoint()
        frame = Frame(undoes=True)
        self._frames[alias].append(frame)
        undone = False
        try:
            try:
                self.body(body)
            finally:
                if rolled_back:
                    transaction.savepoint_rollback(point, using=alias)
                    undone = True
                else:
                    transaction.savepoint_commit(point, using=alias)
        finally:
            self._leave(alias, frame, failed=undone)

    def _leave(self, alias: str, frame: Frame, *, failed: bool) -> None:
        frames = self._frames[alias]
        frames.remove(frame)
        if not frames:
            self.certain.update(
                number for number, sent in frame.sent if any(wrote > sent for wrote in frame.writes)
            )
        elif not (failed and frame.undoes):
            frames[-1].writes += frame.writes

"""Counts the members of chords and collects their values as Celery's Redis backend does.

Celery's other key/value backends only count how many members of a header are done, and the last
one fetches all results through the saved group: a group inside a header counts as one member, an
ignored result is waited for, and each member reads the whole group. With Redis, which most
projects use, each member leaves its value as it returns.

Mirrors `celery.backends.redis.RedisBackend` (``add_to_chord``, ``set_chord_size``, ``apply_chord``,
``on_chord_part_return``), checked on Celery 5.4 to 5.7; what only protects Redis itself (expiry,
claims of several dispatchers) is not needed here.

The keys of a chord, each appended to the key of its group: ``.s`` is the size of the header,
``.t`` how many members were added to it, ``.c`` how many have returned, ``.d0`` to ``.dN`` are
their names in the order of return, and ``.j`` with a name is what that member left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from operator import itemgetter
from typing import Any

from celery import states
from celery.backends.base import KeyValueStoreBackend
from celery.canvas import maybe_signature
from celery.exceptions import ChordError
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import GroupResult
from celery.utils.functional import _regen
from celery.utils.log import get_logger

# Log records about chords have the logger that a project with Redis would look for.
_logger = get_logger("celery.backends.redis")
_OVER = b"0"  # in place of a header's size: whatever returns after this doesn't count


class ChordBackend(KeyValueStoreBackend, ABC):
    """A key/value backend that keeps the values of a header's members until the last returns."""

    implements_incr = False  # else the base class would count by itself

    @abstractmethod
    def chord_locked(self, group_id: str) -> AbstractContextManager[Any]:
        """Within the ``with``, keep others from a chord."""

    def add_to_chord(self, group_id: str, result: Any) -> None:
        """Count a member that another member has added."""
        with self.chord_locked(group_id):
            self._set_number(group_id, ".t", self._number(group_id, ".t") + 1)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Set how many members the header has; for groups inside it, theirs are counted."""
        self._set_number(group_id, ".s", chord_size)

    def apply_chord(self, header_result_args: Any, body: Any, **_: Any) -> None:
        """Save the structure of a header that contains groups, for the values of its body."""
        if isinstance(header_result_args[1], _regen):
            return  # a generator would be consumed; `_regen` is a private name of Celery's
        header_result = self.app.GroupResult(*header_result_args)
        if any(isinstance(result, GroupResult) for result in header_result.results):
            header_result.save(backend=self)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **_: Any) -> None:
        """Keep what a member returned or raised; after the last one, send or fail the body."""
        if not request.group or not request.id:
            return
        group_id = request.group
        if not self._is_last(group_id, self._part(request, state, result)):
            return
        callback = maybe_signature(request.chord, app=self.app)
        try:
            values = self._values(group_id)
            try:
                callback.delay(values)
            except Exception as error:
                raise ChordError(f"Callback error: {error!r}") from error
        except ChordError as error:
            self._fail(group_id, callback, error)
        except Exception as error:  # noqa: BLE001 - any error of a member fails the body
            joined = ChordError(f"Join error: {error!r}")
            joined.__cause__ = error
            self._fail(group_id, callback, joined)
        finally:
            self._forget_chord(group_id)

    def _part(self, request: Any, state: str, result: Any) -> tuple[str, Any]:
        place = request.group_index  # None for a member that was added later, which comes last
        turn = [place is None, place or 0, request.id]
        return f"{place}-{request.id}", [turn, state, self.encode_result(result, state)]

    def _is_last(self, group_id: str, part: tuple[str, Any]) -> bool:
        """Keep a member's part, once, and return whether all members have returned."""
        name, value = part
        key = self.get_key_for_group(group_id, f".j{name}")
        with self.chord_locked(group_id):
            if self.get(self.get_key_for_group(group_id, ".s")) == _OVER:
                return False
            returned = self._number(group_id, ".c")
            if self.get(key) is None:  # a redelivered message counts once
                self.set(key, self.encode(value))
                self.set(self.get_key_for_group(group_id, f".d{returned}"), self.encode(name))
                returned += 1
                self._set_number(group_id, ".c", returned)
            size = self._number(group_id, ".s")
            if not size or returned != size + self._number(group_id, ".t"):
                return False
            self.set(self.get_key_for_group(group_id, ".s"), _OVER)
            return True

    def _values(self, group_id: str) -> list[Any]:
        """The values that are passed to the body.

        Raises:
            ChordError: A member has failed.
        """
        header = GroupResult.restore(group_id, backend=self, app=self.app)
        if header is not None:
            return list(self._joined(header.results))
        parts = [self.decode(encoded) for encoded in self.mget(list(self._part_keys(group_id)))]
        parts.sort(key=itemgetter(0))
        return [self._value_of(turn[-1], state, value) for turn, state, value in parts]

    def _value_of(self, task_id: str, state: str, value: Any) -> Any:
        if state in states.EXCEPTION_STATES:
            value = self.exception_to_python(value)
        if state in states.PROPAGATE_STATES:
            error = ChordError(f"Dependency {task_id} raised {value!r}")
            error.__cause__ = value if isinstance(value, BaseException) else None
            raise error
        return value

    def _joined(self, results: Iterable[Any], *, inner: bool = False) -> Iterator[Any]:
        """The stored results in the structure of the header, as ``join_native`` returns them.

        All members have returned, so a result that isn't stored by now never will be: it is `None`
        for a member that ignores its result, but in an inner group Celery waits for it.
        """
        for result in results:
            if isinstance(result, GroupResult):
                yield list(self._joined(result.results, inner=True))
                continue
            meta = self.get_task_meta(result.id, cache=False)
            if meta["status"] in states.PROPAGATE_STATES:
                raise meta["result"]
            if inner and meta["status"] not in states.READY_STATES:
                raise CeleryTimeoutError("The operation timed out.")
            yield meta["result"]

    def _fail(self, group_id: str, callback: Any, error: ChordError) -> None:
        try:
            raise error  # `chord_error_from_stack` uses the traceback of the handled exception
        except ChordError:
            _logger.exception("Chord %r raised: %r", group_id, error)
            self.chord_error_from_stack(callback, error)

    def _part_keys(self, group_id: str) -> Iterator[bytes]:
        for number in range(self._number(group_id, ".c")):
            name = self.decode(self.get(self.get_key_for_group(group_id, f".d{number}")))
            yield self.get_key_for_group(group_id, f".j{name}")

    def _forget_chord(self, group_id: str) -> None:
        for key in list(self._part_keys(group_id)):
            self.delete(key)
        for number in range(self._number(group_id, ".c")):
            self.delete(self.get_key_for_group(group_id, f".d{number}"))
        for name in (".c", ".t"):
            self.delete(self.get_key_for_group(group_id, name))

    def _number(self, group_id: str, name: str) -> int:
        return int(self.get(self.get_key_for_group(group_id, name)) or 0)

    def _set_number(self, group_id: str, name: str, number: int) -> None:
        self.set(self.get_key_for_group(group_id, name), str(number).encode())

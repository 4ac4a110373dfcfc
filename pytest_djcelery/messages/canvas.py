"""``celery_outbox.canvas``: how what was started compares with chains, groups and chords.

`canvas_form` has the one form that both sides are brought to, `canvas_sent` rebuilds what was
sent from its messages, `rehearsal` finds out which messages a canvas makes, and
`canvas_comparison` compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from celery.canvas import Signature

from pytest_djcelery.messages import unittest_failures
from pytest_djcelery.messages.canvas_comparison import line_differences
from pytest_djcelery.messages.canvas_sent import sent_canvases, written_canvas
from pytest_djcelery.messages.descriptions import describe_call, describe_line
from pytest_djcelery.messages.listing import Listing, Matcher
from pytest_djcelery.messages.rehearsal import Given
from pytest_djcelery.messages.signature_types import check_signature
from pytest_djcelery.messages.signatures import Difference
from pytest_djcelery.messages.wire import equal, shown

if TYPE_CHECKING:
    from pytest_djcelery.messages.canvas_form import Line
    from pytest_djcelery.messages.sent_task import SentTask


class _Written:
    """What a test wrote, to be compared with many canvases."""

    def __init__(self, written: object) -> None:
        check_signature(written)
        self.written = written
        self._line: Line = ()
        self._unsendable: str | None = None
        if not isinstance(written, Signature):
            return
        try:
            self._line = written_canvas(written, Given(written))
        except Exception as error:  # noqa: BLE001 - whatever Celery says of it
            self._unsendable = f"{type(error).__name__}: {error}"

    def matches(self, entry: CanvasEntry) -> bool:
        return next(self._differing(entry), None) is None

    def differences(self, entry: CanvasEntry) -> list[Difference]:
        return list(self._differing(entry))

    def _differing(self, entry: CanvasEntry) -> Iterator[Difference]:
        if not isinstance(self.written, Signature):
            if not equal(self.written, entry):
                yield Difference(
                    property="canvas", expected=shown(self.written), actual=repr(entry)
                )
        elif self._unsendable or not self._line:
            why = (
                f"publishing it raises {self._unsendable}" if self._unsendable else "sends nothing"
            )
            yield Difference(
                property="canvas",
                expected=f"{describe_call(self.written)} ({why})",
                actual=repr(entry),
            )
        else:
            serializer = entry.messages[0].serializer
            yield from line_differences(self._line, entry.line, serializer)


class CanvasEntry:
    """A chain, group, chord or single task that was started.

    Compare it with ``chain(...)``, ``group(...)``, ``chord(...)`` or a plain signature.
    """

    __slots__ = ("line", "messages")

    def __init__(self, line: Line, messages: tuple[SentTask, ...]) -> None:
        self.line = line
        self.messages = messages

    def __repr__(self) -> str:
        return describe_line(self.line)

    def __eq__(self, other: object) -> bool:
        unittest_failures.compared()
        if isinstance(other, CanvasEntry):
            return self.messages == other.messages
        if isinstance(other, Signature):
            return _Written(other).matches(self)
        return NotImplemented

    def differing(self, written: object) -> Iterator[Difference]:
        """Every property in which this is not what ``written`` says."""
        yield from _Written(written).differences(self)


def canvas_of(messages: Iterable[SentTask]) -> list[CanvasEntry]:
    """Each chain, group, chord or single task that was started, in publish order."""
    return [CanvasEntry(canvas.line, canvas.messages) for canvas in sent_canvases(messages)]


class Canvas(Listing[CanvasEntry]):
    """Every canvas that was started, in publish order; compares with a list of signatures."""

    def __init__(
        self,
        messages: Iterable[SentTask],
        description: str,
        circumstances: Callable[[], list[str]] = list,
    ) -> None:
        self._entries = canvas_of(messages)
        self._circumstances = circumstances
        self.description = description

    def items(self) -> Sequence[CanvasEntry]:
        return self._entries

    def matcher(self, written: object) -> Matcher[CanvasEntry]:
        return _Written(written)

    def circumstances(self) -> list[str]:
        return self._circumstances()

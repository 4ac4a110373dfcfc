"""Finds out what publishing a canvas sends, by publishing a copy of it to nobody.

Which messages a chain, a group or a chord sends, which of their options reach which task, and in
which order members are sent, is up to Celery and differs between releases. So none of Celery's
rules is repeated here: the copy belongs to a stand-in for the app, whose tasks record what they
are called with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, cast

from celery.canvas import Signature, _chain, _chord, group
from celery.result import AsyncResult, GroupResult
from celery.utils.functional import regen

from pytest_djcelery.messages.matching import PREVIOUS
from pytest_djcelery.messages.option_rules import BOOKKEEPING
from pytest_djcelery.messages.signature_types import as_signature, is_canvas, signatures_of
from pytest_djcelery.messages.task_message import Part
from pytest_djcelery.messages.wire import is_wildcard

if TYPE_CHECKING:
    from celery import Celery

NOBODY: Final = "nobody waits for an answer"  # in place of the id that freezing writes
# What freezing writes into a signature, and nobody writes by hand.
FREEZING: Final = BOOKKEEPING - {"reply_to", "stamped_headers"}
# What Celery passes on while it publishes, and no message shows.
_PASSED_ALONG: Final = frozenset({"add_to_parent", "chain", "producer", "route_name"})


class Given:
    """The ids that a test wrote into a canvas, as opposed to those that Celery generates."""

    def __init__(self, written: Mapping[str, Any]) -> None:
        self._ids: list[object] = []
        self._collect(as_signature(written))

    def _collect(self, signature: Signature) -> None:
        task_id = (signature.options or {}).get("task_id")
        if task_id is not None and not is_wildcard(task_id):  # a wildcard equals any
            self._ids.append(task_id)
        for member in _members(signature):
            self._collect(as_signature(member))

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._ids


def rehearsed(
    written: Signature, *, after_result: bool = False, given: Given | None = None
) -> list[Part]:
    """What publishing ``written`` sends, in the order of sending.

    Args:
        written: Any canvas; it is not changed.
        after_result: Whether a worker publishes it, with the result of the previous step.
        given: For a canvas that a test wrote, the ids to keep; what was sent has its own.
    """
    stage = _Stage(written.app, given, later=after_result)
    copy = stage.copy_of(written)
    copy.apply_async((PREVIOUS,) if after_result else ())
    parts = stage.parts
    return [_settled(part) for part in parts] if after_result else parts


def overridden(signature: Signature) -> Mapping[str, Any]:
    """The options of a task in a later canvas that the canvas's own options replace.

    A worker receives both.
    """
    options: Mapping[str, Any] = vars(signature).get("overridden", {})
    return options


def frozen(written: Signature) -> Signature:
    """A copy of a signature in the form that it has inside a message."""
    stage = _Stage(written.app, None)
    copy = stage.copy_of(written)
    copy.freeze()
    return stage.original(copy)


def _settled(part: Part) -> Part:
    """Mark as immutable a part that was not passed the result of the previous step."""
    source: Any = part.source
    takes_it = bool(source.args) and source.args[0] is PREVIOUS
    source["immutable"] = not takes_it
    source["args"] = source.args[takes_it:]
    return part


class _Stage:
    """Stands in for an app while a canvas is published; it sends nothing and stores nothing.

    It has what `celery.canvas` needs of an app; checked on Celery 5.4 to 5.7. Anything else is the
    app's own.
    """

    thread_oid = NOBODY
    current_worker_task = None

    def __init__(self, app: Celery, given: Given | None, *, later: bool = False) -> None:
        self.app = app
        self.given = given
        self._later = later
        self._originals: dict[int, tuple[object, Signature]] = {}
        self.parts: list[Part] = []
        self.backend = _Backend()
        self.conf = _Conf(app.conf)
        self.tasks = _Tasks(self)
        self._in_order = bool(app.conf.task_always_eager)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.app, name)

    def producer_or_acquire(self, producer: object = None) -> AbstractContextManager[object]:
        return nullcontext(producer)

    def AsyncResult(self, task_id: str, **_: object) -> AsyncResult[Any]:
        stage: Any = self
        return AsyncResult(task_id, backend=self.backend, app=stage)

    def GroupResult(self, group_id: str, results: Any, **more: Any) -> GroupResult:
        return GroupResult(group_id, results, app=self, **more)

    def copy_of(self, written: Mapping[str, Any]) -> Signature:
        """A copy that belongs to this app and that publishing may change."""
        return self._copy(as_signature(written), self._staged)

    def _staged(self, signature: Signature, copy: Any) -> None:
        copy._app = self
        copy._type = None if is_canvas(signature) else _Recorder(self, signature)
        options = copy["options"]
        for name in list(options):
            if name in FREEZING or (name == "task_id" and is_wildcard(options[name])):
                del options[name]
        if self._later:
            for name in ("link", "link_error"):
                if name in options:
                    options[name] = list(map(_decoded, signatures_of(name, options[name])))

    def original(self, copied: Mapping[str, Any]) -> Signature:
        """A copy of a copy, which belongs to the real app again."""
        known = self._originals.get(id(copied))  # all members of a header have one body
        if known is None:
            known = copied, self._copy(as_signature(copied), self._as_before)
            self._originals[id(copied)] = known
        return known[1]

    def _as_before(self, signature: Signature, copy: Any) -> None:
        recorder, options = signature._type, copy["options"]
        copy._app, copy._type = self.app, None
        if isinstance(recorder, _Recorder):
            self._belongs(copy, recorder.signature)
        self._options_as_before(options)
        if options.get("chord"):
            options["chord"] = self.original(options["chord"])

    def _options_as_before(self, options: dict[str, Any]) -> None:
        if options.get("reply_to") == NOBODY:
            del options["reply_to"]
        for name in ("chain", "link", "link_error"):  # Celery may have given them its app
            found = options.get(name)
            if found:
                options[name] = [
                    self.original(linked) if getattr(linked, "_app", None) is self else linked
                    for linked in (found if isinstance(found, (list, tuple)) else [found])
                ]

    def _belongs(self, copy: Any, signature: Signature) -> None:
        copy._app, copy._type = signature._app, signature._type
        if self._later:
            own = signature.options or {}
            hidden = {
                name: value
                for name, value in own.items()
                if copy["options"].get(name, value) is not value and name not in _NOT_OVERRIDDEN
            }
            copy.overridden = {**overridden(signature), **hidden}

    def _copy(self, signature: Signature, settle: Callable[[Signature, Any], None]) -> Signature:
        kind: Any = type(signature)
        copy: Any = kind.__new__(kind)
        copy.update(signature)
        vars(copy).update({name: vars(signature)[name] for name in _KEPT & vars(signature).keys()})
        copy["options"] = {
            name: list(value) if isinstance(value, list) else value
            for name, value in (signature.options or {}).items()
        }
        settle(signature, copy)
        kwargs = copy["kwargs"] = dict(signature.kwargs or {})

        def member(written: Mapping[str, Any]) -> Signature:
            return self._copy(as_signature(written), settle)

        if isinstance(signature, (_chain, group)):
            kwargs["tasks"] = self._members(kwargs["tasks"], member, type(signature))
        elif isinstance(signature, _chord):
            header, body = kwargs["header"], kwargs.get("body")
            kwargs["body"] = member(body) if body else body
            kwargs["header"] = (
                member(header)
                if isinstance(header, Mapping)
                else self._members(header, member, group)
            )
        return cast("Signature", copy)

    def _members(
        self, members: Iterable[Any], member: Callable[[Any], Signature], inside: type[Signature]
    ) -> Any:
        copies = list(map(member, members))
        if self._in_order and issubclass(inside, group):
            # Freezing turns the members of nested groups around; eager mode freezes nothing.
            copies = list(_flattened(copies))
        # Celery freezes what came from a generator in another way.
        return regen(iter(copies)) if isinstance(members, _LAZY) else copies

    def record(self, signature: Signature, args: Any, kwargs: Any, options: Any) -> None:
        """Record what a task of the canvas was called with."""
        own = {
            name: value
            for name, value in options.items()
            if name not in _PASSED_ALONG and name not in FREEZING
        }
        self._options_as_before(own)
        if self.given is not None and own.get("task_id") not in self.given:
            own.pop("task_id", None)
        source = Signature(
            signature["task"],
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            options=own,
        )
        self._belongs(source, signature)
        chord = options.get("chord")
        self.parts.append(
            Part(
                source=source,
                later=tuple(map(self.original, signatures_of("chain", options.get("chain")))),
                group_id=options.get("group_id"),
                chord=self.original(chord) if chord else None,
            )
        )


def _decoded(link: Any) -> Any:
    """A link as a worker decodes it: Celery adds it a second time, for a list equals no tuple."""
    return {**link, "args": list(link["args"])} if isinstance(link, Mapping) else link


_LAZY: Final = type(regen(iter(())))
_KEPT: Final = frozenset({"_frozen", "_use_link"})
# Freezing adds to the links, and replaces all other options that it writes.
_NOT_OVERRIDDEN: Final = FREEZING | {"chain", "link", "link_error", "reply_to", "task_id"}


class _Conf:
    """The app's configuration, with a broker to send to."""

    task_always_eager = False

    def __init__(self, conf: Any) -> None:
        self._conf = conf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conf, name)


class _Backend:
    """A result backend that stores nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class _Tasks:
    """A registry with any task, since signatures from a serializer look their tasks up."""

    def __init__(self, stage: _Stage) -> None:
        self._stage = stage

    def __getitem__(self, name: str) -> _Recorder:
        return _Recorder(self._stage, Signature(name, app=self._stage.app))


class _Recorder:
    """Stands in for a task that a canvas calls."""

    def __init__(self, stage: _Stage, signature: Signature) -> None:
        self._stage = stage
        self.signature = signature
        self.AsyncResult = stage.AsyncResult

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        self._stage.record(self.signature, args, kwargs, options)
        return self.AsyncResult(options.get("task_id") or NOBODY)


def _members(signature: Signature) -> list[Any]:
    kwargs = signature.kwargs or {}
    if isinstance(signature, (_chain, group)):
        return list(kwargs["tasks"])
    if not isinstance(signature, _chord):
        return []
    header, body = kwargs["header"], kwargs.get("body")
    members = [header] if isinstance(header, Mapping) else list(header)
    return [*members, body] if body else members


def _flattened(members: Iterable[Signature]) -> Iterable[Signature]:
    for member in members:
        if isinstance(member, group):
            yield from _flattened(list(member.tasks))
        else:
            yield member

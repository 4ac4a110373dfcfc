"""The timeline of one test as a self-contained page, which needs neither JavaScript nor network.

Whatever comes from the project under test (arguments, headers, paths, texts of errors) is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import traceback
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery.messages.events import Ended, HookFinished, RequestRaised
from pytest_djcelery.recording.failures import own_traceback
from pytest_djcelery.trace import lanes, table, wording

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.trace.steps import Step
    from pytest_djcelery.trace.story import Story

MESSAGES: Final = 2000  # on one page
_LONGEST: Final = 2000  # characters of a value
_LONGEST_TRACEBACK: Final = 20_000  # characters
_DEEPEST: Final = 8  # steps of indentation
_COLUMNS: Final = ("ms", "clock", "what", "queue", "took", "outcome")


def page(story: Story, *, test: str, result: str) -> str:
    """Make the page.

    Args:
        story: What happened in the test.
        test: The name of the test.
        result: How it ended: ``passed``, ``failed`` or ``skipped``.
    """
    shown = _shown(story)
    drawn = lanes.picture(story, shown)
    template, style, style_hash = _parts()
    return template.substitute(
        title=escape(wording.plain(test)),
        style=style,
        style_hash=style_hash,
        heading=escape(wording.plain(test)),
        result=escape(result),
        summary=escape(_summary(story)),
        matters=_matters(story),
        lanes="".join(f"<li>{escape(name)}</li>" for name in map(wording.plain, drawn.lanes)),
        svg=drawn.svg,
        left_out=_left_out(story, shown),
        columns="".join(f'<span role="columnheader">{name}</span>' for name in _COLUMNS),
        rows="\n".join(_row(story, place) for place in shown),
    )


@cache
def _parts() -> tuple[Template, str, str]:
    folder = files(__package__).joinpath("page_parts")
    style = folder.joinpath("trace.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = Template(folder.joinpath("trace.html").read_text(encoding="utf-8"))
    return template, style, f"sha256-{digest}"


def _shown(story: Story) -> list[int]:
    """The steps on the page: all, or those around the one that matters."""
    if len(story.numbers) <= MESSAGES:
        return list(range(len(story.steps)))
    steps_of_message = len(story.steps) / len(story.numbers)
    return table.chosen(story, round(MESSAGES * steps_of_message))


def _summary(story: Story) -> str:
    messages, runs = len(story.numbers), sum(step.kind == "run" for step in story.steps)
    ended = [step.ended or step.began for step in story.steps]
    took = max(map(story.milliseconds, ended), default=0.0)
    return f"{_number(messages, 'message')}, {_number(runs, 'run')}, {took:,.1f} ms"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _left_out(story: Story, shown: list[int]) -> str:
    left = len(story.steps) - len(shown)
    if not left:
        return "" if shown else '<p class="left">No message was published and no task ran.</p>'
    rows = _number(left, "row")
    return (
        f'<p class="left">{rows} left out, of {len(story.steps):,}: a page shows at most '
        f"{MESSAGES:,} messages, those around what matters.</p>"
    )


def _matters(story: Story) -> str:
    place = story.matters
    if place is None:
        return ""
    why = story.why(place) or story.outcome(place)
    what = escape(story.what(place))
    return f'<p class="matters"><a href="#s{place}">{what}</a>: {escape(why)}</p>'


# -- rows --------------------------------------------------------------------------------------


def _row(story: Story, place: int) -> str:
    step = story.steps[place]
    cells = table.row(story, place, dated=True)
    kinds = ["row"]
    kinds += ["bad"] * story.failed(place) + ["matters"] * (place == story.matters)
    details = "".join(_facts(story, place, step))
    what = f"<span>{escape(cells.what.strip())}</span>"
    if details:
        what = f"<details><summary>{what}</summary><dl>{details}</dl></details>"
    depth = min(step.depth, _DEEPEST)
    return (
        f'<div role="row" class="{" ".join(kinds)}" id="s{place}">'
        f'<span role="cell" class="n">{cells.ms}</span><span role="cell">{cells.clock}</span>'
        f'<div role="cell" class="d{depth}">{what}</div>'
        f'<span role="cell">{escape(cells.queue)}</span>'
        f'<span role="cell" class="n">{cells.took}</span>'
        f'<span role="cell" class="out">{escape(cells.outcome)}</span></div>'
    )


def _facts(story: Story, place: int, step: Step) -> Iterator[str]:
    """What a row says when it is opened."""
    if why := story.why(place):
        yield _fact("why", why)
    if step.message is not None and step.kind in ("publish", "eager"):
        yield from _of_message(step.message)
    error = _error(step)
    if error is not None:
        yield _fact("traceback", _traceback(error), code=True)
    elif isinstance(step.end, Ended) and step.end.state == "SUCCESS":
        yield _fact("result", wording.value(step.end.value, longest=_LONGEST), code=True)


def _of_message(message: SentTask) -> Iterator[str]:
    facts: dict[str, object] = {
        "task": message.task,
        "arguments": wording.call(message, longest=_LONGEST),
        "id": message.id,
        "sent at": wording.place(message.location),
        "transaction": message.transaction,
        "queue": message.queue,
        "exchange": message.exchange,
        "routing key": message.routing_key,
        "ETA": message.eta,
        "expires": message.expires,
        "priority": message.priority,
        "retries": message.retries or None,
        "parent": message.parent_id,
        "group": message.group_id,
    }
    for name, found in facts.items():
        if found not in (None, ""):
            yield _fact(name, wording.cut(wording.plain(str(found)), _LONGEST))
    yield _fact("headers", _headers(message.headers), code=True)


def _headers(headers: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{wording.plain(str(name))}: {wording.value(found, longest=_LONGEST)}"
        for name, found in headers.items()
        if found not in (None, [], {})
    )


def _error(step: Step) -> BaseException | None:
    end, raised = step.end, None if step.ran is None else step.ran[2]
    found: object = None
    if isinstance(end, Ended):
        found = end.value
    elif isinstance(end, HookFinished):
        found = end.error
    elif isinstance(raised, RequestRaised):
        found = raised.error
    return found if isinstance(found, BaseException) else None


def _traceback(error: BaseException) -> str:
    """A traceback as text, without the frames of Celery around the task."""
    remote = getattr(error.__cause__, "remote_traceback", None)  # a live worker's
    if isinstance(remote, str):
        text = remote
    else:
        try:
            own = traceback.TracebackException(type(error), error, own_traceback(error))
            text = "".join(own.format(chain=False))
        except Exception:  # noqa: BLE001 - the text of a project's error may raise
            text = wording.error_text(error)
    text = text.strip("\n")
    if len(text) > _LONGEST_TRACEBACK:
        half = _LONGEST_TRACEBACK // 2
        text = f"{text[:half]}\n…\n{text[-half:]}"
    return "\n".join(map(wording.plain, text.split("\n")))


def _fact(name: str, text: str, *, code: bool = False) -> str:
    shown = f"<pre>{escape(text)}</pre>" if code else escape(text)
    return f"<dt>{name}</dt><dd>{shown}</dd>"

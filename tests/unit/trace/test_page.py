"""The page of a test: its picture, its table, and what becomes of the strings of a project."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
import time_machine

from pytest_djcelery.clock import real_time_offset
from pytest_djcelery.messages.events import (
    BlockEntered,
    BlockLeft,
    Event,
    FaultFired,
    HookDiscarded,
    HookRegistered,
    Published,
    RequestFinished,
    RequestStarted,
    SentByBeat,
)
from pytest_djcelery.messages.journal import Journal
from pytest_djcelery.trace import trace_hooks, trace_page
from pytest_djcelery.trace.lanes import Axis
from tests.audit.browser import returned
from tests.unit.sending import LOCATION, message
from tests.unit.trace.stories import run_of, sent_and_run, story_of, worker

HOSTILE = """</script></style><script>alert("1")</script><img src='http://127.0.0.1:9/x'>&lt;"""
VOID = frozenset({"meta", "rect", "line", "path", "circle"})


class Opener:
    """What opened a transaction."""

    location = LOCATION


class Read(HTMLParser):
    """The elements of a page, and whether each is closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(events: list[Event], **given: Any) -> str:
    return trace_page.page(story_of(events, **given), test="test_it.py::test_it", result="failed")


def everything() -> list[Event]:
    """Events of every lane."""
    first, beats, fails = message(), message("shop.mul"), message("shop.total", queue="mail")
    later = replace(message(), eta=first.sent_at + timedelta(hours=1))
    hook = HookRegistered(hook=2, location=None, using="default", robust=False, function="f")
    return [
        RequestStarted(method="POST", path="/", location=None),
        BlockEntered(block=1, opener=Opener()),
        *(hook, Published(message=first)),
        HookDiscarded(hook=2, reason="the transaction was rolled back"),
        *(BlockLeft(block=1, committed=False), RequestFinished()),
        *run_of(first, value=3),
        *(Published(message=beats), SentByBeat(task_id=beats.id, entry="hourly"), *run_of(beats)),
        FaultFired(fault=1, text="fail(total)"),
        *(Published(message=fails), *run_of(fails, "FAILURE", ValueError(HOSTILE))),
        *sent_and_run(later),
        Published(message=message("shop.mul")),
    ]


def test_each_lane_bar_and_arrow_is_drawn_and_leads_to_its_row() -> None:
    text = page_of(everything(), runner=worker())
    read = Read(text)
    assert not read.open
    lanes = re.findall(r"<li>(.*?)</li>", text)
    assert lanes == ["test", "transaction", "queue celery", "queue mail", "worker", "beat"]
    kinds = [f"{tag} {attributes.get('class')}" for tag, attributes in read.tags]
    drawn = [kind for kind in kinds if re.match("rect bar|line a|circ|path [hn]", kind)]
    assert {kind: drawn.count(kind) for kind in drawn} == {
        "rect bar request": 1,
        "rect bar atomic": 1,
        "rect bar run": 4,
        "path hook": 1,
        "path head": 1,
        "path note": 1,
        "circle message": 4,
        "circle message waits": 1,
        "line arrow": 3,
        "line arrow later": 1,
    }  # fmt: skip
    targets = {attributes["href"] for tag, attributes in read.tags if tag == "a"}
    ids = {f"#{attributes['id']}" for _, attributes in read.tags if "id" in attributes}
    assert targets <= ids
    assert "<title>beat ② mul()</title>" in text


def test_the_axis_is_folded_where_the_clock_was_moved() -> None:
    first, later = message(), message()
    journal = Journal()
    journal.append(Published(message=first))
    with time_machine.travel(timedelta(hours=3), tick=False):
        journal.append(Published(message=later))
    axis = Axis(journal.recorded(), real_time_offset())
    [fold] = axis.folds
    assert fold.label == "3 h"
    before, after = (axis.x(entry) for entry in journal.recorded())
    assert before < fold.x < after
    assert axis.width < 200


def test_the_strings_of_a_project_are_only_ever_text() -> None:
    hostile = message(HOSTILE, HOSTILE, queue=HOSTILE, id=HOSTILE, headers={HOSTILE: HOSTILE})
    events = [
        RequestStarted(method=HOSTILE, path=HOSTILE, location=None),
        *(Published(message=hostile), *run_of(hostile, "FAILURE", ValueError(HOSTILE))),
        RequestFinished(),
    ]
    text = trace_page.page(story_of(events), test=HOSTILE, result="failed")
    read = Read(text)
    assert not read.open
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "img", "link", "iframe"})
    assert {name for _, given in read.tags for name in given}.isdisjoint({"src", "style", "onload"})
    assert text.count("&lt;script&gt;") > 5


def test_arguments_headers_and_tracebacks_stand_in_the_table() -> None:
    with pytest.raises(ValueError, match="boo") as raised:
        raise ValueError("boo")
    sent = message("shop.add", 1, kwargs={"y": 2}, headers={"tenant": "acme"}, priority=3)
    text = page_of([Published(message=sent), *run_of(sent, "FAILURE", raised.value)])
    assert "<dt>arguments</dt><dd>add(1, y=2)</dd>" in text
    assert "<dt>headers</dt><dd><pre>tenant: &#x27;acme&#x27;</pre></dd>" in text
    assert "<dt>priority</dt><dd>3</dd>" in text
    assert "raise ValueError(&quot;boo&quot;)" in text
    assert "FAILURE ValueError: boo" in text


def test_beyond_two_thousand_messages_the_rest_is_counted() -> None:
    sent = [message("shop.add", number) for number in range(2500)]
    events: list[Event] = [Published(message=each) for each in sent]
    text = page_of([*events, *run_of(sent[-1], "FAILURE", ValueError("boo"))])
    assert "rows left out, of 2,501: a page shows at most 2,000 messages" in text
    assert text.count("<circle") == 2000
    assert "run #2500 add" in text


@pytest.mark.parametrize(
    "name",
    ["test_it.py::test_it", 'a/b\\c:d*e?f"g<h>i|j', "x" * 300, "tests/ünïcode.py::test[世界]", "..",
     "test_it.py::Test_It", "con", "\ud800"],
)  # fmt: skip
def test_a_file_has_a_name_that_is_safe_everywhere(name: str) -> None:
    made = trace_hooks.file_name(name)
    assert re.fullmatch(r"test-[A-Za-z0-9_.-]*\.html", made)
    assert len(made.encode()) <= 200
    assert made == trace_hooks.file_name(name)
    assert made.lower() != trace_hooks.file_name(name.swapcase()).lower() or name == name.swapcase()


def test_a_page_replaces_its_own_and_touches_nothing_else(tmp_path: Any) -> None:
    folder = tmp_path / "a" / "b"
    first = trace_hooks.write(folder, "test_it", "first")
    (folder / "kept.txt").write_text("kept")
    assert trace_hooks.write(folder, "test_it", "second \ud800") == first
    assert first.read_text().startswith("second")
    assert sorted(path.name for path in folder.iterdir()) == sorted(["kept.txt", first.name])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_the_page_fits_a_phone_and_can_be_used_by_keyboard(scheme: Any) -> None:
    found = returned(
        page_of(everything(), runner=worker()),
        """
        const links = [...document.querySelectorAll("svg a")];
        links[0].focus();
        const focused = document.activeElement === links[0];
        const picture = document.querySelector(".picture");
        const colour = (selector, name) =>
            getComputedStyle(document.querySelector(selector))[name];
        location.hash = links[0].getAttribute("href");
        const bar = document.querySelector(".bar.run").getBoundingClientRect();
        return {
            fits: document.documentElement.scrollWidth <= innerWidth,
            scrolls: picture.scrollWidth > picture.clientWidth,
            focused,
            target: document.querySelector(":target").id,
            hidden: links.filter((link) => link.getBoundingClientRect().width === 0).length,
            bar: bar.width > 0 && bar.height > 0,
            dashed: colour(".arrow.later", "strokeDasharray") !== "none",
            bad: colour("svg .bad .bar", "fill"),
            page: colour("body", "backgroundColor"),
        };
        """,
        width=360,
        scheme=scheme,
    )
    bad, background = {
        "light": ("rgb(179, 38, 30)", "rgb(246, 247, 244)"),
        "dark": ("rgb(255, 155, 143)", "rgb(18, 21, 19)"),
    }[scheme]
    assert found == {
        "fits": True, "scrolls": True, "focused": True, "target": "s0", "hidden": 0, "bar": True,
        "dashed": True, "bad": bad, "page": background,
    }  # fmt: skip


def test_in_a_browser_a_page_of_two_thousand_messages_is_whole() -> None:
    sent = [message("shop.add", number) for number in range(2000)]
    text = page_of([event for each in sent for event in sent_and_run(each)])
    # How long it takes to open is a row of the benchmark.
    found = returned(
        text,
        """
        const missing = [...document.querySelectorAll("svg a")].filter(
            (link) => !document.querySelector(link.getAttribute("href")));
        return [document.querySelectorAll(".row").length > 4000, missing.length];
        """,
    )
    assert found == [True, 0]

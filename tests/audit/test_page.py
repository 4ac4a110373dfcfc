"""The audit's report as a page: what stands in it, and what it does in a browser."""

from __future__ import annotations

import re
import socket
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_djcelery.audit.findings import KINDS, Finding, Place
from pytest_djcelery.audit.page import page
from pytest_djcelery.audit.report import Verdict, write_file
from tests.audit.browser import returned

if TYPE_CHECKING:
    from tests.support.project import Run

HOSTILE = """</script></style><script>alert("1")</script><img src='http://127.0.0.1:9/x'>&lt;"""
_VOID = ("meta", "input", "wbr")


def finding(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "hooks-never-ran",
        "path": "shop/views.py",
        "line": 12,
        "function": "buy",
        "code": "transaction.on_commit(notify)",
        "subject": "shop.tasks.notify",
        "sure": False,
        "facts": {"what": ["a function"]},
        "count": 1,
        "tests": 1,
        "examples": ["tests/test_shop.py::test_buy"],
        "known": False,
        **changes,
    }


def report(
    *findings: dict[str, Any], tests: int = 14, troubles: tuple[str, ...] = ()
) -> dict[str, Any]:
    return {
        "version": 1,
        "tests": tests,
        "gone": 0,
        "troubles": list(troubles),
        "kinds": [
            {"name": kind.name, "title": kind.title, "why": kind.why, "remedy": kind.remedy}
            for kind in KINDS
        ],
        "findings": list(findings),
    }


class Read(HTMLParser):
    """What stands in a page, as one reads it without styles and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[str] = []
        self.text = ""
        self.title = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "tr" and "tbody" in self._open:
            self.rows.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.text += data
        if "title" in self._open:
            self.title += data
        if "tbody" in self._open and self.rows:
            self.rows[-1] += data


def test_a_row_shows_all_that_is_known_of_a_finding() -> None:
    it = finding(
        kind="published-in-transaction",
        sure=True,
        facts={"opened by": ["`with atomic()` at shop/views.py:9"], "database": ["default", "two"]},
        count=2600,
        tests=1312,
        examples=["tests/a.py::one", "tests/b.py::two", "tests/c.py::three"],
    )

    [row] = Read(page(report(it))).rows

    for text in (
        "published inside an open transaction sure", "shop/views.py:12 in buy",
        "transaction.on_commit(notify)", "shop.tasks.notify", "opened bywith atomic() at shop",
        "databasedefaulttwo", "tests/a.py::one", "tests/c.py::three", "and 1,309 more",
        "1,312", "2,600",
    ):  # fmt: skip
        assert text in row


def test_the_head_counts_what_was_watched_and_found() -> None:
    read = Read(page(report(finding(sure=True), finding(line=13), finding(known=True))))

    assert read.title == "Celery audit: 3 findings in 14 tests"
    for figure in ("tests watched14", "findings2", "of them sure1", "known before1"):
        assert figure in read.text


def test_each_kind_that_was_found_says_why_it_matters_and_what_answers_it() -> None:
    found, *absent = KINDS
    read = Read(page(report(*(finding(kind=found.name, line=line) for line in (1, 2)))))

    assert f"{found.title}2 places · {found.name}" in read.text
    assert found.why in read.text
    assert found.remedy in read.text
    assert f"not found: {'; '.join(kind.title for kind in absent)}." in read.text
    assert not any(kind.why in read.text for kind in absent)


def test_rows_stand_in_the_order_of_the_report() -> None:
    lines = (30, 4, 111)
    rows = Read(page(report(*(finding(line=line) for line in lines)))).rows

    assert [row[:1] for row in rows] == ["1", "2", "3"]
    assert [f"views.py:{line} in" in row for line, row in zip(lines, rows, strict=True)] == [
        True, True, True,
    ]  # fmt: skip


def test_what_was_known_before_is_marked_in_words() -> None:
    new, known = Read(page(report(finding(), finding(line=13, known=True)))).rows

    assert "known before" in known
    assert "known before" not in new


def test_marks_that_nothing_has_are_not_explained() -> None:
    assert "Begin with these" not in page(report(finding()))
    assert "in the baseline, and listed last" not in page(report(finding()))
    assert "Begin with these" in page(report(finding(sure=True)))
    assert "in the baseline, and listed last" in page(report(finding(known=True)))


RUN = {
    "date": "2026-11-30T12:00:00+00:00",
    "commit": "0123abc-dirty",
    "command": "pytest --djcelery-audit",
    "versions": {"Python": "3.13.0", "celery": "5.7.0"},
    "root": "/home/ada/shop & co",
}


def test_the_head_says_when_and_of_what_the_report_was_made() -> None:
    text = Read(page({**report(finding()), "run": RUN})).text

    assert "date2026-11-30T12:00:00+00:00commit0123abc-dirtycommandpytest --djcelery-audit" in text
    assert "versionsPython 3.13.0, celery 5.7.0" in text


def test_findings_come_before_explanations() -> None:
    text = Read(page(report(finding()))).text

    assert text.index("The findings, worst first") < text.index("What was found, and what answers")


def test_known_before_is_only_counted_with_a_baseline() -> None:
    assert "known before0" not in Read(page(report(finding()))).text
    assert "known before0" in Read(page({**report(finding()), "compared": True})).text


def test_a_row_has_its_fix_and_links_for_an_editor() -> None:
    html = page({**report(finding(fix="celery_inline.run(1 < 2)")), "run": RUN})

    assert '<div class="fix"><pre><code>celery_inline.run(1 &lt; 2)</code></pre></div>' in html
    assert 'href="vscode://file/home/ada/shop%20%26%20co/shop/views.py:12"' in html
    assert 'href="pycharm://open?file=/home/ada/shop%20%26%20co/shop/views.py&amp;line=12"' in html


def test_ids_break_between_words() -> None:
    html = page(report(finding(examples=["tests/t.py::test_the_mail"])))

    assert "tests/<wbr>t.<wbr>py::<wbr>test_<wbr>the_<wbr>mail" in html


def test_a_finding_without_a_line_of_the_project_says_so() -> None:
    [row] = Read(page(report(finding(path="", line=0, function="", code="")))).rows

    assert "no line of the project" in row


def test_a_clean_report_is_one_friendly_line() -> None:
    read = Read(page(report()))

    assert "14 tests watched, and nothing found: well done." in read.text
    assert read.title == "Celery audit: 0 findings in 14 tests"
    assert "table" not in read.tags


def test_an_audit_that_failed_itself_says_so() -> None:
    text = Read(page(report(troubles=("KeyError: '<b>' at x.py:1 in f",)))).text

    assert "The audit itself failed, and may have missed something: KeyError: '<b>'" in text


def test_a_run_without_tests_is_not_praised() -> None:
    text = Read(page(report(tests=0))).text

    assert "No test was watched, so there is nothing to report." in text
    assert "well done" not in text


def test_what_the_project_brings_is_text_and_no_markup() -> None:
    hostile = finding(
        path=HOSTILE, function=HOSTILE, code=HOSTILE, subject=HOSTILE, examples=[HOSTILE],
        facts={HOSTILE: [HOSTILE]},
    )  # fmt: skip
    read = Read(page(report(hostile)))

    assert read.rows[0].count(HOSTILE) == 7
    assert read.tags.count("script") == 1
    assert "img" not in read.tags


# Carriage returns and NUL are not in lines of code, and are others to every reader of HTML.
texts = st.text(st.characters(exclude_characters="`\r\0", exclude_categories=["Cs"]), min_size=1)


@settings(deadline=None)
@given(path=texts, code=texts, fact=texts, test=texts)
def test_whatever_a_text_holds_it_can_be_read(path: str, code: str, fact: str, test: str) -> None:
    it = finding(path=path, code=code, facts={"fault": [fact]}, examples=[test])

    [row] = Read(page(report(it))).rows

    assert f"{path}:12 in buy{code}" in row
    assert f"fault{fact}" in row
    assert row.endswith(f"test{test}11\n")


def test_the_page_names_nothing_outside_itself() -> None:
    html = page(report(finding()))

    assert re.findall(r"https?:|url\(|@import|\bsrc=|\bhref=\"[^#]", html) == []
    assert not {"img", "link", "iframe", "base", "object"} & set(Read(html).tags)


def test_a_name_that_is_not_valid_text_is_escaped(tmp_path: Any) -> None:
    place = Place(
        kind="hooks-never-ran", path="caf\udce9.py", line=1, function="f", code="", subject="s"
    )
    it = Finding(place=place, count=1, tests=1, examples=("t",), facts={}, sure=False)
    verdict = Verdict(tests=1, new=[it], known=[], gone=0, failing=[], troubles=[])

    write_file(str(tmp_path / "out.html"), verdict)

    assert "caf\\udce9.<wbr>py:1" in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_a_report_whose_name_ends_in_html_is_the_page(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        """
        import pytest
        from django.db import transaction

        @pytest.mark.django_db
        def test_it():
            transaction.on_commit(print)
        """,
        "--djcelery-audit",
        "--djcelery-audit-report=out/page.HTML",
    )

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["celery audit: written to out/page.HTML"])
    html = (pytester.path / "out/page.HTML").read_text(encoding="utf-8")
    [row] = Read(html).rows
    assert html.startswith("<!DOCTYPE html>")
    assert "test_it.py:7 in test_it" in row


# What follows needs Chromium, and skips where it is not installed.

MANY = report(
    finding(path="b.py", line=7, tests=2, count=1000, known=False),
    finding(path="b.py", line=60, tests=10, count=9, sure=True),
    finding(path="A.py", line=100, tests=2, count=30, kind="mocked-publishes"),
    finding(path="c.py", line=1, tests=1, count=30, known=True, examples=["t.py::test_Known"]),
)
#: The places of the rows that can be seen, and the header that the table is sorted by.
SEEN = """
    const seen = () => [...document.querySelectorAll("tbody tr")]
        .filter((row) => row.getClientRects().length)
        .map((row) => row.querySelector(".place").textContent);
    const header = (name) => [...document.querySelectorAll("thead th")]
        .find((header) => header.textContent === name);
    const sorted = () => [...document.querySelectorAll("thead [aria-sort]")]
        .map((header) => `${header.textContent} ${header.getAttribute("aria-sort")}`);
"""


def test_a_click_on_a_header_sorts_by_number_or_by_text_and_keeps_what_is_equal() -> None:
    clicks = ["", "Tests", "Tests", "Times", "Where", "Where", "Finding", "Rank"]

    shown = returned(
        page(MANY),
        f"""{SEEN}
        return {clicks}.map((name) => {{
            header(name)?.querySelector("button").click();
            return [...sorted(), ...seen()];
        }});""",
    )

    assert shown == [
        ["Rank ascending", "b.py:7", "b.py:60", "A.py:100", "c.py:1"],
        ["Tests descending", "b.py:60", "b.py:7", "A.py:100", "c.py:1"],
        ["Tests ascending", "c.py:1", "b.py:7", "A.py:100", "b.py:60"],
        ["Times descending", "b.py:7", "c.py:1", "A.py:100", "b.py:60"],
        ["Where ascending", "A.py:100", "b.py:7", "b.py:60", "c.py:1"],
        ["Where descending", "c.py:1", "b.py:60", "b.py:7", "A.py:100"],
        ["Finding ascending", "A.py:100", "c.py:1", "b.py:60", "b.py:7"],
        ["Rank ascending", "b.py:7", "b.py:60", "A.py:100", "c.py:1"],
    ]


def test_the_keyboard_reaches_every_header() -> None:
    reached = returned(
        page(MANY),
        """return [...document.querySelectorAll("thead th")].map((header) => {
            const button = header.querySelector("button");
            button.focus();
            return document.activeElement === button && button.tabIndex === 0;
        });""",
    )

    assert reached == [True] * 6


def test_rows_are_filtered_by_kind_by_text_and_by_what_was_known() -> None:
    shown = returned(
        page(MANY),
        f"""{SEEN}
        const set = (id, name, value) => {{
            const field = document.getElementById(id);
            field[name] = value;
            field.dispatchEvent(new Event(id === "text" ? "input" : "change"));
            return [document.getElementById("shown").textContent, ...seen()];
        }};
        const press = () => {{
            const button = document.querySelector("button[data-kind='mocked-publishes']");
            button.click();
            return [button.getAttribute("aria-pressed"), ...seen()];
        }};
        return [
            set("text", "value", "  B.PY buy"),
            set("text", "value", "test_known"),
            set("text", "value", "no such thing"),
            set("text", "value", ""),
            set("known", "checked", false),
            set("kind", "value", "hooks-never-ran"),
            press(),
            press(),
        ];""",
    )

    assert shown == [
        ["2 of 4 shown", "b.py:7", "b.py:60"],
        ["1 of 4 shown", "c.py:1"],
        ["0 of 4 shown"],
        ["4 of 4 shown", "b.py:7", "b.py:60", "A.py:100", "c.py:1"],
        ["3 of 4 shown", "b.py:7", "b.py:60", "A.py:100"],
        ["2 of 4 shown", "b.py:7", "b.py:60"],
        ["true", "A.py:100"],
        ["false", "b.py:7", "b.py:60", "A.py:100"],
    ]


LONG = "a_name_without_any_place_to_break_it" * 6
WIDE = report(
    finding(kind="published-in-transaction", sure=True, count=10**7, tests=10**6),
    finding(path=LONG, function=LONG, code=LONG, subject=LONG, examples=[LONG], known=True),
    finding(facts={LONG: [LONG, f"`{LONG}`"]}, kind="outside-reached"),
)
#: What stands out of the window, and text whose contrast is less than WCAG's 4.5 to 1.
READABLE = """
    const wrong = [];
    for (const row of document.querySelectorAll("tr")) row.style.contentVisibility = "visible";
    if (document.documentElement.scrollWidth > innerWidth) wrong.push("the page scrolls sideways");
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = parts(colour).map((each) => each / 255)
            .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const behind = (element) => {
        const colour = getComputedStyle(element).backgroundColor;
        return parts(colour)[3] === 0 ? behind(element.parentElement) : colour;
    };
    let read = 0;
    for (const element of document.body.querySelectorAll("*:not(script, option)")) {
        const { left, right, width } = element.getBoundingClientRect();
        if (!width) continue;
        if (left < 0 || right > innerWidth) wrong.push(`too wide: ${element.outerHTML}`);
        if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
            continue;
        read += 1;
        const [one, other] = [getComputedStyle(element).color, behind(element)].map(light);
        const contrast = Math.max(one, other) / Math.min(one, other);
        if (contrast < 4.5) wrong.push(`contrast ${contrast}: ${element.outerHTML}`);
    }
    const shown = (query) => document.querySelector(query).getClientRects().length > 0;
    const card = document.querySelector("tbody tr").getBoundingClientRect();
    const place = document.querySelector("tbody .where").getBoundingClientRect();
    return {
        wrong,
        dark: matchMedia("(prefers-color-scheme: dark)").matches,
        width: innerWidth,
        read: read > 60,
        filters: shown(".filters"),
        headers: shown("thead button"),
        cards: place.width > card.width * 0.8,
    };
"""


@pytest.mark.parametrize(
    ("width", "scheme", "cards"), [(390, "light", True), (320, "dark", True), (1280, "dark", False)]
)
def test_all_of_it_can_be_read_on_a_phone_and_in_the_dark(
    *, width: int, scheme: Literal["light", "dark"], cards: bool
) -> None:
    assert returned(page(WIDE), READABLE, width=width, scheme=scheme) == {
        "wrong": [],
        "dark": scheme == "dark",
        "width": width,
        "read": True,
        "filters": True,
        "headers": True,
        "cards": cards,
    }


def test_nothing_reaches_the_network_even_if_it_tries() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)  # noqa: FBT003 - positional only
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        hostile = f"<img src='{url}'><script src='{url}'></script>"
        seen = returned(
            page(report(finding(code=hostile, subject=url, facts={"what": [hostile]}))),
            f"""
            const before = performance.getEntriesByType("resource").length;
            const refused = (name) => new Promise((resolve) => {{
                addEventListener("securitypolicyviolation", (event) => {{
                    if (event.effectiveDirective === name) resolve(event.blockedURI);
                }});
            }});
            const both = Promise.all([refused("img-src"), refused("connect-src")]);
            document.body.append(Object.assign(new Image(), {{ src: "{url}" }}));
            const fetched = await fetch("{url}").catch(() => "refused");
            return {{ before, fetched, refused: await both }};
            """,
        )

        assert seen == {"before": 0, "fetched": "refused", "refused": [url, url]}
        with pytest.raises(BlockingIOError):
            server.accept()

"""The report as one self-contained HTML page, which loads nothing from the network.

All of it can be read without JavaScript: the script only sorts and filters the rows.
Whatever comes from the project under test (paths, lines of code, URLs, texts of errors) is
escaped, and none of it is in the script.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from pathlib import PurePath
from string import Template
from typing import Any
from urllib.parse import quote

from pytest_djcelery.audit.findings import SURE

#: `code` in the texts of facts, and names in the texts of kinds, which have no backticks.
_MARKED = re.compile(r"`([^`]+)`")
_NAME = re.compile(r"--\w[\w-]*|(?:assert )?\b\w+_\w+(?:\.\w+\(\))?(?: ==? (?:\[.*?\](?!\w)|\w+))?")


#: What ends a word in a path, an id or a dotted name; not within what `escape` has written.
_SEPARATOR = re.compile(r"[/.]|::|_(?=[^\W_])")


def page(report: dict[str, Any]) -> str:
    """Return the page.

    Args:
        report: The report, as `report.as_json` returns it.
    """
    style, script = _part("page.css"), _part("page.js")
    return Template(_part("page.html")).substitute(
        title=escape(_headline(report)),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        figures=_figures(report) if report["findings"] else "",
        run=_run(report.get("run") or {}),
        troubles="\n".join(map(_trouble, report["troubles"])),
        main=_findings(report) if report["findings"] else _clean(report),
    )


def _part(name: str) -> str:
    return files(__package__).joinpath(f"page_parts/{name}").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The hash by which a Content-Security-Policy allows a style or a script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _headline(report: dict[str, Any]) -> str:
    return f"{counted(len(report['findings']), 'finding')} in {counted(report['tests'], 'test')}"


def _figures(report: dict[str, Any]) -> str:
    new = [finding for finding in report["findings"] if not finding["known"]]
    figures = {
        "tests watched": report["tests"],
        "findings": len(new),
        "of them sure": sum(finding["sure"] for finding in new),
    }
    if report.get("compared") or len(new) < len(report["findings"]):
        figures["known before"] = len(report["findings"]) - len(new)
    listed = "\n".join(
        f"<div><dt>{name}</dt><dd>{count:,}</dd></div>" for name, count in figures.items()
    )
    return (
        f'<dl class="figures">\n{listed}\n</dl>\n'
        '<p class="jump"><a href="#findings">To the findings</a></p>'
    )


def _run(run: Mapping[str, Any]) -> str:
    """When, and of what, the report was made."""
    versions = ", ".join(f"{name} {number}" for name, number in run.get("versions", {}).items())
    facts = {
        "date": run.get("date"),
        "commit": run.get("commit"),
        "command": run.get("command"),
        "versions": versions,
    }
    listed = "".join(
        f"<div><dt>{name}</dt><dd>{_breakable(value)}</dd></div>"
        for name, value in facts.items()
        if value
    )
    return f'<dl class="run">{listed}</dl>' if listed else ""


def _trouble(text: str) -> str:
    return (
        '<p class="trouble">The audit itself failed, and may have missed something: '
        f"<code>{_breakable(text)}</code></p>"
    )


def _clean(report: dict[str, Any]) -> str:
    line = "No test was watched, so there is nothing to report."
    if report["tests"]:
        line = f"{counted(report['tests'], 'test')} watched, and nothing found: well done."
    return f'<p class="clean">{line}</p>\n{_absent(report["kinds"])}'


def _absent(kinds: list[dict[str, str]]) -> str:
    """Name the kinds of which nothing was found, to show what was looked for."""
    if not kinds:
        return ""
    titles = "; ".join(escape(kind["title"]) for kind in kinds)
    return f'<p class="absent">Looked for, and not found: {titles}.</p>'


def _findings(report: dict[str, Any]) -> str:
    findings = report["findings"]
    places = Counter(finding["kind"] for finding in findings)
    sure = Counter(finding["kind"] for finding in findings if finding["sure"])
    known = Counter(finding["kind"] for finding in findings if finding["known"])
    found = [kind for kind in report["kinds"] if places[kind["name"]]]
    titles = {kind["name"]: escape(kind["title"]) for kind in found}
    return Template(_part("findings.html")).substitute(
        kinds="\n".join(
            _kind(kind, *(counts[kind["name"]] for counts in (places, sure, known)))
            for kind in found
        ),
        absent=_absent([kind for kind in report["kinds"] if not places[kind["name"]]]),
        legend=_legend(sure=bool(sure), known=bool(known)),
        options="".join(
            f'<option value="{escape(name)}">{title} ({places[name]:,})</option>'
            for name, title in titles.items()
        ),
        known_hidden="" if known else "hidden",
        rows="\n".join(
            _row(rank, finding, titles, (report.get("run") or {}).get("root"))
            for rank, finding in enumerate(findings, 1)
        ),
    )


def _kind(kind: dict[str, str], places: int, sure: int, known: int) -> str:
    counts = counted(places, "place")
    counts += f", {sure:,} sure" if sure else ""
    counts += f", {known:,} known before" if known else ""
    return (
        f"<li><h3>{escape(kind['title'])}</h3>"
        f'<p class="counts">{counts} · <code>{escape(kind["name"])}</code></p>'
        f"<p>{escape(kind['why'])}</p>"
        f'<p class="remedy">{_NAME.sub(_as_code, escape(kind["remedy"]))}</p>'
        f'<button type="button" data-kind="{escape(kind["name"])}" hidden>Show only these</button>'
        "</li>"
    )


_SURE = '<strong class="mark sure">sure</strong>'
_KNOWN = '<span class="mark">known before</span>'


def _legend(*, sure: bool, known: bool) -> str:
    """Explain the marks that are on the page."""
    texts = []
    if sure:
        texts.append(f"{_SURE}: {SURE}. Begin with these.")
    if known:
        texts.append(f"{_KNOWN}: in the baseline, and listed last.")
    return f'<p class="legend">{" ".join(texts)}</p>' if texts else ""


def _row(rank: int, finding: dict[str, Any], titles: dict[str, str], root: str | None) -> str:
    marks = (f" {_SURE}" if finding["sure"] else "") + (f" {_KNOWN}" if finding["known"] else "")
    known = ' class="known"' if finding["known"] else ""
    return (
        f'<tr role="row"{known} data-kind="{escape(finding["kind"])}">'
        f'<td role="cell" class="rank"><data value="{rank}">{rank:,}</data></td>'
        f'<td role="cell" class="kind"><span>{titles[finding["kind"]]}</span>{marks}</td>'
        f'<th role="rowheader" scope="row" class="where">{_where(finding, root)}</th>'
        f'<td role="cell" class="what">{_what(finding)}</td>'
        f"{_count('tests', finding['tests'])}{_count('times', finding['count'])}</tr>"
    )


def _count(name: str, count: int) -> str:
    return f'<td role="cell" class="number {name}"><data value="{count}">{count:,}</data></td>'


def _where(finding: dict[str, Any], root: str | None) -> str:
    if not finding["path"]:
        return f'<span class="place">no line of the project</span>{_fix(finding)}'
    place = _breakable(f"{finding['path']}:{finding['line']}")
    code = f"<pre><code>{escape(finding['code'])}</code></pre>" if finding["code"] else ""
    function = escape(finding["function"])
    links = _links(finding, root) if root else ""
    return (
        f'<span class="place">{place}</span> <span class="in">in {function}</span>{links}{code}'
        f"{_fix(finding)}"
    )


def _links(finding: dict[str, Any], root: str) -> str:
    """Links that open the line in an editor, on the machine where the report was made."""
    if finding["path"].startswith("site-packages/"):
        return ""
    path, line = str(PurePath(root, finding["path"])), finding["line"]
    # A name that is not valid text can't be named in a link either.
    quoted = quote(path.replace("\\", "/").lstrip("/"), errors="replace")
    return (
        f' <span class="open">open in <a href="vscode://file/{quoted}:{line}">VS Code</a>, '
        f'<a href="pycharm://open?file=/{quoted}&amp;line={line}">PyCharm</a></span>'
    )


def _fix(finding: dict[str, Any]) -> str:
    text = finding.get("fix")
    return f'<div class="fix"><pre><code>{escape(text)}</code></pre></div>' if text else ""


def _what(finding: dict[str, Any]) -> str:
    facts = [_fact(name, map(_text, values)) for name, values in finding["facts"].items()]
    tests = [_breakable(test) for test in finding["examples"]]
    if more := finding["tests"] - len(tests):
        tests.append(f"and {more:,} more")
    facts.append(_fact("test" if finding["tests"] == 1 else "tests", tests))
    subject = _breakable(finding["subject"])
    return f'<code class="subject">{subject}</code><dl class="facts">{"".join(facts)}</dl>'


def _fact(name: str, values: Iterable[str]) -> str:
    texts = "".join(f"<dd>{value}</dd>" for value in values)
    return f"<div><dt>{escape(name)}</dt>{texts}</div>"


def _text(fact: str) -> str:
    return _MARKED.sub(_as_code, _breakable(fact))


def _as_code(match: re.Match[str]) -> str:
    return f"<code>{match[match.lastindex or 0]}</code>"


def _breakable(text: str) -> str:
    """Escape a path or a name, and allow a line break between its words."""
    return _SEPARATOR.sub(r"\g<0><wbr>", escape(text))


def counted(count: int, noun: str) -> str:
    """A number with the noun that it counts."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

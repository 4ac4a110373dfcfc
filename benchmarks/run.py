"""Measure pytest-djcelery and its alternatives, and print one Markdown table.

    python benchmarks/run.py [--quick] [--only GROUP ...] [--write]

Install the ``dev`` group first: pytest-celery is measured, too.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path

import figures
import pace
from runs import RunFailedError
from table import Row, duration, markdown

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
#: What a reader of the README asks first; the page of the docs has all rows.
SHOWN_FIRST = (
    "one-task test, worker started and stopped in it",
    "`delay()` to `get()` through the embedded worker",
    "one-task test through `celery_inline`, set-up and teardown included",
    "start-up added to a pytest run that uses no fixture: Django project",
    "contract behaviours in which inline equals the live prefork worker",
)
MARKED = re.compile(r"(<!-- benchmark -->\n).*?(<!-- /benchmark -->)", re.DOTALL)


def main() -> None:
    """Measure the groups asked for, one after another."""
    options = _options()
    repeats = figures.QUICK if options.quick else figures.FULL
    rows: list[Row] = []
    failed = []
    for name in options.only or figures.GROUPS:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        pace.eager.cache_clear()
        try:
            rows += figures.GROUPS[name](repeats)
        except RunFailedError as error:
            failed.append(name)
            print(f"{name}: {error}", file=sys.stderr)
    text = f"{markdown(rows)}\n\n{machine()} {pace_here()}\n"
    print(text, end="")
    if failed:
        sys.exit(f"not measured, since a test failed: {', '.join(failed)}")
    if options.write:
        write(PAGE, text)
        write(README, f"{shown_first(text)}\n")


def machine() -> str:
    """What it was measured on."""
    packages = ("Django", "celery", "kombu", "pytest", "pytest-django", "pytest-celery")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{os.cpu_count()} CPUs ({platform.machine()}), {platform.system()}, "
        f"Python {platform.python_version()}, {versions}."
    )


def pace_here() -> str:
    """How fast that is."""
    return (
        f"A task takes Celery's eager mode {duration(pace.eager())} of the processor; where the "
        f"limits were set it takes {duration(pace.EAGER)}: this machine's pace is "
        f"{pace.slower():.2f} times slower."
    )


def shown_first(table: str) -> str:
    """The rows that the README shows, of the table of all."""
    head, line, *rows = (row.strip("|").split("|") for row in table.splitlines() if "|" in row)
    found = {row[0].strip(): row for row in rows}
    if missing := [name for name in SHOWN_FIRST if name not in found]:
        sys.exit(f"the README shows rows that the table does not have: {missing}")
    chosen = [head, line, *(found[name] for name in SHOWN_FIRST)]
    return "\n".join(f"|{'|'.join(row[:4])}|" for row in chosen)


def write(page: Path, text: str) -> None:
    """Put a table between the marks of a page."""
    written, found = MARKED.subn(
        lambda marks: f"{marks[1]}{text}{marks[2]}", page.read_text(encoding="utf-8")
    )
    if found != 1:
        sys.exit(f"{page}: expected <!-- benchmark --> and <!-- /benchmark --> once, around it.")
    page.write_text(written, encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: a rough picture")
    parser.add_argument(
        "--only", action="append", choices=figures.GROUPS, metavar="GROUP",
        help=f"measure only this group (repeatable): {', '.join(figures.GROUPS)}",
    )  # fmt: skip
    parser.add_argument(
        "--write",
        action="store_true",
        help="replace the table of the docs, and its rows in README.md",
    )
    options = parser.parse_args()
    if options.write and (options.quick or options.only):
        parser.error("--write takes a full run: leave --quick and --only out")
    return options


if __name__ == "__main__":
    main()

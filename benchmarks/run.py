"""Measure pytest-djcelery and its alternatives, and print one Markdown table.

    python benchmarks/run.py [--quick] [--only GROUP ...] [--write-readme]

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
from runs import RunFailedError
from table import Row, markdown

README = Path(__file__).parent.parent / "README.md"
MARKED = re.compile(r"(<!-- benchmark -->\n).*?(<!-- /benchmark -->)", re.DOTALL)


def main() -> None:
    """Measure the groups asked for, one after another."""
    options = _options()
    repeats = figures.QUICK if options.quick else figures.FULL
    rows: list[Row] = []
    failed = []
    for name in options.only or figures.GROUPS:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        try:
            rows += figures.GROUPS[name](repeats)
        except RunFailedError as error:
            failed.append(name)
            print(f"{name}: {error}", file=sys.stderr)
    text = f"{markdown(rows)}\n\n{machine()}\n"
    print(text, end="")
    if failed:
        sys.exit(f"not measured, since a test failed: {', '.join(failed)}")
    if options.write_readme:
        write_readme(text)


def machine() -> str:
    """What it was measured on."""
    packages = ("Django", "celery", "kombu", "pytest", "pytest-django", "pytest-celery")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{os.cpu_count()} CPUs ({platform.machine()}), {platform.system()}, "
        f"Python {platform.python_version()}, {versions}."
    )


def write_readme(text: str) -> None:
    """Put the table between the marks in the README."""
    readme = README.read_text(encoding="utf-8")
    written, found = MARKED.subn(lambda marks: f"{marks[1]}{text}{marks[2]}", readme)
    if found != 1:
        sys.exit(f"{README}: expected <!-- benchmark --> and <!-- /benchmark --> once, around it.")
    README.write_text(written, encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: a rough picture")
    parser.add_argument(
        "--only", action="append", choices=figures.GROUPS, metavar="GROUP",
        help=f"measure only this group (repeatable): {', '.join(figures.GROUPS)}",
    )  # fmt: skip
    parser.add_argument(
        "--write-readme", action="store_true", help="replace the table in README.md, too"
    )
    options = parser.parse_args()
    if options.write_readme and (options.quick or options.only):
        parser.error("--write-readme takes a full run: leave --quick and --only out")
    return options


if __name__ == "__main__":
    main()

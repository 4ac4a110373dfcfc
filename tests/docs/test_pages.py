"""The README and the pages in docs/: their examples run, and their links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "example_project"
OPTIONS = {"from-eager-mode": ("-o", "djcelery_mode=inline")}
QUOTED = "# tests_before/"  # what a block begins with that is to be read, and runs in the example
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
WITH_EXAMPLES = [page for page in (README, *PAGES) if "```python" in page.read_text()]


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_pass_in_the_example_project(page: Path, tmp_path: Path) -> None:
    found = re.findall(r"^( *)```python\n(.*?)^\1```", page.read_text(), re.DOTALL | re.MULTILINE)
    blocks = [dedent(block) for _, block in found if not block.startswith(QUOTED)]
    if page == README:
        del blocks[1:]  # what follows the first is in fragments
    module = tmp_path / "test_page.py"
    module.write_text("\n\n".join(blocks))
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "-c", str(EXAMPLE / "pyproject.toml"), *OPTIONS.get(page.stem, ()), str(module),
    ]  # fmt: skip
    run = subprocess.run(
        command,
        cwd=EXAMPLE,
        env={**os.environ, "DATABASE": "sqlite"},  # a server's test database is one for all runs
        capture_output=True,
        text=True,
        check=False,
    )
    tests = sum(block.count("def test_") for block in blocks)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"\n{tests} passed" in run.stdout


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_what_a_page_quotes_stands_in_the_example_project(page: Path) -> None:
    quoted = re.findall(
        rf"^```python\n({QUOTED}\S+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    for name, block in quoted:
        assert block in (EXAMPLE / name.removeprefix("# ")).read_text()


@pytest.mark.parametrize(
    "page",
    [*sorted(ROOT.glob("*.md")), *PAGES, EXAMPLE / "README.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            dead.append(target)
    assert not dead


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}

"""The same six tests of jobs, over this plugin and over what other queues have for tests.

    python benchmarks/queues.py [--only TOOL ...] [--write]

Install the group ``queues`` first. The tests are in ``benchmarks/queue_tools/``, a module for each
tool; what each test checks, and what it doesn't, is said beside it.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree as ET

from run import MARKED
from table import duration

HERE = Path(__file__).parent
TOOLS = HERE / "queue_tools"
PAGE = HERE.parent / "docs" / "reference" / "queues.md"
TITLES = {
    "pytest_djcelery": "pytest-djcelery",
    "celery_eager": "Celery, eager mode",
    "celery_contrib_pytest": "`celery.contrib.pytest`",
    "dramatiq_stub_broker": "dramatiq, `StubBroker`",
    "huey_immediate": "huey, immediate mode",
    "procrastinate_in_memory": "procrastinate, in memory",
    "taskiq_in_memory": "taskiq, in memory",
}
TESTS = {
    "test_publish_seen": "what was sent is seen",
    "test_run_one": "one job is run",
    "test_retry_with_an_hour_of_back_off": "three retries, an hour apart",
    "test_chord": "a chord of ten",
    "test_after_commit": "sent after the commit",
    "test_1000_jobs": "1,000 jobs",
}
PACKAGES = ("celery", "dramatiq", "huey", "procrastinate", "taskiq", "Django", "pytest")
_NOT_OURS = ("djcelery", "celery", "docker_tools", "randomly", "asyncio", "anyio", "cacheprovider")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How one test went with one tool."""

    seconds: float | None  # set-up and teardown included; None where it can't be written
    says: str

    @property
    def shown(self) -> str:
        return "no" if self.seconds is None else duration(self.seconds)


def measure(tool: str) -> dict[str, Case]:
    """Run the tests of a tool in a process without other plugins; the second time counts."""
    plugins = [name for name in _NOT_OURS if (tool, name) != ("pytest_djcelery", "djcelery")]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", f"bench_{tool}.py"]
        command += [option for name in plugins for option in ("-p", f"no:{name}")]
        env = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
        for _ in range(2):  # the first compiles what was never imported
            run = subprocess.run(
                command, cwd=TOOLS, env=env, capture_output=True, text=True, check=False
            )
            if run.returncode:
                sys.exit(f"{tool}: a test failed.\n{run.stdout}{run.stderr}")
        return dict(_cases(report))


def _cases(report: Path) -> Iterator[tuple[str, Case]]:
    for case in ET.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if skipped is not None:
            yield case.attrib["name"], Case(seconds=None, says=skipped.attrib["message"])
            continue
        [says] = (each.attrib["value"] for each in case.iter("property"))
        yield case.attrib["name"], Case(seconds=float(case.attrib["time"]), says=says)


def markdown(measured: Mapping[str, Mapping[str, Case]]) -> str:
    """One table of times, and for each test what every tool checks."""
    tools = list(measured)
    lines = [
        f"| | {' | '.join(TITLES[tool] for tool in tools)} |",
        f"|---|{'---|' * len(tools)}",
        *(
            f"| {title} | {' | '.join(measured[tool][test].shown for tool in tools)} |"
            for test, title in TESTS.items()
        ),
        "",
        machine(),
    ]
    for test, title in TESTS.items():
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", "| | checks |", "|---|---|"]
        for tool in tools:
            case = measured[tool][test]
            said = f"can't be written: {case.says}" if case.seconds is None else case.says
            lines.append(f"| {TITLES[tool]} | {said} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """What it was measured on."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{os.cpu_count()} CPUs ({platform.machine()}), {platform.system()}, "
        f"Python {platform.python_version()}, {versions}."
    )


def main() -> None:
    """Measure the tools asked for, one after another."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=TITLES, metavar="TOOL")
    parser.add_argument("--write", action="store_true", help=f"replace the table of {PAGE.name}")
    options = parser.parse_args()
    if options.write and options.only:
        parser.error("--write takes a full run: leave --only out")
    measured = {}
    for tool in options.only or TITLES:
        print(f"measuring: {tool}", file=sys.stderr, flush=True)
        measured[tool] = measure(tool)
    text = markdown(measured)
    print(text, end="")
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(MARKED.sub(lambda marks: f"{marks[1]}{text}{marks[2]}", page), "utf-8")


if __name__ == "__main__":
    main()

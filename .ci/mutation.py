"""What mutmut found, as on the page Mutation: a table by module, and each survivor's change.

Run after `mutmut run`, in the same folder. mutmut's own `results` names the survivors alone.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from pathlib import Path

MUTANTS = Path("mutants")
NOTICED = {1: "killed", 3: "killed", -24: "timeout", 24: "timeout", 36: "timeout", 152: "timeout"}
UNNOTICED = {0: "survived", 5: "no tests", 33: "no tests", None: "not run"}


def status(exit_code: int | None) -> str:
    """How mutmut reads the exit code of a run."""
    return {**UNNOTICED, **NOTICED}.get(exit_code, "suspicious")


def change(path: Path, mutant: str) -> str:
    """The line that a mutant changes, before and after."""
    spans = json.loads(Path(f"{path}.spans").read_text())["spans"]
    lines = path.read_text().splitlines()
    name = mutant.rpartition(".")[2]
    function, _, number = name.rpartition("__mutmut_")

    def source(version: str) -> list[str]:
        first, last = spans[f"{function}__mutmut_{version}"]
        text = "\n".join(lines[first - 1 : last]).replace(f"{function}__mutmut_{version}", "def")
        return [line.strip() for line in text.splitlines()]

    changed = difflib.unified_diff(source("orig"), source(number), n=0, lineterm="")
    return " ".join(line for line in changed if not re.match(r"---|\+\+\+|@@", line))


def main() -> None:
    """Print the table, then the survivors."""
    total: Counter[str] = Counter()
    survivors: list[str] = []
    print("| module | mutants | killed | timeout | survived | no tests | noticed |")
    print("|---|--:|--:|--:|--:|--:|--:|")

    def row(name: str, counts: Counter[str]) -> None:
        noticed, unnoticed = counts["killed"] + counts["timeout"], sum(counts.values())
        share = f"{100 * noticed / unnoticed:.1f} %" if unnoticed else ""
        kinds = ("killed", "timeout", "survived", "no tests")
        cells = " | ".join(str(counts[kind]) for kind in kinds)
        print(f"| {name} | {sum(counts.values())} | {cells} | {share} |")

    for meta in sorted(MUTANTS.rglob("*.py.meta")):
        codes = json.loads(meta.read_text())["exit_code_by_key"]
        counts = Counter(map(status, codes.values()))
        path = meta.with_suffix("")
        if counts:
            row(f"`{path.relative_to(MUTANTS / 'pytest_djcelery')}`", counts)
        total += counts
        for mutant, code in codes.items():
            if code not in NOTICED:
                survivors.append(f"{status(code)}: {mutant}: {change(path, mutant)}")
    row("all", total)
    print("\n" + "\n".join(survivors))


if __name__ == "__main__":
    main()

"""Checks the tests of the example project, and the README's first, as a typed project has them.

``python -m tests.types_of_examples`` gives each function of a copy the annotations that a user
would write (``celery_outbox: Outbox``), and runs mypy and pyright over it in strict mode, with
celery-types and django-stubs installed. A name that the package doesn't have must be an error.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "example_project"
#: The types of the fixtures; any other argument is ``Any``.
FIXTURES = {
    "celery_app": "Celery",
    "celery_session_app": "Celery",
    "celery_eager": "Celery",
    "celery_outbox": "Outbox",
    "celery_on_commit": "OnCommit",
    "celery_inline": "Inline",
    "celery_worker": "Worker",
    "celery_live_worker": "LiveWorker",
    "celery_results": "Results",
    "celery_beat": "Beat",
    "celery_faults": "Faults",
}
PREFACE = f"""
from typing import Any
from celery import Celery
from pytest_djcelery import {", ".join(sorted({*FIXTURES.values()} - {"Celery"}))}
"""
MYPY = """
[mypy]
strict = true
warn_unused_ignores = false
disallow_untyped_calls = false
disallow_untyped_decorators = false
[mypy-demoapp.*,proj.*,tests.*,factory.*,django_celery_beat.*,django_celery_results.*]
follow_imports = skip
ignore_missing_imports = true
"""
#: What the project's own functions, which are not annotated, make unknown is no affair of ours.
PYRIGHT = {
    "typeCheckingMode": "strict",
    **dict.fromkeys(
        (
            "reportMissingImports", "reportMissingModuleSource", "reportMissingTypeStubs",
            "reportUnknownArgumentType", "reportUnknownLambdaType", "reportUnknownMemberType",
            "reportUnknownParameterType", "reportUnknownVariableType", "reportUnusedClass",
            "reportUnusedExpression", "reportUnusedFunction", "reportUnusedImport",
            "reportUntypedFunctionDecorator", "reportUnusedVariable",
        ),
        "none",
    ),
}  # fmt: skip
MISSPELT = "from pytest_djcelery import Sucess\nimport pytest_djcelery\npytest_djcelery.outbx()\n"


class _Annotated(ast.NodeTransformer):
    """Writes the annotations that are missing."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        self.generic_visit(node)
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in every:
            if argument.annotation is None and argument.arg not in ("self", "cls"):
                argument.annotation = ast.Name(FIXTURES.get(argument.arg, "Any"))
        for rest in filter(None, (node.args.vararg, node.args.kwarg)):
            rest.annotation = ast.Name("Any")
        inner = [part for part in ast.walk(node) if isinstance(part, ast.Return | ast.Yield)]
        gives = any(part.value is not None or isinstance(part, ast.Yield) for part in inner)
        node.returns = ast.Name("Any") if gives else ast.Constant(None)
        return node

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]  # noqa: N815 - the same fields


def typed(source: str) -> str:
    """A module as its author would have annotated it."""
    tree = _Annotated().visit(ast.parse(source))
    return PREFACE + ast.unparse(ast.fix_missing_locations(tree))


def sources() -> dict[str, str]:
    """The modules to check, by their names."""
    found = {path.name: path.read_text() for path in sorted(EXAMPLE.glob("tests/test_*.py"))}
    more = """
def test_more(celery_inline, celery_results, celery_outbox):
    assert celery_inline.step().state == "RETRY"
    assert celery_results["an id"].retries == 2
    assert celery_outbox[0].location.line == 3
    assert celery_results.now("an id") == Progress({"done": 3})
    found: Outcome = celery_results["an id"]
"""
    names = "from pytest_djcelery import NotOneMessageError, Outcome, Outcomes, Progress"
    [first, *_] = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return {**found, "test_readme.py": first, "test_more.py": names + more}


def checked(checker: str, folder: Path) -> list[str]:
    """The errors that a checker finds in a folder."""
    if checker == "mypy":
        (folder / "mypy.ini").write_text(MYPY)
        command = ["mypy", "--config-file", "mypy.ini", "--no-error-summary", "."]
    else:
        (folder / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
        command = ["pyright", "--pythonpath", sys.executable, "."]
    run = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line.strip() for line in run.stdout.splitlines() if re.search(r":\d+.* error: ", line)]
    if run.returncode and not found:
        message = f"{checker} failed:\n{run.stdout}{run.stderr}"
        raise RuntimeError(message)
    return found


def main() -> int:
    """Check, and print each error."""
    failed = False
    with tempfile.TemporaryDirectory() as name:
        examples, misspelt = Path(name, "examples"), Path(name, "misspelt")
        for folder, modules in (
            (examples, {name: typed(text) for name, text in sources().items()}),
            (misspelt, {"misspelt.py": MISSPELT}),
        ):
            folder.mkdir()
            for module, text in modules.items():
                (folder / module).write_text(text)
        for checker in ("mypy", "pyright"):
            found = checked(checker, examples)
            accepted = [
                word for word in ("Sucess", "outbx") if word not in str(checked(checker, misspelt))
            ]
            lines = [*found, *(f"{word} is no name of the package" for word in accepted)]
            failed = failed or bool(lines)
            print(f"{checker}: {len(lines)} errors", *lines, sep="\n")  # noqa: T201 - a command
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

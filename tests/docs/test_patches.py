"""Every patch of another package is registered, has one owner, and is on the page of the docs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pytest_djcelery
from pytest_djcelery import patching
from tests.docs import patches_page

PACKAGE = Path(pytest_djcelery.__file__).parent


def test_the_page_lists_what_is_registered() -> None:
    assert patches_page.PAGE.read_text(encoding="utf-8") == patches_page.page(), (
        f"Stale. Run: {patches_page.COMMAND}"
    )


def test_a_second_owner_of_an_attribute_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "PATCHES", {})

    def first() -> None: ...

    def second() -> None: ...

    register = patching.patches("shop.models:Order.save", why="For a test.", checked_on="shop 1")
    assert register(first) is first
    register(first)  # the same one again, as when a module is reloaded

    with pytest.raises(ValueError, match=r"Order\.save is replaced by .*first already"):
        register(second)


def _functions_that_replace() -> dict[tuple[str, str], set[str]]:
    """The names that each function of the package gives to ``replaced()``, as they are written."""
    found: dict[tuple[str, str], set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts))

        def visit(node: ast.AST, function: str, module: str = module) -> None:
            for child in ast.iter_child_nodes(node):
                within = function
                if isinstance(child, ast.ClassDef | ast.FunctionDef):
                    within = f"{function}.{child.name}".lstrip(".")
                if (
                    isinstance(child, ast.Call)
                    and isinstance(child.func, ast.Name)
                    and child.func.id == "replaced"
                ):
                    names = {keyword.arg for keyword in child.keywords if keyword.arg}
                    found.setdefault((module, function), set()).update(names)
                visit(child, within)

        visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def test_whoever_replaces_an_attribute_has_registered_it() -> None:
    registered: dict[tuple[str, str], set[str]] = {}
    for patch in patches_page.registered():
        module, _, function = patch.owner.partition(":")
        names = registered.setdefault((module, function), set())
        names.add(patch.target.partition(":")[2].rpartition(".")[2])

    written = _functions_that_replace()

    assert written
    for place, names in written.items():
        assert names <= registered.get(place, set()), place

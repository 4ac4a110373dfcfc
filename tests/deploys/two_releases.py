"""Two releases of one project, and what becomes of each task's messages from one to the other."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from textwrap import dedent, indent
from typing import Any, Final

import celery
from celery.backends.base import Backend

#: The message does not do on the other release what it was meant to do.
BREAKS: Final = "breaks"
#: Whether an error link that raises is only logged; before, it ends the worker.
CONTAINED: Final = hasattr(Backend, "_errback_arity_greater")
MODELS: Final = celery.VERSION >= (5, 5) and importlib.util.find_spec("pydantic") is not None


@dataclass(frozen=True, slots=True)
class Wrong:
    """The message is run, and does something else than it was sent for."""

    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A task in two releases.

    ``calls`` is the call of the old release, or that of each: code that publishes with the id that
    is in ``of``. ``on_new`` is what the new release makes of the old message, ``on_old`` the
    reverse: what the task returns if all is well, or else `Wrong` or `BREAKS`. A release without a
    call does not send it.
    """

    name: str
    old: str
    new: str
    calls: str | tuple[str, str]
    on_new: Any
    on_old: Any = None  # not looked at

    def call(self, release: str) -> str:
        """The code that publishes."""
        if isinstance(self.calls, str):
            return self.calls
        return self.calls[release == "new"]

    @property
    def task(self) -> str:
        """The name of the task."""
        return f"shop.tasks.{self.name}"


def _rule(name: str, heads: tuple[str, str], call: str | tuple[str, str], **rest: Any) -> Rule:
    """A rule about the parameters of a task, which returns what it was given."""
    old, new = (
        f"@shared_task\ndef {name}({head}):\n    return locals()\n" if head is not None else ""
        for head in heads
    )
    return Rule(name=name, old=old, new=new, calls=call, **rest)


PARAMETERS: Final = (
    _rule(
        "default_at_the_end", ("a, b", "a, b, c=None"),
        ("default_at_the_end.apply_async((1, 2), **of)",
         "default_at_the_end.apply_async((1, 2), **of)"),
        on_new={"a": 1, "b": 2, "c": None}, on_old={"a": 1, "b": 2},
    ),
    _rule(
        "default_that_is_sent", ("a", "a, b=None"),
        ("default_that_is_sent.apply_async((1,), **of)",
         "default_that_is_sent.apply_async((1, 2), **of)"),
        on_new={"a": 1, "b": None}, on_old=BREAKS,
    ),
    _rule(
        "keyword_only_with_default", ("a", "a, *, b=3"),
        ("keyword_only_with_default.apply_async((1,), **of)",
         "keyword_only_with_default.apply_async((1,), {'b': 2}, **of)"),
        on_new={"a": 1, "b": 3}, on_old=BREAKS,
    ),
    _rule(
        "renamed_by_position", ("order_id", "pk"), "renamed_by_position.apply_async((1,), **of)",
        on_new={"pk": 1}, on_old={"order_id": 1},
    ),
    _rule(
        "renamed_by_name", ("order_id", "pk"),
        ("renamed_by_name.apply_async((), {'order_id': 1}, **of)",
         "renamed_by_name.apply_async((), {'pk': 1}, **of)"),
        on_new=BREAKS, on_old=BREAKS,
    ),
    _rule(
        "both_names", ("order_id", "pk=None, order_id=None"),
        "both_names.apply_async((), {'order_id': 1}, **of)",
        on_new={"pk": None, "order_id": 1}, on_old={"order_id": 1},
    ),
    _rule(
        "required", ("a", "a, b"),
        ("required.apply_async((1,), **of)", "required.apply_async((1, 2), **of)"),
        on_new=BREAKS, on_old=BREAKS,
    ),
    _rule(
        "removed", ("a, b", "a"),
        ("removed.apply_async((1, 2), **of)", "removed.apply_async((1,), **of)"),
        on_new=BREAKS, on_old=BREAKS,
    ),
    _rule(
        "inserted", ("a, b", "a, c, b=None"), "inserted.apply_async((1, 2), **of)",
        on_new=Wrong({"a": 1, "c": 2, "b": None}), on_old=Wrong({"a": 1, "b": 2}),
    ),
    _rule(
        "inserted_by_name", ("a, b", "a, c=None, b=None"),
        "inserted_by_name.apply_async((), {'a': 1, 'b': 2}, **of)",
        on_new={"a": 1, "b": 2, "c": None}, on_old={"a": 1, "b": 2},
    ),
    _rule(
        "moved", ("a, b", "b, a"), "moved.apply_async((1, 2), **of)",
        on_new=Wrong({"b": 1, "a": 2}), on_old=Wrong({"a": 1, "b": 2}),
    ),
    _rule(
        "moved_by_name", ("a, b", "b, a"), "moved_by_name.apply_async((), {'a': 1, 'b': 2}, **of)",
        on_new={"a": 1, "b": 2}, on_old={"a": 1, "b": 2},
    ),
    _rule(
        "made_keyword_only", ("a, b", "a, *, b=None"),
        ("made_keyword_only.apply_async((1, 2), **of)",
         "made_keyword_only.apply_async((1,), {'b': 2}, **of)"),
        on_new=BREAKS, on_old={"a": 1, "b": 2},
    ),
    _rule(
        "made_positional_only", ("a", "a, /"),
        ("made_positional_only.apply_async((), {'a': 1}, **of)",
         "made_positional_only.apply_async((1,), **of)"),
        on_new=BREAKS, on_old={"a": 1},
    ),
    _rule(
        "into_args", ("a, b", "*args"), "into_args.apply_async((1, 2), **of)",
        on_new={"args": [1, 2]}, on_old={"a": 1, "b": 2},
    ),
    _rule(
        "into_kwargs", ("a, b=None", "a, **rest"),
        "into_kwargs.apply_async((1,), {'b': 2}, **of)",
        on_new={"a": 1, "rest": {"b": 2}}, on_old={"a": 1, "b": 2},
    ),
    _rule(
        "before_args", ("a, *rest", "a, b=None, *rest"),
        ("before_args.apply_async((1, 2), **of)", ""),
        on_new=Wrong({"a": 1, "b": 2, "rest": []}),
    ),
)  # fmt: skip
_CLASS: Final = """
class OfClass(Task):
    name = "shop.tasks.of_class"

    def run(self, {head}):
        return {{{head!r}: {head}}}


of_class = app.register_task(OfClass())
"""
KINDS: Final = (
    Rule(
        name="bound",
        old="@shared_task(bind=True)\ndef bound(self, a):\n    return {'a': a}\n",
        new="@shared_task(bind=True)\ndef bound(self, a, b):\n    return {'a': a}\n",
        calls=("bound.apply_async((1,), **of)", "bound.apply_async((1, 2), **of)"),
        on_new=BREAKS,
        on_old=BREAKS,
    ),
    Rule(
        name="untyped",
        old="@shared_task(typing=False)\ndef untyped(a):\n    return {'a': a}\n",
        new="@shared_task(typing=False)\ndef untyped(a, *, b):\n    return {'a': a}\n",
        calls=("untyped.apply_async((1,), **of)", "untyped.apply_async((1,), {'b': 2}, **of)"),
        on_new=BREAKS,
        on_old=BREAKS,
    ),
    Rule(
        name="of_class",
        old=_CLASS.format(head="a"),
        new=_CLASS.format(head="b"),
        calls=(
            "of_class.apply_async((), {'a': 1}, **of)",
            "of_class.apply_async((), {'b': 1}, **of)",
        ),
        on_new=BREAKS,
        on_old=BREAKS,
    ),
    Rule(
        name="gone",
        old="@shared_task\ndef gone():\n    return {}\n",
        new="",
        calls=("gone.apply_async(**of)", ""),
        on_new=BREAKS,
    ),
    Rule(
        name="brand_new",
        old="",
        new="@shared_task\ndef brand_new():\n    return {}\n",
        calls=("", "brand_new.apply_async(**of)"),
        on_new=None,
        on_old=BREAKS,
    ),
    Rule(
        name="renamed",
        old="@shared_task\ndef renamed():\n    return {}\n",
        new="@shared_task(name='shop.tasks.renamed_to_this')\ndef renamed():\n    return {}\n",
        calls=("renamed.apply_async(**of)", ""),
        on_new=BREAKS,
    ),
    Rule(
        name="name_kept",
        old="@shared_task\ndef name_kept():\n    return {}\n",
        new="@shared_task(name='shop.tasks.name_kept')\ndef another_function():\n    return {}\n"
        "\n\nname_kept = another_function\n",
        calls="name_kept.apply_async(**of)",
        on_new={},
        on_old={},
    ),
    Rule(
        name="pickled",
        old="@shared_task\ndef pickled():\n    return {}\n",
        new="@shared_task\ndef pickled():\n    return {}\n",
        calls=("pickled.apply_async(serializer='pickle', **of)", "pickled.apply_async(**of)"),
        on_new=BREAKS,
        on_old={},
    ),
    Rule(
        name="to_mail",
        old="@shared_task\ndef to_mail():\n    return {}\n",
        new="@shared_task\ndef to_mail():\n    return {}\n",
        calls="to_mail.apply_async(**of)",
        on_new=BREAKS,
        on_old={},
    ),
    Rule(
        name="rerouted",
        old="@shared_task\ndef rerouted():\n    return {}\n",
        new="@shared_task\ndef rerouted():\n    return {}\n",
        calls=("rerouted.apply_async(**of)", ""),
        on_new={},
    ),
)
CANVAS: Final = (
    Rule(
        name="in_chain",
        old="@shared_task\ndef in_chain(result, a):\n    return {'a': a}\n",
        new="@shared_task\ndef in_chain(result, a, b):\n    return {'a': a}\n",
        calls=(
            "chain(first.s(), in_chain.s(1).set(**of)).apply_async()",
            "chain(first.s(), in_chain.s(1, 2).set(**of)).apply_async()",
        ),
        on_new=BREAKS,
        on_old=BREAKS,
    ),
    Rule(
        name="in_chain_still",
        old="@shared_task\ndef in_chain_still(result, a):\n    return {'a': a}\n",
        new="@shared_task\ndef in_chain_still(result, a, b=None):\n    return {'a': a}\n",
        calls="chain(first.s(), in_chain_still.s(1).set(**of)).apply_async()",
        on_new={"a": 1},
        on_old={"a": 1},
    ),
    Rule(
        name="linked",
        old="@shared_task\ndef linked(result):\n    return {'result': result}\n",
        new="@shared_task\ndef linked():\n    return {}\n",
        calls=("first.apply_async(link=linked.s().set(**of))",
               "first.apply_async(link=linked.si().set(**of))"),
        on_new=BREAKS,
        on_old=BREAKS,
    ),
    Rule(
        name="of_error",
        old="@shared_task\ndef of_error(request, exc, traceback):\n    mark('of_error')\n",
        new="@shared_task\ndef of_error(request, exc):\n    mark('of_error')\n",
        calls="fails.apply_async(link_error=of_error.s())",
        on_new=BREAKS,
        on_old="marked",
    ),
    Rule(
        name="of_error_by_id",
        old="@shared_task\ndef of_error_by_id(request, exc, traceback):\n"
        "    mark('of_error_by_id')\n",
        new="@shared_task\ndef of_error_by_id(task_id):\n    mark('of_error_by_id')\n",
        calls="fails.apply_async(link_error=of_error_by_id.s())",
        on_new="marked",
        on_old="marked",
    ),
    Rule(
        name="of_item",
        old="@shared_task\ndef of_item(a):\n    return a\n",
        new="@shared_task\ndef of_item(a, b):\n    return a\n",
        calls=("of_item.map([1, 2]).apply_async(**of)",
               "of_item.starmap([(1, 2)]).apply_async(**of)"),
        on_new=BREAKS,
        on_old=BREAKS,
    ),
)  # fmt: skip
_MODEL: Final = """
class {model}(BaseModel):
{fields}

@shared_task(pydantic=True)
def {name}(order: {model}):
    return {{"id": order.id}}
"""


def _model_rule(name: str, old: str, new: str, calls: tuple[str, str], **rest: Any) -> Rule:
    model = name.title().replace("_", "")
    texts = (
        _MODEL.format(name=name, model=model, fields=indent(dedent(each), "    "))
        for each in (old, new)
    )
    return Rule(
        name=name, **dict(zip(("old", "new"), texts, strict=True)),
        calls=tuple(f"{name}.apply_async(({each},), **of)" for each in calls), **rest,
    )  # fmt: skip


OF_MODELS: Final = (
    _model_rule(
        "model_with_default", "id: int\n", "id: int\nnote: str = ''\n",
        ("{'id': 1}", "{'id': 1, 'note': 'x'}"),
        on_new={"id": 1}, on_old={"id": 1},
    ),
    _model_rule(
        "model_stricter", "id: int\n", "id: int\nnote: str\n",
        ("{'id': 1}", "{'id': 1, 'note': 'x'}"),
        on_new=BREAKS, on_old={"id": 1},
    ),
    _model_rule(
        "model_of_another_type", "id: str\n", "id: int\n", ("{'id': 'x'}", "{'id': 1}"),
        on_new=BREAKS, on_old=BREAKS,
    ),
)  # fmt: skip
RULES: Final = tuple(
    rule
    for rule in (*PARAMETERS, *KINDS, *CANVAS, *(OF_MODELS if MODELS else ()))
    if CONTAINED or rule.name != "of_error"
)

_HEAD = """
import os
from pathlib import Path

from celery import Task, chain, shared_task
{imports}
from proj.celery import app


def mark(name):
    Path(os.environ["MARKS"], name).touch()


@shared_task
def first():
    return 1


@shared_task(throws=(ValueError,))
def fails():
    raise ValueError
"""
#: Publishes everything that a release publishes, to the broker of its settings.
PUBLISH: Final = """
import django

django.setup()
from shop.publishing import PUBLISHERS

for publisher in PUBLISHERS:
    publisher()
"""
#: Starts the worker of a release, and prints what became of each message.
RUN: Final = """
import json, os, subprocess, sys
from pathlib import Path

import django

django.setup()
from celery.exceptions import TimeoutError
from celery.result import AsyncResult
from proj.celery import app

awaited, marked, rest = json.loads(sys.argv[1])
worker = subprocess.Popen(
    [sys.executable, "-m", "celery", "-A", "proj", "worker", "--pool=solo", "-l", "WARNING",
     "--without-gossip", "--without-mingle", "--without-heartbeat"],
)
try:
    # The last message: one queue, one process, so the others have begun before.
    AsyncResult("the-last", app=app).get(timeout=60)
    found = {}
    for each in [*awaited, *rest]:
        result = AsyncResult(each, app=app)
        if each in awaited:
            try:
                result.get(timeout=20, propagate=False)
            except TimeoutError as error:
                raise TimeoutError(each) from error
        found[each] = result.result if result.state == "SUCCESS" else "breaks"
finally:
    worker.terminate()
    worker.wait(60)
for each in marked:
    found[each] = "marked" if Path(os.environ["MARKS"], each).exists() else "breaks"
print("FOUND" + json.dumps(found))
"""


def tasks(release: str) -> str:
    """The module of tasks of a release: ``old`` or ``new``."""
    imports = "from pydantic import BaseModel\n" if MODELS else ""
    parts = [rule.old if release == "old" else rule.new for rule in RULES]
    return "\n\n".join([_HEAD.format(imports=imports), *filter(None, parts)])


def publishing(release: str) -> str:
    """The module that publishes: a function for each rule, all of them in ``PUBLISHERS``."""
    lines = ["from celery import chain", "from shop.tasks import *", "", ""]
    names = []
    for rule in RULES:
        if call := rule.call(release):
            names.append(f"publish_{rule.name}")
            lines += [
                f"def {names[-1]}():",
                f"    of = {{'task_id': {rule.name!r}}}",
                f"    {call}",
                "",
                "",
            ]
    lines.append(f"PUBLISHERS = [{', '.join(names)}]")
    return "\n".join(lines)

"""Options as text, as ini files and the command line have them, and as values of TOML."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.options import DECLARED, Options, parse

#: Of each option: as TOML has it, as text has it, and what comes of both.
VALUES: dict[str, tuple[object, str, object]] = {
    "app": ("proj.celery:app", "proj.celery:app", "proj.celery:app"),
    "broker": ("redis://h/1", "redis://h/1", "redis://h/1"),
    "result_backend": ("django-db", "django-db", "django-db"),
    "sent_in_transaction": ("error", "error", "error"),
    "unhandled_failures": ("ignore", "ignore", "ignore"),
    "redeliver": ("report", "report", "report"),
    "redeliver_exempt": (["shop.a", "shop.b"], "shop.a, shop.b", ("shop.a", "shop.b")),
    "mode": ("inline", "inline", "inline"),
    "live_pool": ("solo", "solo", "solo"),
    "live_concurrency": (3, "3", 3),
    "queues": (["celery", "mail"], "celery, mail", ("celery", "mail")),
    "live_queues": (["celery", "mail"], "celery, mail", ("celery", "mail")),
    "live_loglevel": ("debug", "debug", "DEBUG"),
    "timeout": (2.5, "2.5", 2.5),
    "schedule": ("1f09ac-abxy2", "1f09ac-abxy2", "1f09ac-abxy2"),
    "audit": (True, "true", True),
    "audit_report": ("audit.json", "audit.json", "audit.json"),
    "audit_fail_on": (
        ["hooks-never-ran", "outside-reached"],
        "hooks-never-ran, outside-reached",
        ("hooks-never-ran", "outside-reached"),
    ),
    "audit_baseline": ("audit.json", "audit.json", "audit.json"),
    "trace": ("on", "on", "on"),
    "trace_dir": ("pages", "pages", "pages"),
    "contract": ("check", "check", "check"),
    "contract_file": ("contract.json", "contract.json", "contract.json"),
    "contract_rolling": ("error", "error", "error"),
    "contract_include": (["celery.*", "a.b"], "celery.*, a.b", ("celery.*", "a.b")),
}
_SCALARS: Any = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([text for _, text, _ in VALUES.values()])
    | st.datetimes()
    | st.dates()
    | st.times()
)
TOML: Any = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


def test_each_option_is_tried_here() -> None:
    assert set(VALUES) == {declared.name for declared in DECLARED}


@pytest.mark.parametrize("name", VALUES)
def test_an_option_may_be_text_or_a_value_of_toml(name: str) -> None:
    value, text, wanted = VALUES[name]
    assert getattr(parse({name: value}), name) == wanted
    assert getattr(parse({name: text}), name) == wanted


@pytest.mark.parametrize("value", [5, "5"])
def test_seconds_may_be_whole(value: object) -> None:
    assert parse({"timeout": value}).timeout == 5.0


@pytest.mark.parametrize(
    ("value", "on"), [(False, False), (True, True), ("off", False), ("Yes", True), ("", False)]
)
def test_a_switch_may_be_off(value: object, *, on: bool) -> None:
    assert parse({"audit": value}).audit is on


@given(value=TOML)
@settings(max_examples=60)  # for each option
@pytest.mark.parametrize("declared", DECLARED, ids=lambda declared: declared.name)
def test_any_value_is_taken_or_refused_by_name(declared: Any, value: object) -> None:
    try:
        parsed = parse({declared.name: value})
    except BadOptionError as error:
        outcome: object = str(error).partition("expected")[0]
    else:
        outcome = type(getattr(parsed, declared.name))
    assert outcome in {f"{declared.ini} = {value!r}: ", *_TAKEN[declared.name]}


_TAKEN = {
    name: {type(wanted), type(getattr(Options(), name))} for name, (_, _, wanted) in VALUES.items()
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", True), ("timeout", 10**400), ("live_concurrency", 2.0), ("audit", []),
        ("audit_fail_on", ["hooks-never-ran", 1]), ("audit_fail_on", {"all": True}),
        ("live_queues", ["a,b"]), ("audit_report", 1), ("audit_baseline", ["audit.json"]),
        ("app", ["proj.celery:app"]), ("broker", dt.date(2030, 1, 1)), ("mode", ["inline"]),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused(name: str, value: object) -> None:
    with pytest.raises(BadOptionError, match="expected"):
        parse({name: value})

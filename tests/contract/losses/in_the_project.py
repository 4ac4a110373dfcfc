"""What a worker of the plugin makes of each case: the tests that run in the project."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path

import pytest
from shop import gateway, tasks
from shop.canvas import send
from shop.cases import CASES, LIMITED, PLACES
from shop.models import Row
from shop.notes import noted
from shop.outcomes import outcome

from pytest_djcelery import faults

NAMES = json.loads(os.environ["LOSSES_CASES"])
FOUND = Path(os.environ["LOSSES_FOUND"])
WORKER = os.environ["LOSSES_WORKER"]

pytestmark = [
    pytest.mark.django_db(transaction=WORKER != "celery_inline"),
    pytest.mark.celery_unhandled_failures("ignore"),
]
if WORKER == "celery_live_worker":
    pytestmark.append(pytest.mark.celery_live_worker(concurrency=1))


def set_fault(faults, case):
    victim = tasks.VICTIMS[case.options]
    at = gateway.charge if case.at == "charge" else case.at
    if case.loss in LIMITED:
        faults.time_out(victim, at=at, soft=case.loss == "soft")
    elif case.loss == "twice":
        faults.duplicate(victim)
    elif case.loss != "none":
        faults.lose_worker(victim, at=at, host=case.loss == "host")


def show(case, worker, app):
    """Have it happen, and return the outcome."""
    with faults() as celery_faults:
        set_fault(celery_faults, case)
        ids = send(case)
        if WORKER == "celery_inline":
            assert worker.run(raise_failures=False).executions is not None  # looked at
        else:
            worker.wait_until_idle()
    results = {role: app.AsyncResult(id_) for role, id_ in ids.items()}
    return outcome(
        noted(case.name),
        {role: (result.state, result.result) for role, result in results.items()},
        Row.objects.filter(case=case.name).order_by("pk").values_list("name", flat=True),
    )


@pytest.mark.parametrize("place", PLACES)
def test_the_cases(request, place, celery_app):
    worker = request.getfixturevalue(WORKER)
    found = {}
    for name in NAMES:
        if CASES[name].place == place:
            try:
                found[name] = show(CASES[name], worker, celery_app)
            except Exception as error:  # noqa: BLE001 - it is told where the outcomes are compared
                found[name] = {"error": "".join(traceback.format_exception(error))}
    with FOUND.open("a") as file:
        file.write(json.dumps(found) + "\n")

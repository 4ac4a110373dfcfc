"""What a worker of the plugin makes of each case: the tests that run in the project."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from shop import gateway, tasks
from shop.canvas import send
from shop.cases import CASES, LIMITED
from shop.models import Row
from shop.notes import NOTES
from shop.outcomes import outcome

NAMES = json.loads(os.environ["LOSSES_CASES"])
FOUND = Path(os.environ["LOSSES_FOUND"])
WORKER = os.environ["LOSSES_WORKER"]

pytestmark = [
    pytest.mark.django_db(transaction=WORKER != "celery_inline"),
    pytest.mark.celery_unhandled_failures("ignore"),
]


@pytest.fixture
def worker(request):
    return request.getfixturevalue(WORKER)


def set_fault(faults, case):
    victim = tasks.VICTIMS[case.options]
    at = gateway.charge if case.at == "charge" else case.at
    if case.loss in LIMITED:
        faults.time_out(victim, at=at, soft=case.loss == "soft")
    elif case.loss != "none":
        faults.lose_worker(victim, at=at, host=case.loss == "host")


@pytest.mark.parametrize("name", NAMES)
def test_case(name, worker, celery_faults, celery_app):
    case = CASES[name]
    NOTES.clear()
    set_fault(celery_faults, case)
    ids = send(case)
    if WORKER == "celery_inline":
        assert worker.run(raise_failures=False).executions is not None  # looked at
    else:
        worker.wait_until_idle()
    results = {role: celery_app.AsyncResult(id_) for role, id_ in ids.items()}
    found = outcome(
        NOTES,
        {role: (result.state, result.result) for role, result in results.items()},
        Row.objects.order_by("pk").values_list("name", flat=True),
    )
    with FOUND.open("a") as file:
        file.write(json.dumps([name, found]) + "\n")

"""`lose_worker` with `celery_live_worker`: a real kill of the child, or of the whole worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.services import require, url

if TYPE_CHECKING:
    from tests.support.project import Project

TASKS = """
    from django.db import transaction

    from shop import gateway


    @shared_task(acks_late=True, reject_on_worker_lost=True)
    def pay(name):
        with transaction.atomic():
            Order.objects.create(name=name)
            try:
                gateway.charge(name)
            finally:
                gateway.charge("finally")
        return name
    """
GATEWAY = """
    from pathlib import Path

    FILE = Path("charged")


    def charge(name):
        with FILE.open("a") as file:
            file.write(f"{name} ")


    def charged():
        return FILE.read_text().split() if FILE.exists() else []
    """
TEST = """
    import pytest
    from celery.exceptions import WorkerLostError
    from pytest_djcelery import BadOptionError, Failure, NeverReadyError, Success
    from shop import gateway
    from shop.models import Order
    from shop.tasks import add, pay


    @pytest.fixture(autouse=True)
    def nothing_charged():
        gateway.FILE.unlink(missing_ok=True)


    def test_a_child_is_killed(celery_live_worker, celery_faults, celery_results):
        pid = celery_live_worker.pid
        fault = celery_faults.lose_worker(pay.s("ada"), at=gateway.charge)
        bob, ada = pay.delay("bob"), pay.delay("ada")
        assert celery_results[ada] == Success("ada")
        assert celery_results[bob] == Success("bob")
        assert gateway.charged().count("ada") == 2
        assert gateway.charged().count("finally") == 2  # not in the process that was killed
        assert Order.objects.count() == 2
        assert celery_faults.fired == (fault,)
        celery_faults.lose_worker(add, at="end")
        assert celery_results[add.delay(1, 2)] == Failure(WorkerLostError)
        assert celery_results[add.delay(1, 2)] == Success(3)
        assert celery_live_worker.pid == pid


    def test_the_whole_worker_is_killed(celery_live_worker, celery_faults, celery_results):
        pid = celery_live_worker.pid
        celery_faults.lose_worker(pay, at="start", host=True)
        assert celery_results[pay.delay("ada")] == Success("ada")
        assert celery_live_worker.pid != pid
        celery_faults.lose_worker(add.s(3, 4), host=True)
        with pytest.raises(NeverReadyError, match="its worker was lost after"):
            add.delay(3, 4).get()
        celery_live_worker.wait_until_idle()
        assert celery_results[add.delay(1, 2)] == Success(3)


    def test_what_can_not_be_had(celery_live_worker, celery_faults):
        with pytest.raises(BadOptionError, match="where only lose_worker.. can be had"):
            celery_faults.fail(add, OSError)
        celery_faults.lose_worker(add, optional=True)
    """


def prepare(project: Project) -> None:
    project.settings('DATABASES["default"]["TEST"] = {"NAME": "test.sqlite3"}\n')
    project.tasks(TASKS)
    project.write(**{"shop/gateway": GATEWAY})


@pytest.mark.parametrize("broker", ["files", "redis", "rabbitmq"])
def test_a_real_kill(project: Project, broker: str) -> None:
    prepare(project)
    if broker != "files":
        require(broker)
        project.ini(f"djcelery_broker = {url(broker)}")
    project.run(TEST).assert_outcomes(passed=3)

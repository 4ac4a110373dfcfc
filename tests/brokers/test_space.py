"""A run on a broker that others use: its names are its own, and nothing of it stays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.broker_leftovers import BROKERS, NOTE, left, noted
from tests.support.services import require, url

if TYPE_CHECKING:
    from tests.support.project import Project, Run


@pytest.fixture(params=BROKERS)
def service(request: pytest.FixtureRequest) -> str:
    require(request.param)
    return str(request.param)


@pytest.fixture
def records(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the records of this test's runs, and of nobody else's."""
    folder = project.path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


WORKER = """
    import pytest
    from celery import chord, shared_task
    from kombu import Exchange, Queue
    from noting import note
    from shop.tasks import add

    seen = []

    @shared_task
    def see(what):
        seen.append(what)

    def test_a_result(celery_app, celery_worker):
        assert add.delay(1, 2).get() == 3
        note(celery_app)

    def test_a_chord_and_remote_control(celery_app, celery_worker):
        assert chord([add.s(1, 2), add.s(3, 4)])(add.si(5, 5)).get() == 10
        assert celery_app.control.ping(timeout=0.5)

    @pytest.mark.celery(result_backend="rpc://")
    def test_replies_come_back(celery_worker):
        assert add.delay(1, 2).get() == 3

    def test_a_message_that_nobody_reads(celery_outbox):
        see.delay("of the test before")

    def test_is_not_there_in_the_next_test(celery_worker):
        see.delay("of this test")
        celery_worker.wait_until_idle()
        assert seen == ["of this test"]

    @pytest.mark.filterwarnings("ignore::pytest_djcelery.QueueNotConsumedWarning")
    def test_no_wait_for_a_queue_that_nobody_reads(celery_worker):
        add.apply_async((1, 2), queue="other")
        celery_worker.wait_until_idle(timeout=5)

    @pytest.mark.celery(accept_content=["json"])
    def test_no_wait_for_a_message_that_is_refused(celery_worker):
        add.apply_async((1, 2), serializer="pickle")
        celery_worker.wait_until_idle(timeout=5)

    def test_names_are_the_projects_own(celery_app, celery_outbox):
        with celery_app.connection_for_write() as connection:
            channel = connection.default_channel
            queue = Queue("mine", Exchange("news", type="topic"), routing_key="a.*")(channel)
            queue.declare()
            producer = connection.Producer()
            for exchange, key in (("news", "a.b"), ("", "mine"), ("news", "unbound")):
                producer.publish({}, exchange=exchange, routing_key=key)
            assert channel.queue_declare("mine", passive=True).queue == "mine"
            got = [queue.get(no_ack=True) for _ in range(3)]
            assert got.pop() is None
            sent_to = [each.delivery_info for each in got]
            assert [(each["exchange"], each["routing_key"]) for each in sent_to] == [
                ("news", "a.b"), ("", "mine"),
            ]
            if connection.transport.driver_type == "amqp":  # where every virtual host has it
                queue.bind_to("amq.fanout", "")
                producer.publish({}, exchange="amq.fanout")
                assert queue.get(no_ack=True).delivery_info["exchange"] == "amq.fanout"
        note(celery_app)

    @pytest.mark.celery(broker_url="memory://")
    def test_a_broker_that_a_test_asks_for_is_used_as_it_is(celery_app):
        with celery_app.connection_for_write() as connection:
            assert connection.transport.driver_type == "memory"
            assert not connection.transport_options.get("global_keyprefix")
"""


def test_a_worker_over_a_real_broker_leaves_nothing(
    run: Run, project: Project, service: str, records: Path
) -> None:
    project.write(noting=NOTE)
    project.ini(f"djcelery_broker = {url(service)}")

    run(WORKER).assert_outcomes(passed=9)

    assert left(service, project.path) == []
    assert list(records.rglob("*record")) == []


def test_what_a_killed_run_has_left_is_removed_by_the_next(
    run: Run, project: Project, service: str, records: Path
) -> None:
    project.write(noting=NOTE)
    project.ini(f"djcelery_broker = {url(service)}")
    killed = run("""
        import os
        import signal
        import pytest
        from noting import note
        from shop.tasks import add

        def test_publish(celery_app, celery_worker):
            add.delay(1, 2).get()
            with pytest.warns(UserWarning):
                add.apply_async((1, 2), queue="other")
            note(celery_app)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert killed.ret == -9
    assert left(service, project.path)
    [record] = records.rglob("*record")
    assert record.parent.stat().st_mode & 0o777 == 0o700  # what others may see of it
    [place] = [name for _, kind, name in noted(project.path) if kind == "place"]
    assert place.count(":") == 2  # and it has no password

    run("""
        from shop.tasks import add

        def test_publish(celery_outbox):
            add.delay(1, 2)
    """).assert_outcomes(passed=1)

    assert left(service, project.path) == []
    assert list(records.rglob("*record")) == []


def test_results_in_redis_belong_to_the_run_and_are_removed(
    run: Run, project: Project, records: Path
) -> None:
    require("redis")
    project.ini(f"djcelery_result_backend = {url('redis')}")

    run(
        """
        from pathlib import Path
        from celery import chord
        from shop.tasks import add

        def test_results(celery_app, celery_worker):
            assert add.delay(1, 2).get() == 3
            assert chord([add.s(1, 2), add.s(3, 4)])(add.si(5, 5)).get() == 10
            prefix = celery_app.conf.result_backend_transport_options["global_keyprefix"]
            assert celery_app.backend.client.keys(f"{prefix}*")
            Path(f"{prefix}record.noted").write_text('["kind", "name"]')
        """,
    ).assert_outcomes(passed=1)

    assert left("redis", project.path) == []
    assert list(records.rglob("*record")) == []


def test_the_projects_own_settings_are_left_alone(
    run: Run, project: Project, records: Path
) -> None:
    project.settings('CELERY_BROKER_TRANSPORT_OPTIONS = {"priority_steps": [0, 5]}')
    project.ini("djcelery_broker = project", "djcelery_result_backend = project")

    run("""
        def test_settings(celery_app):
            assert celery_app.conf.broker_url.startswith("amqp://nobody")
            assert celery_app.conf.broker_transport is None
            options = celery_app.conf.broker_transport_options
            assert options["priority_steps"] == [0, 5]
            assert not options.keys() & {"global_keyprefix", "djcelery"}
            assert celery_app.conf.result_backend_transport_options == {}
    """).assert_outcomes(passed=1)

    assert list(records.iterdir()) == []

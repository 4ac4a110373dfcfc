"""Each delivery names the very record of its message, however many have the same id."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.project import Project, Run

TEST = """
    import kombu
    import pytest
    from proj.celery import app
    from shop.tasks import add, requeued

    @pytest.fixture(params=["carried", "copied on the way"])
    def headers(request, monkeypatch):
        publish = kombu.Producer.publish

        def copying(self, body, headers=None, **options):  # as a library does that adds its own
            return publish(self, body, headers=dict(headers), **options)

        if request.param != "carried":
            monkeypatch.setattr(kombu.Producer, "publish", copying)

    @pytest.mark.usefixtures("headers")
    def test_messages_of_one_id(celery_inline, celery_outbox):
        for number in range(4):
            add.apply_async((number % 2, 1), task_id="same", headers={"number": number // 2})
        executions = celery_inline.run().executions
        assert all(one.message is sent for one, sent in zip(executions, celery_outbox, strict=True))

    @pytest.mark.usefixtures("headers")
    def test_one_that_is_put_back(celery_inline, celery_outbox):
        requeued.delay()
        executions = celery_inline.run(limit=3).executions
        assert [each.state for each in executions] == ["REJECTED", "REJECTED", "REJECTED"]
        assert all(each.message is celery_outbox[0] for each in executions)
        celery_inline.redeliver(celery_outbox[0])
        assert celery_inline.pending[0] is celery_outbox[0]

    @pytest.mark.usefixtures("headers")
    def test_one_with_an_eta(celery_inline, celery_outbox):
        add.apply_async((1, 1), countdown=60)
        celery_inline.run()
        assert celery_inline.scheduled[0] is celery_outbox[0]

    def test_one_that_was_not_published_as_a_task(celery_inline):
        with app.producer_or_acquire() as producer:
            headers = {"task": "shop.tasks.add", "id": "x"}
            producer.publish("{}", routing_key="celery", headers=headers)
        [execution] = celery_inline.run(raise_failures=False).executions
        assert execution.message is None
    """


def test_a_record_is_found_by_its_tag_or_by_its_contents(run: Run, project: Project) -> None:
    project.tasks("""
        from celery.exceptions import Reject

        @shared_task(bind=True, acks_late=True)
        def requeued(self):
            raise Reject("later", requeue=True)
        """)

    run(TEST).assert_outcomes(passed=7)

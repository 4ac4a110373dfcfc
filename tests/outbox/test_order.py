"""The order of the outbox, what was never sent, and who has sent it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.project import Project


def test_a_message_stands_before_those_that_its_task_sent_however_quick_the_worker(
    project: Project,
) -> None:
    project.tasks("""
        @shared_task
        def parent():
            add.delay(1, 2)
        """)
    result = project.run("""
        from shop.tasks import add, parent


        def test_order(celery_worker, celery_outbox):
            for _ in range(100):
                parent.delay()
            celery_worker.wait_until_idle()
            places = {sent.id: place for place, sent in enumerate(celery_outbox)}
            children = [sent for sent in celery_outbox if sent.parent_id]
            assert len(children) == 100
            assert all(places[child.parent_id] < places[child.id] for child in children)
        """)
    result.assert_outcomes(passed=1)


def test_a_message_that_could_not_be_sent_is_not_in_the_outbox(project: Project) -> None:
    result = project.run("""
        import kombu
        import pytest
        from shop.tasks import add


        def test_it(celery_outbox, monkeypatch):
            def publish(*args, **kwargs):
                raise OSError("no broker")

            monkeypatch.setattr(kombu.Producer, "publish", publish)
            with pytest.raises(Exception, match="no broker"):
                add.delay(1, 2)
            assert celery_outbox == []
        """)
    result.assert_outcomes(passed=1)


def test_a_task_class_that_overrides_apply_is_passed_over(project: Project) -> None:
    project.tasks("""
        from celery import Task


        class Own(Task):
            def apply(self, *args, **kwargs):
                return super().apply(*args, **kwargs)


        @shared_task(base=Own)
        def own():
            pass
        """)
    result = project.run("""
        from shop.tasks import own


        def test_it(celery_eager, celery_outbox):
            own.apply()
            own.s().apply()
            assert celery_outbox == []
            own.delay()
            assert celery_outbox == [own.s()]
            assert celery_outbox[0].location.function == "test_it"
        """)
    result.assert_outcomes(passed=1)

"""Tasks of `django.tasks`, which a backend sends through Celery: by one bridge, or one for each."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("django.tasks") is None, reason="django.tasks came with Django 6.0"
)

BACKENDS = """
    import inspect

    from celery import current_app, shared_task
    from django.db import transaction
    from django.tasks import TaskResult, TaskResultStatus
    from django.tasks.backends.base import BaseTaskBackend
    from django.utils.crypto import get_random_string
    from django.utils.module_loading import import_string


    @shared_task(name="bridge", bind=True)
    def bridge(self, path, args, kwargs):
        task = import_string(path)
        try:
            return task.call(*args, **kwargs)
        except LookupError as error:
            raise self.retry(exc=error, countdown=1)


    class Base(BaseTaskBackend):
        supports_defer = supports_priority = True

        def enqueue(self, task, args, kwargs):
            self.validate_task(task)
            number = get_random_string(32)
            self.send(task, args, kwargs)
            return TaskResult(
                task=task, id=number, status=TaskResultStatus.READY, enqueued_at=None,
                started_at=None, finished_at=None, last_attempted_at=None, args=args,
                kwargs=kwargs, backend=self.alias, errors=[], worker_ids=[],
            )


    class Bridge(Base):
        def send(self, task, args, kwargs):
            bridge.apply_async((task.module_path, list(args), kwargs), eta=task.run_after)


    class AfterCommit(Base):
        def send(self, task, args, kwargs):
            call = task.module_path, list(args), kwargs
            transaction.on_commit(lambda: bridge.delay(*call))


    class OneForEach(Base):
        def send(self, task, args, kwargs):
            name = task.module_path
            if name not in current_app.tasks:
                options = {"autoretry_for": (LookupError,), "default_retry_delay": 1}
                current_app.task(task.func, name=name, shared=False, **options)
            current_app.tasks[name].apply_async(args, kwargs, eta=task.run_after)
    """

TASKS = """
    from celery import shared_task
    from django.tasks import task

    from shop.models import Order


    @task
    def welcome(name, *, greeting="Hello"):
        return f"{greeting}, {name}"


    @task(backend="after_commit")
    def later(name):
        return name


    @task(backend="unseen")
    def unseen(name):
        inner.delay(name)


    @task
    def fails(number):
        raise ValueError(number)


    attempts = []


    @task
    def retried(number):
        attempts.append(number)
        if len(attempts) < 2:
            raise LookupError


    @shared_task
    def inner(name):
        pass


    @task
    def sends(name):
        inner.delay(name)


    def sign_up(name):
        return welcome.enqueue(name)
    """

PREAMBLE = """
    from datetime import timedelta
    from functools import partial
    from unittest.mock import ANY, call

    import pytest
    from django.db import transaction
    from django.utils import timezone
    from pytest_djcelery import BridgedMessageNotSeenError, Success, outbox, results
    from shop.django_tasks import fails, inner, later, retried, sends, sign_up, unseen, welcome
    from shop.models import Order
    """


@pytest.fixture(params=["Bridge", "OneForEach"])
def shop(project: Project, request: pytest.FixtureRequest) -> Project:
    project.write(**{"shop/backends": BACKENDS, "shop/django_tasks": TASKS})
    project.settings(f"""
        TASKS = {{
            "default": {{"BACKEND": "shop.backends.{request.param}", "QUEUES": []}},
            "after_commit": {{"BACKEND": "shop.backends.AfterCommit"}},
            "unseen": {{"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}},
        }}
        """)
    return project


def test_messages_and_outcomes_of_django_tasks_are_found_by_the_task(shop: Project) -> None:
    result = shop.run(
        """
        def test_calls(celery_outbox):
            welcome.enqueue("ada")
            sign_up("bob")
            assert celery_outbox.of(welcome) == [call("ada"), call(name="bob")]
            assert celery_outbox.of(welcome) == [call(ANY), call(name=ANY, greeting="Hello")]
            assert celery_outbox.of(welcome) != [call("ada"), call("eve")]
            assert call("ada") in celery_outbox.of(welcome)
            assert celery_outbox.of(welcome, name="bob") == [call("bob")]
            assert celery_outbox.of(welcome).count(call("ada")) == 1
            assert welcome in celery_outbox
            assert celery_outbox == [welcome, welcome]
            assert celery_outbox.of(fails) == [] and fails not in celery_outbox
            assert celery_outbox[1].location.function == "sign_up"

        def test_what_using_has_changed_counts(celery_outbox):
            when = timezone.now() + timedelta(hours=1)
            welcome.using(run_after=when).enqueue("ada")
            welcome.using(queue_name="mail", priority=5).enqueue("bob")
            assert celery_outbox.of(welcome.using(run_after=when)) == [call("ada")]
            assert celery_outbox.of(welcome.using(run_after=when + timedelta(minutes=1))) == []
            assert welcome.using(run_after=when) in celery_outbox
            assert celery_outbox.of(welcome.using(queue_name="mail")) == [call("bob")]
            assert celery_outbox.of(welcome.using(queue_name="mail", priority=6)) == []
            assert celery_outbox.of(welcome) == [call("ada"), call("bob")]

        def test_outcomes(celery_inline, celery_results):
            result = welcome.enqueue("ada")
            welcome.enqueue("bob", greeting="Hi")
            expected = [Success("Hello, ada"), Success("Hi, bob")]
            assert celery_results.of(welcome) == expected
            assert celery_results[result] == expected[0]
            assert celery_results.of(fails) == []

        def test_a_calls_list_of_a_celery_task(celery_outbox):
            inner.delay("ada")
            assert celery_outbox.of(inner) == [call(name="ada")]
            assert celery_outbox.of(inner).in_transaction != [call("ada")]

        @pytest.mark.celery_inline(auto=True)
        def test_what_the_task_itself_sends_is_not_its_message(celery_outbox):
            sends.enqueue("ada")
            assert celery_outbox == [sends, inner.s("ada")]
            assert celery_outbox.of(sends) == [call("ada")]

        def test_eager(celery_eager, celery_outbox, celery_results):
            sends.enqueue("ada")
            assert celery_outbox == [sends, inner.s("ada")]
            assert celery_results.of(sends) == [Success(None)]

        async def enqueue():
            await welcome.aenqueue("ada")

        def test_async(celery_outbox):
            from asgiref.sync import async_to_sync

            async_to_sync(enqueue)()
            assert celery_outbox.of(welcome) == [call("ada")]
            assert celery_outbox[0].location.function == "enqueue"
        """,
        preamble=PREAMBLE,
    )
    result.assert_outcomes(passed=7)


def test_a_django_task_whose_messages_cant_be_seen_is_an_error_where_it_is_asked_for(
    shop: Project,
) -> None:
    result = shop.run(
        """
        pytestmark = pytest.mark.django_db

        def refused(pattern):
            return pytest.raises(BridgedMessageNotSeenError, match=pattern)

        def test_unseen(celery_outbox, celery_results, celery_inline):
            view = celery_outbox.of(unseen)
            assert view == []                       # nothing was enqueued
            result = unseen.enqueue("ada")          # runs at once, and sends a message
            assert celery_outbox == [inner.s("ada")]
            for ask in (
                lambda: view == [],
                lambda: celery_outbox.of(unseen),
                lambda: unseen in celery_outbox,
                lambda: celery_results.of(unseen),
                lambda: celery_results[result],
            ):
                with refused("unseen was enqueued at test_it.py:[0-9]+ in test_unseen"):
                    ask()
            with celery_outbox.record() as sent:
                inner.delay("bob")
            assert sent.of(unseen) == []            # it was enqueued before

        def test_one_that_waits_for_its_commit_is_no_error(celery_outbox, celery_on_commit):
            with transaction.atomic():
                later.enqueue("ada")
                assert celery_outbox.of(later) == []
                [hook] = celery_on_commit.pending
                assert hook.location.function == "test_one_that_waits_for_its_commit_is_no_error"
            assert celery_outbox.of(later) == [call("ada")]
            [sent] = celery_outbox.after_commit
            assert sent.location == hook.location
            with pytest.raises(ValueError), transaction.atomic():
                later.enqueue("bob")
                raise ValueError
            assert celery_outbox.of(later) == [call("ada")]

        def test_a_call_without_its_task(celery_outbox):
            remedy = r"celery_outbox.of\\(task\\) == \\[call\\('ada'\\)\\]"
            with pytest.raises(TypeError, match=remedy):
                assert celery_outbox == [call("ada")]
        """,
        preamble=PREAMBLE,
    )
    result.assert_outcomes(passed=3)


def test_texts_name_the_django_task_with_its_own_arguments(shop: Project) -> None:
    result = shop.run(
        """
        def test_difference(celery_outbox):
            welcome.enqueue("ada")
            assert celery_outbox.of(welcome) == [call("eve")]

        @pytest.mark.django_db
        @pytest.mark.celery_sent_in_transaction("error")
        def test_race(celery_outbox):
            with transaction.atomic():
                Order.objects.create()
                welcome.using(queue_name="mail").enqueue("ada", greeting="Hi")

        def test_failure(celery_inline):
            fails.enqueue(3)
            celery_inline.run(raise_failures=False)

        def test_a_retry_is_a_message_of_the_same_task(celery_inline, celery_outbox):
            retried.enqueue(1)
            celery_inline.run(until=timedelta(seconds=2))
            assert celery_outbox.of(retried) == [call(1), call(1)]
        """,
        preamble=PREAMBLE,
    )
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        [
            "E *[[]0[]] shop.django_tasks.welcome.enqueue('eve')*",
            "E *argument name: expected 'eve', sent 'ada'",
            "*expect call('ada'); if not, change the call at test_it.py:*",
        ]
    )
    result.stdout.fnmatch_lines(
        [
            "*shop.django_tasks.welcome('ada', greeting='Hi') was sent inside an open transaction*",
            "*sent at:   test_it.py:* in test_race",
            "*after the commit: transaction.on_commit(partial(welcome.using(queue_name='mail')*",
        ]
    )
    result.stdout.fnmatch_lines(["*shop.django_tasks.fails(3) [[]*[]]: ValueError: 3*"])

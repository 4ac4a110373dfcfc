"""Chords over results in memory: counted, and given to their bodies, as over Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.services import require, url

if TYPE_CHECKING:
    from tests.support.project import Project, Run

TASKS = """
    @shared_task
    def double(n):
        return 2 * n


    @shared_task
    def collect(values):
        return values


    @shared_task(ignore_result=True)
    def silent():
        return "unheard"


    @shared_task
    def broken():
        raise ValueError("broken")
    """
TESTS = """
    import pytest
    from celery import chain, chord, group
    from celery.exceptions import ChordError
    from shop.tasks import broken, collect, double, silent

    from pytest_djcelery import Failure, Success

    pytestmark = pytest.mark.django_db(transaction=True)


    @pytest.fixture(autouse=True)
    def worker(WORKER):
        return WORKER


    def ends_in_a_group(*last):
        return chain(double.si(3), group(*last))


    @pytest.mark.parametrize(("header", "values"), [
        ([double.si(1), ends_in_a_group(double.si(4), double.si(5))], [2, [8, 10]]),
        ([ends_in_a_group(double.si(4), ends_in_a_group(double.si(5), double.si(6)))],
         [8, [10, 12]]),
        ([ends_in_a_group(double.si(4), double.si(5)), silent.si()], [[8, 10], None]),
        ([silent.si(), double.si(1), silent.si()], ["unheard", 2, "unheard"]),
    ])
    def test_what_a_body_is_given(header, values):
        assert chain(double.si(0), group(header), collect.s()).delay().get(timeout=10) == values


    @pytest.mark.parametrize(("header", "text"), [
        ([double.si(1), broken.si().set(task_id="it")], "^Dependency it raised ValueError"),
        ([ends_in_a_group(double.si(4), broken.si())], "^Join error: ValueError"),
    ])
    def test_how_a_body_fails(celery_app, celery_results, header, text):
        chorded = chord(group(header), collect.s()).delay()
        body = celery_results[celery_app.AsyncResult(chorded.id)]
        assert body == Failure(ChordError, match=text)
        celery_results[chorded.parent]  # looked at
    """
LIVE = """
    DATABASES["default"]["TEST"] = {"NAME": "test.sqlite3"}
    """


@pytest.mark.parametrize(
    ("worker", "results"),
    [
        ("celery_inline", "memory"),
        ("celery_worker", "memory"),
        ("celery_live_worker", "memory"),
        ("celery_worker", "redis"),
    ],
)
def test_the_body_of_a_chord_is_given_what_it_is_given_over_redis(
    project: Project, worker: str, results: str
) -> None:
    project.tasks(TASKS)
    if results == "redis":
        require("redis")
        project.ini(f"djcelery_result_backend = {url('redis')}")
    if worker == "celery_live_worker":
        project.settings(LIVE)
    result = project.run(TESTS.replace("WORKER", worker))
    result.assert_outcomes(passed=6)


def test_what_is_not_stored_in_a_group_inside_a_header_is_not_waited_for(
    project: Project, run: Run
) -> None:
    """Over Redis the worker would wait for it without end."""
    project.tasks(TASKS)
    result = run("""
        from celery import chain, chord, group
        from celery.exceptions import ChordError
        from shop.tasks import collect, double, silent

        from pytest_djcelery import Failure

        def test_it(celery_app, celery_inline, celery_results):
            inner = chain(double.si(1), group(double.si(2), silent.si()))
            chorded = chord([inner, double.si(3)], collect.s()).delay()
            body = celery_results[celery_app.AsyncResult(chorded.id)]
            assert body == Failure(ChordError, match="^Join error: TimeoutError")
    """)
    result.assert_outcomes(passed=1)


def test_a_member_that_is_delivered_again_counts_once(project: Project, run: Run) -> None:
    project.tasks(TASKS)
    result = run("""
        from celery import chord
        from shop.tasks import collect, double

        def test_it(celery_app, celery_inline, celery_outbox):
            chorded = chord([double.si(1), double.si(2)], collect.s()).delay()
            celery_inline.step()
            celery_inline.redeliver(celery_outbox[0])
            celery_inline.step()
            assert [sent.task for sent in celery_inline.pending] == ["shop.tasks.double"]
            celery_inline.redeliver(celery_outbox[1])
            assert chorded.get() == [2, 4]
            celery_inline.run()
            assert celery_outbox.count(collect.s([2, 4])) == 1
            # Of a chord that is over no more is kept than that.
            kept = [key for key in celery_app.backend._results if b"taskset" in key]
            assert [key.rpartition(b".")[2] for key in kept] == [b"s"]
    """)
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("worker", ["celery_inline", "celery_worker"])
def test_a_member_of_a_large_chord_costs_what_one_of_a_small_chord_costs(
    project: Project, run: Run, worker: str
) -> None:
    project.tasks(TASKS)
    result = run(
        """
        from celery import chord
        from shop.tasks import collect, double


        def read(app, members, monkeypatch):
            amount = 0
            backend = type(app.backend)
            get, mget = backend.get, backend.mget

            def counted(self, *keys):
                nonlocal amount
                value = get(self, *keys)
                amount += len(value or b"")
                return value

            def all_counted(self, keys):
                return [counted(self, key) for key in keys]

            canvas = chord([double.si(n) for n in range(members)], collect.s())
            with monkeypatch.context() as patch:
                patch.setattr(backend, "get", counted)
                patch.setattr(backend, "mget", all_counted)
                assert len(canvas.delay().get(timeout=60)) == members
            return amount / members


        def test_it(celery_app, WORKER, monkeypatch):
            small, large = (read(celery_app, size, monkeypatch) for size in (20, 200))
            assert large < 1.5 * small
        """.replace("WORKER", worker)
    )
    result.assert_outcomes(passed=1)

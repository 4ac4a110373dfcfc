"""Retries"""

from __future__ import annotations

import pytest
from celery import chain, chord
from celery.exceptions import MaxRetriesExceededError
from kombu.utils.uuid import uuid
from shop.contract import failing, plain, retrying

from pytest_djcelery import Failure, Success

pytestmark = pytest.mark.django_db


def test_retries_run_to_the_end(work, log):
    """A task is tried again until it succeeds"""
    assert work(retrying.flaky.s()) == Success(2, retries=2)
    assert log == [("flaky", 0), ("flaky", 1), ("flaky", 2)]


def test_retries_are_counted_with_the_outcome(work, celery_results):
    """With a task's outcome, the number of its retries is known"""
    outcome = celery_results[retrying.flaky.delay()]
    assert (outcome.value, outcome.retries) == (2, 2)
    work.settle()


def test_each_retry_is_a_message(work, celery_outbox):
    """Each attempt is a separate message, with the same id"""
    work(retrying.flaky.s())
    assert sorted(sent.retries for sent in celery_outbox) == [0, 1, 2]
    assert len({sent.id for sent in celery_outbox}) == 1


def test_retries_end(work):
    """`max_retries` ends in the given exception"""
    outcome = work(retrying.flaky.s(succeed_at=9))
    assert outcome == Failure(ValueError, match="attempt 3", retries=3)


def test_retries_end_in_their_reason(work):
    """`retry(exc=…)` ends in that exception, of whatever type"""
    assert work(retrying.retry_with_reason.s()) == Failure(KeyError, retries=1)


def test_retries_without_a_reason_end_in_max_retries_exceeded(work):
    """`retry()` without a reason ends in `MaxRetriesExceededError`"""
    assert work(retrying.retry_without_reason.s()) == Failure(MaxRetriesExceededError)


def test_a_retry_with_other_arguments(work):
    """A retry can change the arguments"""
    assert work(retrying.change_arguments.s(0)) == Success(2, retries=2)


def test_a_retry_to_another_queue(work):
    """A retry can go to another queue"""
    assert work(retrying.retry_elsewhere.s()) == Success("elsewhere")


def test_a_retry_keeps_id_and_headers(work):
    """A retry keeps id, root and headers"""
    task_id = uuid()
    signature = retrying.tell_after_a_retry.s().set(headers={"tenant": "acme"}, task_id=task_id)
    assert work(signature) == Success([task_id, task_id, "acme"])


def test_a_retry_waits_for_its_countdown(work):
    """A retry waits for its countdown"""
    result = retrying.retry_in_a_while.delay()
    work.until(lambda: result.state == "RETRY")
    work.later(0.5)
    assert work.outcome(result) == Success("later", retries=1)


def test_the_state_of_a_retry(work, celery_results):
    """A retry is stored in the result backend, with its reason"""
    result = retrying.retry_with_reason.delay()
    assert work.outcome(result) == Failure(KeyError)
    # Two processes report them, and the report of the second attempt can arrive first.
    reported = {each.state for each in celery_results.history(result)}
    assert reported == {"RETRY", "FAILURE"}


def test_a_retry_that_does_not_throw(work, log):
    """After `retry(throw=False)` the attempt continues"""
    result = retrying.retry_and_go_on.delay()
    work.until(lambda: "went on" in log)
    work.settle()
    assert log == ["went on"]
    assert result.get(timeout=10) in ("first", "second")


def test_autoretry_for(work, log):
    """`autoretry_for` tries again"""
    assert work(retrying.autoretried.s("x")) == Failure(ValueError, match="x", retries=2)
    assert log == ["x", "x", "x"]


def test_dont_autoretry_for(work, log):
    """`dont_autoretry_for` makes exceptions to it"""
    assert work(retrying.not_autoretried.s()) == Failure(KeyError)
    assert log == ["once"]


def test_retry_kwargs(work, log):
    """`retry_kwargs` limit the automatic retries"""
    assert work(retrying.autoretried_once.s()) == Failure(ValueError, retries=1)
    assert log == ["tried", "tried"]


def test_retry_backoff(work, celery_outbox):
    """`retry_backoff` delays each retry for longer, up to `retry_backoff_max`"""
    retrying.backs_off.delay()
    work.until(lambda: len(celery_outbox) == 2)
    first, second = celery_outbox
    assert 35 < (second.eta - first.sent_at).total_seconds() <= 41


def test_links_after_retries(work, log):
    """Links are called once, after the last attempt"""
    work(retrying.flaky.s().set(link=plain.remember.s("linked")))
    work.settle()
    assert log[3:] == [(2, "linked")]


def test_error_links_after_retries(work, log):
    """Error links are called once, after the last attempt"""
    work(retrying.retry_with_reason.s().set(link_error=failing.new_errback.s()))
    work.settle()
    assert [error for _, _, error, _ in log] == ["KeyError('the reason')"]


def test_a_retry_in_a_chain(work):
    """A chain continues after a retry"""
    assert work(chain(retrying.double_at_last.s(2), plain.add.s(1))) == Success(5)


def test_a_retry_in_a_chord(work):
    """A chord waits for the retries of its header"""
    header = [retrying.double_at_last.s(1), plain.double.s(2)]
    assert work(chord(header, plain.total.s())) == Success(6)

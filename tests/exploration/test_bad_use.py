"""What can't be explored or replayed is said, with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_djcelery.exploration.schedules import Token, name_of

if TYPE_CHECKING:
    from tests.support.project import Run

BAD = """
    import itertools
    import threading

    import pytest
    from hypothesis import given, strategies as st
    from shop.tasks import add, count_orders

    explore = pytest.mark.celery_explore
    numbers = itertools.count()

    @explore
    def test_no_worker(celery_outbox):
        pass

    @explore(duplicates=-1)
    def test_below_zero(celery_inline):
        pass

    @explore(examples=True)
    def test_no_number(celery_inline):
        pass

    @explore(lost="yes")
    def test_no_policy(celery_inline):
        pass

    @explore("orders")
    def test_positional(celery_inline):
        pass

    @explore
    @given(st.integers())
    def test_given(celery_inline, number):
        pass

    @explore
    def test_thread(celery_inline):
        thread = threading.Thread(target=add.delay, args=(1, 2), name="mine")
        thread.start()
        thread.join(5)
        celery_inline.run()

    @explore
    def test_changes(celery_inline):
        add.delay(1, 2)
        add.delay(3, 4)
        celery_inline.step()
        if next(numbers) % 2:
            count_orders.delay()
        celery_inline.run()

    @explore
    def test_fails_once(celery_inline):
        for number in range(3):
            add.delay(number, 1)
        celery_inline.run()
        assert next(numbers) != 5
"""


def test_wrong_use_is_refused_with_what_to_do(run: Run) -> None:
    result = run(BAD)
    result.assert_outcomes(errors=6, failed=3)
    marker = "@pytest.mark.celery_explore"
    result.stdout.fnmatch_lines_random(
        [
            f"E   *UsageError: *test_no_worker: {marker} explores what celery_inline delivers, *",
            f"E   *UsageError: {marker}(duplicates=-1): expected a whole number, 0 or more.",
            f"E   *UsageError: {marker}(examples=True): expected a whole number, 1 or more.",
            f"E   *UsageError: {marker}(lost='yes'): expected 'allow' or 'error'.",
            f"E   *UsageError: {marker}('orders'): expected keyword arguments only, *",
            f"E   *UsageError: *test_given: {marker} and Hypothesis's @given can't be combined*",
            "E   *UsageError: *test_thread: the thread 'mine' has published a message. *",
            "E   *NotReplayableError: *test_changes is not deterministic by itself, * step 2 *",
            "E   *NotReplayableError: *test_fails_once is not deterministic by itself, *",
        ]
    )


TWO = """
    import pytest
    from shop.tasks import add, count_orders

    explore = pytest.mark.celery_explore(examples=3)

    @explore
    def test_one(celery_inline):
        for number in range(3):
            add.delay(number, 1)
        celery_inline.run()

    @explore
    def test_other(celery_inline):
        add.delay(1, 2)
        celery_inline.run()
"""


def test_a_token_that_does_not_fit_is_a_usage_error(run: Run) -> None:
    result = run(TWO, "--djcelery-schedule=nonsense")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*djcelery_schedule = 'nonsense': expected a token *"])
    result = run(TWO, "--djcelery-schedule=000000-ab1")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["ERROR: --djcelery-schedule=000000-ab1 is the schedule of another test*"]
    )
    result = run(TWO, "--djcelery-schedule=000000-ab1", "-n", "2")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["E   *UsageError: --djcelery-schedule=000000-ab1 is the schedule*"]
    )
    fits = Token(name_of("test_it.py::test_one"), (("ab", 1),))
    result = run(TWO, f"--djcelery-schedule={fits}")
    assert result.ret == 4
    ways = ", ".join(["shop.tasks.add"] * 3)
    result.stdout.fnmatch_lines([f"*Exit: --djcelery-schedule={fits} does not fit*step 1 *{ways}."])


def test_without_hypothesis_only_a_test_with_more_schedules_is_refused(run: Run) -> None:
    without = "import sys\n\nsys.modules['hypothesis'] = None\n"
    result = run(TWO, preamble=without)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E   *UsageError: test_it.py::test_one has more schedules than examples=3 *",
            "E   Install it: pip install 'pytest-djcelery[[]hypothesis]'; or let the marker *",
        ]
    )

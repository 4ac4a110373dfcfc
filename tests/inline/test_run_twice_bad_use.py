"""Wrong use of ``djcelery_redeliver`` and its marker: each says what was expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run


def test_a_marker_that_is_used_wrongly_says_what_it_expects(run: Run) -> None:
    result = run(
        """
        import pytest
        from shop.tasks import add

        redeliver = pytest.mark.celery_redeliver

        @redeliver("often")
        def test_value(celery_inline): ...

        @redeliver("error", "report")
        def test_two(celery_inline): ...

        @redeliver(only=[add])
        def test_only(celery_inline): ...

        @redeliver(exempt="shop.tasks.add")
        def test_text(celery_inline): ...

        @redeliver(exempt=add)
        def test_no_list(celery_inline): ...

        @redeliver(exempt=[len])
        def test_no_task(celery_inline): ...

        @redeliver(exempt=["shop.tasks.ad"])
        def test_unknown(celery_inline): ...

        @redeliver
        def test_nothing_runs(): ...

        @redeliver("report")
        def test_a_worker_runs(celery_worker): ...

        @redeliver("off")
        def test_off(): ...

        @redeliver
        class TestWide:
            def test_nothing_runs(self): ...
        """
    )
    result.assert_outcomes(passed=2, errors=9)
    marker, lists = "@pytest.mark.celery_redeliver", "expected a list of tasks, or of their names*"
    result.stdout.fnmatch_lines(
        [
            f"*{marker}('often'): expected one of 'off', 'report', 'error'.",
            f"*{marker}('error', 'report'): expected at most 'off', 'report' or 'error' *",
            f"*{marker}(only=[[]<@task: shop.tasks.add *>]): expected at most *",
            f"*{marker}(exempt='shop.tasks.add'): {lists}",
            f"*{marker}(exempt=<@task: shop.tasks.add *>): {lists}",
            f"*{marker}(exempt=[[]<built-in function len>]): {lists}",
            f"*{marker}(exempt=…): no task 'shop.tasks.ad' is *Did you mean 'shop.tasks.add'?",
            f"*{marker}() runs messages twice *, but in test_nothing_runs nothing runs its tasks.",
            f"*{marker}('report') runs *, but in test_a_worker_runs celery_worker runs its tasks.",
            "*Let the test request celery_inline (or djcelery_mode = inline), or drop the marker.",
        ]
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("redeliver=twice",), "djcelery_redeliver = 'twice': expected one of 'off', 'report', *"),
        (("redeliver-exempt=,",), "djcelery_redeliver_exempt = ',': expected names of tasks, *"),
        (
            ("redeliver=error", "redeliver-exempt=shop.ship"),
            "*djcelery_redeliver_exempt: no task 'shop.ship' is registered here.*",
        ),
    ],
)
def test_an_option_that_is_not_valid_is_named(
    project: Project, run: Run, options: tuple[str, ...], says: str
) -> None:
    result = run("def test_it(celery_inline): ...", *(f"--djcelery-{option}" for option in options))
    assert result.ret != pytest.ExitCode.OK
    (result.stdout if "task 'shop" in says else result.stderr).fnmatch_lines([f"*{says}"])

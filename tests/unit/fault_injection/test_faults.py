"""Each fault of `faults()`, under `celery_inline` in this process."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, signature
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from kombu.exceptions import OperationalError

from pytest_djcelery import BadOptionError, FaultNotFiredError, faults
from pytest_djcelery.session.session import current_sandbox
from tests.unit import inline_project
from tests.unit.fault_injection import gateways, importing
from tests.unit.inline_project import add, app, call, done, end, functions, mail

if TYPE_CHECKING:
    from pytest_djcelery import Faults, Inline

retried: list[int] = []


@app.task(
    name="shop.retried", shared=False, bind=True, autoretry_for=(ConnectionError,),
    retry_backoff=True, retry_jitter=False, max_retries=3,
)  # fmt: skip
def retrying(self: Any, x: int) -> int:
    retried.append(self.request.retries)
    return x


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    with inline_project.session(__file__):
        yield


@pytest.fixture(autouse=True)
def _nothing_called() -> None:
    gateways.calls.clear()
    retried.clear()


@pytest.fixture
def broken(worker: Inline) -> Iterator[Faults]:
    with faults() as found:
        yield found


def calls(function: Callable[[], Any]) -> Any:
    functions["f"] = function
    return call.delay("f")


# fail -----------------------------------------------------------------------------------


def test_a_failure_is_seen_by_autoretry(worker: Inline, broken: Faults) -> None:
    fault = broken.fail(retrying, ConnectionError("away"), times=2)
    result = retrying.delay(7)
    summary = worker.run(until=timedelta(minutes=1))
    assert (summary.retried, summary.succeeded) == (2, 1)
    assert retried == [2]
    assert result.get() == 7
    assert fault.fired == 2
    assert broken.fired == (fault, fault)


def test_a_failure_after_the_body_leaves_what_it_did(worker: Inline, broken: Faults) -> None:
    broken.fail(add, ValueError, when="after")
    add.apply_async((1,), link_error=mail.si("ops"))
    with pytest.raises(ValueError):  # noqa: PT011 - it has no text
        worker.run()
    worker.run()
    assert done == [(1, 0), "ops"]
    add.delay(2)
    assert worker.run().succeeded == 1


def test_one_exception_is_raised_as_new_each_time(worker: Inline, broken: Faults) -> None:
    def depth() -> int:
        worker.run(raise_failures=False)
        return sum(1 for _ in traceback.walk_tb(error.__traceback__))

    error = OSError("away")
    broken.fail(add, error, times=2)
    add.delay(1)
    first = depth()
    add.delay(1)
    assert depth() == first
    # The test has looked at neither: it has asked for them.
    sandbox = current_sandbox()
    assert sandbox is not None
    assert sandbox.unhandled_failures() == []


def test_a_failure_may_last(worker: Inline, broken: Faults) -> None:
    fault = broken.fail("shop.add", ValueError("no"), times=None)
    for _ in range(3):
        add.delay(1)
    assert worker.run(raise_failures=False).failed == 3
    fault.cancel()
    add.delay(1)
    assert worker.run().succeeded == 1
    assert fault.fired == 3


def test_a_signature_means_only_the_runs_of_that_call(worker: Inline, broken: Faults) -> None:
    broken.fail(add.s(1, y=2), ValueError)
    add.delay(1)
    add.delay(1, 2)
    add.delay(x=1, y=2)
    summary = worker.run(raise_failures=False)
    assert [run.state for run in summary.executions] == ["SUCCESS", "FAILURE", "SUCCESS"]


def test_faults_on_one_task_are_used_in_order(worker: Inline, broken: Faults) -> None:
    first = broken.fail(add, ValueError)
    second = broken.duplicate(add)
    third = broken.fail(add, KeyError)
    for number in range(3):
        add.delay(number)
    summary = worker.run(raise_failures=False)
    assert [run.state for run in summary.executions] == ["FAILURE", "SUCCESS", "FAILURE", "SUCCESS"]
    assert done == [(1, 0), (2, 0)]
    assert broken.fired == (first, second, third)


def test_a_direct_call_of_a_task_is_no_run(worker: Inline, broken: Faults) -> None:
    fault = broken.fail(add, ValueError, optional=True)
    assert add(1) == 1
    assert not fault.fired


# stub -----------------------------------------------------------------------------------


def test_a_stub_stands_in_for_the_body(worker: Inline, broken: Faults) -> None:
    stub = broken.stub(add, returns=42)
    result = add.delay(1)
    worker.run()
    assert (result.get(), done) == (42, [])
    assert stub.calls == [add.s(1)]
    with pytest.raises(TypeError, match="argument"):
        add.delay(1, 2, 3)
    stub.cancel()
    add.delay(5)
    worker.run()
    assert done == [(5, 0)]


def test_a_call_that_does_not_fit_fails_when_it_runs(worker: Inline, broken: Faults) -> None:
    stub = broken.stub(end, returns="fine")
    app.send_task("shop.end", ("now", "then"))
    with pytest.raises(TypeError, match="too many positional arguments"):
        worker.run()
    end.delay("now")
    assert worker.run().executions[0].value == "fine"
    assert stub.calls == [end.s("now")]


def test_stubs_take_what_a_mock_takes(worker: Inline, broken: Faults) -> None:
    broken.stub(add, side_effect=lambda x: x * 10)
    broken.stub(mail, side_effect=[ValueError("first"), "second"])
    broken.stub(end, raises=KeyError("gone"))
    results = [add.delay(4), mail.delay("a"), mail.delay("b"), end.delay("x")]
    worker.run(raise_failures=False)
    assert [result.state for result in results] == ["SUCCESS", "FAILURE", "SUCCESS", "FAILURE"]
    assert results[0].get() == 40


def test_a_task_of_another_service_is_stubbed_by_its_name(worker: Inline, broken: Faults) -> None:
    stub = broken.stub("billing.invoice", returns=3)
    billing = signature("billing.invoice", app=app)
    result = chain(add.s(1), billing, add.s(4)).delay()
    worker.run()
    assert result.get() == 7
    assert stub.calls == [signature("billing.invoice", args=(1,), app=app)]
    chord([billing.clone(), add.s(1)], mail.si("all")).delay()
    worker.run()
    assert done[-1] == "all"


def test_a_stubbed_task_is_unknown_again_afterwards(worker: Inline) -> None:
    with faults() as broken:
        broken.stub("billing.invoice")
        app.send_task("billing.invoice", ("anything",), {"goes": 1})
        assert worker.run().succeeded == 1
    assert "billing.invoice" not in app.tasks


# time_out -------------------------------------------------------------------------------


def test_a_soft_limit_is_over_before_the_body(worker: Inline, broken: Faults) -> None:
    broken.time_out(add)
    add.delay(1)
    with pytest.raises(SoftTimeLimitExceeded):
        worker.run()
    assert done == []


def test_a_soft_limit_is_over_in_a_call_which_then_does_not_happen(
    worker: Inline, broken: Faults
) -> None:
    broken.time_out(call, at=gateways.charge)

    def body() -> str:
        try:
            return gateways.charge(5)
        except SoftTimeLimitExceeded:
            return "too slow"

    result = calls(body)
    worker.run()
    assert result.get() == "too slow"
    assert gateways.calls == []


def test_a_hard_limit_ends_the_run_from_outside(worker: Inline, broken: Faults) -> None:
    broken.time_out(add, soft=False)
    result = add.apply_async((1,), link_error=mail.si("ops"))
    summary = worker.run(raise_failures=False)
    assert isinstance(summary.executions[0].exception, TimeLimitExceeded)
    assert (summary.failed, summary.lost, result.state) == (1, 0, "FAILURE")
    assert "ops" in done
    assert (1, 0) not in done


# lose_worker ----------------------------------------------------------------------------


@pytest.mark.parametrize("at", [gateways.charge, importing.charge])
def test_the_worker_is_lost_when_a_function_has_been_called(
    worker: Inline, broken: Faults, at: Any
) -> None:
    broken.lose_worker(call, at=at)
    after: list[str] = []

    def body() -> None:
        importing.charge(1)
        after.append("never")

    calls(body)
    with pytest.raises(WorkerLostError):
        worker.run()
    assert (gateways.calls, after) == ([1], [])
    importing.charge(2)  # outside a run, and in the next one, it is itself
    calls(lambda: gateways.charge(3))
    worker.run()
    assert gateways.calls == [1, 2, 3]


@pytest.mark.parametrize("name", ["charge", "refund", "void"])
@pytest.mark.parametrize("owner", [gateways.Gateway, gateways.gateway], ids=["class", "instance"])
def test_a_method_may_be_the_call(worker: Inline, broken: Faults, owner: Any, name: str) -> None:
    found = vars(gateways.Gateway)[name]
    fault = broken.lose_worker(call, at=getattr(owner, name), host=True)
    ran: list[int] = []

    def body() -> None:
        ran.append(1)
        getattr(gateways.gateway, name)(1)

    calls(body)
    assert worker.run().lost == 1
    assert ran == [1, 1]  # it acknowledges late: delivered again
    assert fault.fired == 1
    fault.cancel()
    assert vars(gateways.Gateway)[name] is found


def test_a_coroutine_may_be_the_call(worker: Inline, broken: Faults) -> None:
    from asgiref.sync import async_to_sync

    broken.lose_worker(call, at=gateways.acharge)
    calls(lambda: async_to_sync(gateways.acharge)(1))
    with pytest.raises(WorkerLostError):
        worker.run()
    assert gateways.calls == [1]


def test_a_task_that_catches_everything_is_lost_all_the_same(
    worker: Inline, broken: Faults
) -> None:
    broken.lose_worker(call, at=gateways.charge)

    def body() -> str:
        try:
            return gateways.charge(1)
        except BaseException:  # noqa: BLE001 - what is tested
            return "fine"

    result = calls(body)
    with pytest.raises(WorkerLostError):
        worker.run()
    assert result.state == "FAILURE"


def test_a_worker_that_is_lost_at_the_end_has_stored_nothing(
    worker: Inline, broken: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "reject_on_worker_lost", True)
    broken.lose_worker(call, at="end")
    ran: list[bool] = []
    result = calls(lambda: ran.append(call.request.delivery_info["redelivered"]))
    summary = worker.run()
    assert ran == [False, True]
    assert (summary.lost, summary.succeeded) == (1, 1)
    assert [run.redelivered for run in summary.executions] == [False, True]
    assert result.state == "SUCCESS"


def test_a_chord_hangs_whose_header_has_lost_its_worker(worker: Inline, broken: Faults) -> None:
    broken.lose_worker(add.s(2), host=True)
    chord([add.s(1), add.s(2)], mail.si("all")).delay()
    summary = worker.run()
    assert (summary.lost, summary.succeeded) == (1, 1)
    assert done == [(1, 0)]


# duplicate ------------------------------------------------------------------------------


def test_a_message_is_delivered_twice(worker: Inline, broken: Faults) -> None:
    fault = broken.duplicate(add)
    add.delay(1)
    add.delay(2)
    summary = worker.run()
    assert [(run.message.args, run.redelivered) for run in summary.executions if run.message] == [
        ((1,), False), ((1,), True), ((2,), False),
    ]  # fmt: skip
    assert fault.fired == 1


def test_a_failed_run_is_not_duplicated(worker: Inline, broken: Faults) -> None:
    broken.duplicate(end, times=None)
    end.delay("fail")
    end.delay("fine")
    assert worker.run(raise_failures=False).failed == 1
    assert done == ["fail", "fine", "fine"]


# broker_down, results_down --------------------------------------------------------------


def test_publishing_fails_while_the_broker_is_down(worker: Inline, broken: Faults) -> None:
    fault = broken.broker_down()
    with pytest.raises(OperationalError, match="Connection refused"):
        add.delay(1)
    add.delay(2)
    worker.run()
    assert done == [(2, 0)]
    assert fault.fired == 1
    with broken.broker_down() as block:
        for options in ({"retry": False}, {"retry_policy": {"max_retries": 50}}):
            with pytest.raises(OperationalError) as raised:
                add.apply_async((3,), **options)
        assert isinstance(raised.value.__cause__, ConnectionRefusedError)
    assert block.fired == 2
    add.delay(4)
    worker.run()
    assert done == [(2, 0), (4, 0)]


def test_a_task_finds_the_broker_down(worker: Inline, broken: Faults) -> None:
    calls(lambda: add.delay(1))
    broken.broker_down()
    with pytest.raises(OperationalError):
        worker.run()


def test_no_state_is_stored_while_the_results_are_down(worker: Inline, broken: Faults) -> None:
    result = add.delay(1)
    with broken.results_down() as fault:
        worker.run(raise_failures=False)
        with pytest.raises(OperationalError, match="result backend is down"):
            _ = result.state
        with pytest.raises(OperationalError):
            result.get()
    assert fault.fired > 2
    assert done == [(1, 0)]
    assert result.state == "PENDING"


def test_one_state_is_not_stored(worker: Inline, broken: Faults) -> None:
    result = add.delay(1)
    broken.results_down(times=1)
    worker.run(raise_failures=False)
    assert result.state == "FAILURE"  # the next one, which says so


# The end --------------------------------------------------------------------------------


def test_a_fault_that_never_fired_is_an_error(worker: Inline) -> None:
    def set_faults() -> None:
        with faults() as broken:
            broken.fail(add.s(2), ValueError)
            broken.lose_worker(end)
            broken.fail(add, ValueError, optional=True)
            broken.fail(end, ValueError).cancel()
            broken.stub(call)
            worker.run(raise_failures=False)

    add.delay(1)
    mail.delay("ada")
    with pytest.raises(FaultNotFiredError) as raised:
        set_faults()
    first, ran, second, instead, remedy = str(raised.value).splitlines()
    of_call = "celery_faults.fail(tests.unit.inline_project.add.s(2), ValueError)"
    assert first.startswith(f"{of_call} never happened, set at tests/unit/fault_injection/test_f")
    assert ran == "shop.add ran once: shop.add(1): FAILURE."
    assert second.startswith("celery_faults.lose_worker(end) never happened, set at ")
    assert instead == (
        "shop.end did not run. What ran: shop.add(1): FAILURE, shop.mail('ada'): SUCCESS."
    )
    assert remedy.startswith("If it need not happen: optional=True")


def test_a_block_that_ends_a_fault_says_so_itself(worker: Inline, broken: Faults) -> None:
    with (
        pytest.raises(FaultNotFiredError, match="Nothing has run since"),
        broken.fail(add, OSError),
    ):
        pass


def test_no_other_error_is_masked(worker: Inline) -> None:
    with pytest.raises(KeyError), faults() as broken, broken.fail(add, OSError):
        raise KeyError
    add.delay(1)
    worker.run()


def test_a_call_that_never_came_is_named(worker: Inline) -> None:
    calls(lambda: None)
    with faults() as broken:
        fault = broken.lose_worker(call, at=gateways.charge)
        worker.run()
        with pytest.raises(FaultNotFiredError) as raised:
            fault.check()
    assert "It happens in a call of gateways.charge by the task" in str(raised.value)
    assert "tests.unit.fault_injection.importing.charge" in str(raised.value)


def test_everything_is_as_it_was(worker: Inline) -> None:
    def use() -> None:
        with faults() as broken:
            broken.fail(add, ValueError)
            broken.lose_worker(call, at=gateways.charge)
            broken.broker_down()
            broken.results_down()
            assert importing.charge is not charge
            _ = 1 / 0

    before = {name: (dict(vars(task)), task.run) for name, task in app.tasks.items()}
    charge = gateways.charge
    with pytest.raises(ZeroDivisionError):
        use()
    assert {name: (dict(vars(task)), task.run) for name, task in app.tasks.items()} == before
    assert gateways.charge is importing.charge is charge
    add.delay(1)
    assert worker.run().succeeded == 1


# Wrong use ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (lambda f: f.fail("shop.ad", OSError), "no task 'shop.ad' .* nearest: shop.add"),
        (lambda f: f.fail(add.s(1) | add.s(2), OSError), "signature of one task"),
        (lambda f: f.fail(3, OSError), "got 3"),
        (lambda f: f.fail(add, OSError, times=0), "times=0"),
        (lambda f: f.fail(add, OSError, times=-1), "times=-1"),
        (lambda f: f.fail(add, OSError, times=True), "times=True"),
        (lambda f: f.fail(add, "no"), "'no' is no exception"),
        (lambda f: f.fail(add, int), "is no exception"),
        (lambda f: f.fail(add, UnicodeDecodeError), "without arguments"),
        (lambda f: f.fail(add, OSError, when="during"), "when='during'. Expected 'before'"),
        (lambda f: f.stub(add, returns=1, raises=OSError), "raises and returns"),
        (lambda f: f.stub(add, side_effect=[1], raises=OSError), "raises and side_effect"),
        (lambda f: f.stub(add, raises=1), "1 is no exception"),
        (lambda f: f.stub(3), "got 3"),
        (lambda f: f.time_out(add, at="end"), "at='end'. Expected 'start'"),
        (lambda f: f.lose_worker(add, at="middle"), "at='middle'. Expected 'start' or 'end', or"),
        (lambda f: f.lose_worker(add, at=lambda: 1), "held by no module"),
        (lambda f: f.lose_worker(add, at=int), "at=<class 'int'>"),
        (lambda f: f.duplicate(add, times=0), "times=0"),
        (lambda f: f.broker_down(times=0), "times=0"),
        (lambda f: f.results_down(times=1.5), "times=1.5"),
    ],
)  # fmt: skip
def test_wrong_use_is_an_error_at_the_call(worker: Inline, use: Any, text: str) -> None:
    with faults() as broken:
        with pytest.raises(BadOptionError, match=text):
            use(broken)
        add.delay(1)
        assert worker.run().succeeded == 1


def test_a_fault_under_eager_mode_is_an_error(worker: Inline) -> None:
    from pytest_djcelery import app as app_changed

    with app_changed(task_always_eager=True), faults() as broken:
        for use in (broken.broker_down, lambda: broken.fail(add, OSError)):
            with pytest.raises(BadOptionError, match="run eagerly"):
                use()


def test_a_batch_is_no_run_of_one_message(broken: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_djcelery.api.faults.is_batch", bool)
    with pytest.raises(BadOptionError, match="takes its messages in batches"):
        broken.fail(add, OSError)

"""Who waits in vain when a worker is lost with a message that it had acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group

from pytest_djcelery import NeverReadyError, Success, faults, results
from tests.unit import inline_project
from tests.unit.inline_project import add, end

if TYPE_CHECKING:
    from pytest_djcelery import Inline

REASON = "its worker was lost after the message had been acknowledged, so no worker gets it again"
LOST = add.s(7)


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    with inline_project.session(__file__):
        yield


@pytest.fixture
def worker() -> Iterator[Inline]:
    with inline_project.worker() as found:
        yield found


def linked() -> Any:
    follows = add.s(1)
    result = follows.freeze()
    add.apply_async((7,), link=follows)
    return result


@pytest.mark.parametrize(
    "send",
    [
        linked,
        lambda: chain(LOST, add.s(1)).delay(),
        lambda: chain(LOST, add.s(1), add.s(2)).delay(),
        lambda: chord([add.s(1), LOST], add.si(2)).delay(),
        lambda: chord([add.s(1), LOST], chain(add.si(2), add.s(3))).delay(),
        lambda: chain(LOST, chord([add.s(1), add.s(2)], add.si(3))).delay(),
    ],
    ids=["link", "chain", "long chain", "chord", "chain as body", "chord in a chain"],
)
def test_what_waits_for_a_lost_task_says_for_which(worker: Inline, send: Callable[[], Any]) -> None:
    with faults() as broken:
        broken.lose_worker(LOST, host=True)
        result = send()
        with pytest.raises(NeverReadyError) as raised:
            result.get()
    [lost] = [sent.id for sent in inline_project.sent() if sent.args == (7,)]
    text = str(raised.value).partition("\n")[0]
    name = f"shop.add(7) [{lost}]"
    assert text == f"{result.id} will never be ready: it waits for {name}, and {REASON}."


def test_a_lost_task_says_so_itself(worker: Inline) -> None:
    with faults() as broken, results() as outcomes:
        broken.lose_worker(add, host=True)
        result = add.delay(7)
        with pytest.raises(NeverReadyError, match="will never be ready: its worker was lost"):
            outcomes[result]


def test_what_is_delivered_again_is_waited_for(worker: Inline) -> None:
    with faults() as broken, results() as outcomes:
        broken.lose_worker(end, host=True)
        result = group([end.s("well"), end.s("fine")]).apply_async()
        assert outcomes[result] == [Success("well"), Success("fine")]

"""Layers over an app's configuration, on both of Celery's sides."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.project.configuration import Configuration, canonical


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("configured", set_as_current=False, fixups=[])
    app.config_from_object(
        SimpleNamespace(CELERY_TASK_ACKS_LATE=True, CELERY_BROKER_URL="memory://one"),
        namespace="CELERY",
    )
    yield app
    app.close()


@pytest.fixture
def configuration(app: Celery) -> Configuration:
    return Configuration(app)


def nothing() -> None:
    """Do nothing, as a task."""


def test_a_layer_wins_over_the_settings_and_leaves_no_trace(
    app: Celery, configuration: Configuration
) -> None:
    before = dict(app.conf.finalize().changes)
    with configuration.override(task_acks_late=False, task_track_started=True):
        assert (app.conf.task_acks_late, app.conf.task_track_started) == (False, True)
    assert (app.conf.task_acks_late, app.conf.task_track_started) == (True, False)
    assert dict(app.conf.changes) == before


def test_what_another_app_publishes_through_stays_open(
    app: Celery, configuration: Configuration
) -> None:
    other = Celery("other", broker="memory://two", set_as_current=False)
    other.send_task("shop.add")
    with configuration.override(broker_url="memory://two"):
        app.send_task("shop.add")
        assert app.pool is other.pool  # kombu has one for an address
    other.send_task("shop.add")
    other.close()


def test_it_is_put_back_after_an_error_too(app: Celery, configuration: Configuration) -> None:
    with pytest.raises(ZeroDivisionError), configuration.override(task_acks_late=False):
        raise ZeroDivisionError
    assert app.conf.task_acks_late is True


@pytest.mark.parametrize(
    "spelling", ["task_always_eager", "CELERY_TASK_ALWAYS_EAGER", "CELERY_ALWAYS_EAGER"]
)
def test_every_spelling_of_a_setting_means_the_same(
    app: Celery, configuration: Configuration, spelling: str
) -> None:
    with configuration.override(**{spelling: True}):
        assert app.conf.task_always_eager is True
    assert app.conf.task_always_eager is False


def test_a_value_set_by_hand_under_another_spelling_is_overridden_and_kept(
    app: Celery, configuration: Configuration
) -> None:
    app.conf["CELERY_TASK_ALWAYS_EAGER"] = True
    with configuration.override(task_always_eager=False):
        assert app.conf.task_always_eager is False
    assert app.conf.task_always_eager is True


def test_an_unknown_setting_is_named_with_what_may_have_been_meant() -> None:
    named = r"no setting 'task_allways_eager'.*'task_always_eager'"
    with pytest.raises(BadOptionError, match=named):
        canonical("task_allways_eager")


@given(st.text())
def test_any_text_is_a_setting_of_celery_or_refused(text: str) -> None:
    from celery.app.defaults import SETTING_KEYS

    try:
        assert canonical(text, namespace="CELERY") in SETTING_KEYS
    except BadOptionError as error:
        assert repr(text) in str(error)  # noqa: PT017 - either outcome is right


values = st.dictionaries(
    st.sampled_from(["task_acks_late", "task_track_started", "task_ignore_result"]), st.booleans()
)


@given(layers=st.lists(values, max_size=5), order=st.randoms(use_true_random=False))
def test_layers_may_go_in_any_order_and_the_last_of_the_rest_counts(
    layers: list[dict[str, bool]], order: random.Random
) -> None:
    app = Celery("shuffled", set_as_current=False, fixups=[])
    app.conf.task_acks_late = True
    configuration = Configuration(app)
    keys = ("task_acks_late", "task_track_started", "task_ignore_result")
    defaults = {key: app.conf[key] for key in keys}
    present = [configuration.push(layer) for layer in layers]
    going = list(present)
    order.shuffle(going)
    for layer in going:
        configuration.remove(layer)
        present.remove(layer)
        expected = defaults | {k: v for each in present for k, v in each.values.items()}
        assert {key: app.conf[key] for key in defaults} == expected
    app.close()


def test_task_attributes_follow_a_setting_and_return(
    app: Celery, configuration: Configuration
) -> None:
    plain = app.task(name="plain", shared=False)(nothing)
    decided = app.task(name="decided", shared=False, acks_late=True)(nothing)
    app.finalize()
    with configuration.override(task_acks_late=False, task_track_started=True):
        assert (plain.acks_late, plain.track_started) == (False, True)
        assert decided.acks_late is True, "its author decided"
    assert (plain.acks_late, plain.track_started) == (True, False)


def test_a_task_bound_inside_a_layer_follows_the_settings_afterwards(
    app: Celery, configuration: Configuration
) -> None:
    app.finalize()
    with configuration.override(task_acks_late=False):
        late = app.task(name="late", shared=False)(nothing)
        assert late.acks_late is False
    assert late.acks_late is True


def test_queues_and_routes_follow_and_the_same_objects_return(
    app: Celery, configuration: Configuration
) -> None:
    amqp, queues = app.amqp, app.amqp.queues
    with configuration.override(task_default_queue="other"):
        assert app.amqp.default_queue.name == "other"
    assert app.amqp is amqp
    assert app.amqp.queues is queues


def test_the_result_backend_follows_and_the_same_object_returns(
    app: Celery, configuration: Configuration
) -> None:
    backend = app.backend
    with configuration.override(result_backend="cache+memory://"):
        assert type(app.backend).__name__ == "CacheBackend"
    assert app.backend is backend


def test_the_connection_pool_follows_the_broker_and_the_same_object_returns(
    app: Celery, configuration: Configuration
) -> None:
    pool = app.pool
    with configuration.override(broker_url="memory://two"):
        assert app.pool is not pool
        assert app.pool.connection.hostname == "two"
        assert app.amqp.producer_pool.connections is app.pool
    assert app.pool is pool


def test_the_time_zone_follows(app: Celery, configuration: Configuration) -> None:
    before = app.timezone
    with configuration.override(timezone="Australia/Tasmania"):
        assert str(app.timezone) == "Australia/Tasmania"
    assert app.timezone is before


def test_what_a_test_sets_on_the_app_by_hand_can_be_undone(
    app: Celery, configuration: Configuration
) -> None:
    before = configuration.snapshot()
    app.conf.task_track_started = True
    app.conf.update(task_default_priority=3)
    configuration.restore(before)
    assert (app.conf.task_track_started, app.conf.task_default_priority) == (False, None)

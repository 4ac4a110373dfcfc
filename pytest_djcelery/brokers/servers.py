"""A broker that does not answer: waits are bounded, and the error names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError

from pytest_djcelery.errors import DjceleryError

if TYPE_CHECKING:
    from celery import Celery

_LONGEST_POLL = 1.2  # seconds; kombu's Redis transport blocks for a second at a time


class BrokerUnreachableError(DjceleryError, OperationalError):
    """A broker that is not the plugin's own did not answer.

    It is the ``OperationalError`` that Celery documents, so code that handles that one still
    does.
    """


class ResultsUnreachableError(DjceleryError, OperationalError):
    """A result backend that is not the plugin's own did not answer."""


def bounds(
    conf: Mapping[str, Any], url: str, options: Mapping[str, Any], timeout: float
) -> dict[str, Any]:
    """Settings that keep a try to reach a real broker, and one more, within ``timeout`` seconds.

    Args:
        conf: the app's configuration.
        url: of the broker.
        options: the transport options in force for that broker.
        timeout: seconds that any wait of the run may last.
    """
    attempt = min(conf["broker_connection_timeout"] or timeout, timeout / 2)
    policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
    if url.startswith(("redis", "valkey")):
        # kombu gives ``broker_connection_timeout`` to AMQP alone.
        # A publish to one that is there and says nothing makes three tries: the second connects.
        answer = max(timeout / 4, _LONGEST_POLL)
        limits = {"socket_connect_timeout": attempt, "socket_timeout": answer}
        options = {**policy, **limits, **options}
    elif url.startswith(("amqp", "pyamqp")):
        # kombu opens a channel by the options of the transport, and not by the policy. Another
        # transport might not know these.
        options = {**policy, **options}
    return {
        "broker_connection_timeout": attempt,
        "broker_transport_options": dict(options),
        "task_publish_retry_policy": policy,
    }


def check_broker(app: Celery) -> None:
    """Connect to the broker that a worker is to read from.

    A worker would go on trying, in a thread that the test only sees as "not ready".

    Raises:
        BrokerUnreachableError: when it does not answer.
    """
    with app.connection_for_read() as connection:
        try:
            # One try for each host: without failover there is no other.
            connection.ensure_connection(
                max_retries=max(len(connection.alt) - 1, 0), interval_start=0, interval_step=0
            )
        except OperationalError as error:
            raise _unreachable(connection, error, "No worker was started.") from error


@contextmanager
def unreachable_broker_explained(app: Celery, task: str) -> Iterator[None]:
    """Name the broker in the error of a message that could not be sent.

    Raises:
        BrokerUnreachableError: in place of what the transport raised.
    """
    try:
        yield
    except DjceleryError:  # which has said it already
        raise
    except Exception as error:
        connection = app.connection_for_write()
        if not isinstance(error, (OperationalError, *connection.recoverable_connection_errors)):
            raise
        raise _unreachable(connection, error, f"{task} was not sent.") from error


def _unreachable(connection: Any, error: Exception, consequence: str) -> BrokerUnreachableError:
    return BrokerUnreachableError(
        f"The broker {connection.as_uri()} does not answer: {error}\n"
        f"{consequence} The run uses that broker because of djcelery_broker "
        "(or --djcelery-broker), or of a setting that the test changed.\n"
        "Start the broker, or use djcelery_broker = memory (the default), which needs none."
    )

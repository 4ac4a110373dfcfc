"""Handles a broker that does not answer: waits for it are limited, and the error names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError

from pytest_djcelery.errors import DjceleryError, is_meant

if TYPE_CHECKING:
    from celery import Celery

_LONGEST_POLL = 1.2  # seconds; kombu's Redis transport blocks for a second at a time


class BrokerUnreachableError(DjceleryError, OperationalError):
    """A real broker, which the run uses instead of the one in memory, did not answer.

    It is also the ``OperationalError`` that Celery documents, so code that handles that error
    handles this one. Its text names the broker, what follows, and why the run uses that broker.
    """


class ResultsUnreachableError(DjceleryError, OperationalError):
    """A real result backend, which the run uses instead of the one in memory, did not answer.

    It is also kombu's ``OperationalError``. Its text names the backend, what follows, and why the
    run uses that backend.
    """


def bounds(
    conf: Mapping[str, Any], url: str, options: Mapping[str, Any], timeout: float
) -> dict[str, Any]:
    """Settings that keep two attempts to reach a real broker within ``timeout`` seconds.

    Args:
        conf: The app's configuration.
        url: The URL of the broker.
        options: The transport options in force for that broker.
        timeout: Seconds that any wait of the run may last.
    """
    attempt = min(conf["broker_connection_timeout"] or timeout, timeout / 2)
    policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
    if url.startswith(("redis", "valkey")):
        # kombu passes ``broker_connection_timeout`` to AMQP only.
        # A publish to a server that accepts connections but never answers makes three attempts,
        # of which the second connects.
        answer = max(timeout / 4, _LONGEST_POLL)
        limits = {"socket_connect_timeout": attempt, "socket_timeout": answer}
        options = {**policy, **limits, **options}
    elif url.startswith(("amqp", "pyamqp")):
        # kombu opens a channel by the transport's options, not by the policy. Other transports
        # might not know these options.
        options = {**policy, **options}
    return {
        "broker_connection_timeout": attempt,
        "broker_transport_options": dict(options),
        "task_publish_retry_policy": policy,
    }


def check_broker(app: Celery) -> None:
    """Connect to the broker that a worker will read from.

    The worker itself would keep trying, in a thread that the test only sees as "not ready".

    Raises:
        BrokerUnreachableError: It does not answer.
    """
    with app.connection_for_read() as connection:
        try:
            # One attempt for each host: without failover there is only one.
            connection.ensure_connection(
                max_retries=max(len(connection.alt) - 1, 0), interval_start=0, interval_step=0
            )
        except OperationalError as error:
            raise _unreachable(connection, error, "No worker was started.") from error


@contextmanager
def unreachable_broker_explained(app: Celery, task: str) -> Iterator[None]:
    """Name the broker in the error of a message that could not be sent.

    Raises:
        BrokerUnreachableError: Instead of the transport's error.
    """
    try:
        yield
    except DjceleryError:  # it already says so
        raise
    except Exception as error:
        if is_meant(error):  # a fault says why
            raise
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

"""How long a broker waits for an acknowledgement, before it delivers a message once more."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final

# Seconds: kombu.transport.redis, .SQS. Other transports have no such limit.
_DEFAULTS: Final = {"redis": 3600, "rediss": 3600, "sentinel": 3600, "sqs": 1800}


def beyond_visibility(
    eta: Any, countdown: Any = None, app: Any = None
) -> tuple[float, float] | None:
    """The seconds until an ETA and the limit of the project's broker, if the ETA is beyond it.

    Args:
        eta: A datetime, or the text of one in a message.
        countdown: Seconds, in place of an ETA.
        app: The app that sends; by default the current one.
    """
    if not eta and not countdown:
        return None
    limit = _limit(app)
    if limit is None:
        return None
    wait = float(countdown) if countdown else _seconds_until(eta)
    return (round(wait), limit) if wait > limit else None


def _seconds_until(eta: Any) -> float:
    moment = datetime.fromisoformat(eta.replace("Z", "+00:00")) if isinstance(eta, str) else eta
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return float((moment - datetime.now(timezone.utc)).total_seconds())


def _limit(app: Any) -> float | None:
    from celery import current_app

    conf = (app or current_app).conf
    url = conf.broker_url
    first = url[0] if isinstance(url, (list, tuple)) and url else url
    transport = conf.broker_transport or str(first or "").partition(":")[0]
    transport = str(transport).partition("+")[0].lower()
    options = conf.broker_transport_options
    given = options.get("visibility_timeout") if isinstance(options, Mapping) else None
    default = _DEFAULTS.get(transport)
    return None if default is None else float(given or default)

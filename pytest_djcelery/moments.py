"""Moments that a test names: aware, and not before now."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone, tzinfo

from pytest_djcelery.errors import BadOptionError

_SEASON = timedelta(days=30)  # shorter than any daylight-saving time


def end_of(until: object, now: datetime) -> datetime:
    """The moment that ``until`` names, in UTC.

    Args:
        until: a moment, or how far from now.
        now: an aware datetime.

    Raises:
        BadOptionError: it has passed, is naive under ``USE_TZ``, or is neither.
    """
    if isinstance(until, timedelta):
        if until < timedelta(0):
            msg = f"{until!r} is negative: the clock of a test only goes forward."
            raise BadOptionError(msg)
        return now + until
    moment = aware(until, "until")
    if moment < now:
        msg = f"until={until} has passed: the clock stands at {now}, and only goes forward."
        raise BadOptionError(msg)
    return moment


def check_distance(delta: object) -> None:
    """Refuse what is no distance for ``advance()`` to go.

    Raises:
        BadOptionError: it is no timedelta.
    """
    if not isinstance(delta, timedelta):
        msg = f"advance({delta!r}): expected a timedelta, such as timedelta(minutes=5)."
        raise BadOptionError(msg)


def aware(moment: object, name: str) -> datetime:
    """A datetime in UTC; a naive one is in Django's time zone where ``USE_TZ`` is off.

    Args:
        moment: the datetime.
        name: the argument that it was given for.

    Raises:
        BadOptionError: it is naive under ``USE_TZ``, or no datetime.
    """
    from django.conf import settings
    from django.utils import timezone as django_timezone

    if not isinstance(moment, datetime):
        msg = f"{name}={moment!r}: expected a timedelta or a datetime."
        raise BadOptionError(msg)
    if moment.tzinfo is not None:
        return moment.astimezone(timezone.utc)
    if settings.USE_TZ:
        msg = (
            f"{name}={moment!r} has no time zone, and USE_TZ is on. "
            "Write django.utils.timezone.make_aware(…), or a timedelta from now."
        )
        raise BadOptionError(msg)
    return django_timezone.make_aware(moment).astimezone(timezone.utc)


def offset_change(zone: tzinfo, start: datetime, end: datetime) -> datetime | None:
    """When a zone's clocks are next put forward or back, to the second.

    Args:
        zone: the time zone.
        start: where to begin, in UTC; a change in this very moment is not seen.
        end: where to stop, in UTC, included.
    """
    while start < end:
        stop = min(start + _SEASON, end)
        before = start.astimezone(zone).utcoffset()
        if stop.astimezone(zone).utcoffset() != before:
            while stop - start > timedelta(seconds=1):
                middle = start + (stop - start) / 2
                if middle.astimezone(zone).utcoffset() == before:
                    start = middle
                else:
                    stop = middle
            return stop.replace(microsecond=0)
        start = stop
    return None


def first_offset_change(zones: Iterable[tzinfo], start: datetime, end: datetime) -> datetime | None:
    """The earliest `offset_change` of several zones."""
    changes = (offset_change(zone, start, end) for zone in zones)
    return min((change for change in changes if change is not None), default=None)

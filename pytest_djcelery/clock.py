"""The clock of a test, which shows real time until it is moved, and then the time it is moved to.

The module also has waits on a clock that no test can move (`Deadline`), and reads the moments that
a test names (`end_of`, `aware`).

time-machine moves the clock for all code of the process; monotonic clocks go on, so that waits end.
If the test itself travels in time, with time-machine or freezegun, the innermost traveller is
moved, since it alone decides which time code sees.
"""

from __future__ import annotations

import datetime as dt
import math
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import BadOptionError, ClockError, django_is_configured

if TYPE_CHECKING:
    import time_machine

_SEASON = dt.timedelta(days=30)  # shorter than any daylight-saving time
# UTC, or a zone with a name, would become the local time of the process as well.
_NO_PLACE = dt.timezone(dt.timedelta(hours=1))


class Clock:
    """The clock of a test.

    ``datetime`` is looked up in its module at each call, since freezegun replaces it there.
    """

    def __init__(self) -> None:
        self._journey: time_machine.travel | None = None
        self._traveller: Any = None

    @property
    def moved(self) -> bool:
        """Whether this clock has been moved, and so stands still."""
        return self._journey is not None

    def now(self) -> dt.datetime:
        """The time that code under test sees, in UTC."""
        return dt.datetime.now(dt.timezone.utc)

    @property
    def traveller(self) -> object:
        """Whatever else moves the time in this test; ``None`` if nothing does."""
        if _frozen():
            return _freezer()
        others = [journey for journey in _journeys() if journey is not self._traveller]
        return others[-1] if others else None

    @contextmanager
    def excursion(self) -> Iterator[None]:
        """Within the ``with``, allow the clock to be moved; then put it back to where it was."""
        moved, before = self.moved, self.now()
        try:
            yield
        finally:
            if self.moved != moved:
                self.put_back()
            elif self.moved or self.traveller is not None:
                self.move_to(before)

    @contextmanager
    def stopped(self, *, at_most: float) -> Iterator[None]:
        """Within the ``with``, have the clock stand still; then it shows the time as before.

        freezegun's clock is left alone.

        Args:
            at_most: Seconds of real time. After that it goes on: code that waits by the clock would
                wait forever.
        """
        if _frozen() or stands_still():
            yield
            return
        import time_machine  # as below

        moment = self.now().astimezone(_NO_PLACE)
        with time_machine.travel(moment, tick=False) as traveller:
            going_on = threading.Timer(at_most, traveller.move_to, (moment,), {"tick": True})
            going_on.daemon = True
            going_on.start()
            try:
                yield
            finally:
                going_on.cancel()
                going_on.join()

    def move_to(self, moment: dt.datetime) -> None:
        """Move the clock to an aware datetime, where it stands still.

        Raises:
            ClockError: Code still sees an earlier time, so a loop from moment to moment would
                never end.
        """
        __tracebackhide__ = True
        self._travel(moment)
        if self.now() < moment:
            # ``time.time`` is a float, which in some decades is coarser than a microsecond.
            step = dt.timedelta(seconds=2 * math.ulp(moment.timestamp()))
            self._travel(moment + step)
        now = self.now()
        if now < moment:
            msg = (
                f"The clock was moved to {moment}, but code still sees {now}: something that can't "
                "be moved holds the time, such as a patched datetime.datetime.\n"
                "Let time-machine or freezegun hold it, which the clock follows."
            )
            raise ClockError(msg)

    def _travel(self, moment: dt.datetime) -> None:
        journeys = _journeys()
        if _frozen():
            _move_freezer(moment)
        elif not journeys:
            import time_machine  # it imports pytest, and a live worker needs neither

            self._journey = time_machine.travel(moment.astimezone(_NO_PLACE), tick=False)
            self._traveller = self._journey.start()
        elif journeys[-1] is self._traveller:
            self._traveller.move_to(moment.astimezone(_NO_PLACE), tick=False)
        else:
            # By a distance: a destination would replace the time zone that the test asked for.
            journeys[-1].shift(moment - self.now())

    def put_back(self) -> None:
        """Return to real time."""
        journey, self._journey, self._traveller = self._journey, None, None
        if journey is not None:
            with suppress(IndexError):  # the test itself has stopped all journeys
                journey.stop()


class Stretch:
    """How far a run moves the clock, measured from the time at which the run began.

    Args:
        clock: The clock to move.
        until: A moment, or how far from now.

    Raises:
        BadOptionError: ``until`` has passed or is naive, or is neither.
    """

    def __init__(self, clock: Clock, until: object) -> None:
        self._clock = clock
        self._at = clock.now()
        self._end = end_of(until, self._at)
        self._moves_on = isinstance(until, dt.timedelta)

    def begin(self) -> None:
        """Stop the clock, so that the time that tasks take does not count."""
        __tracebackhide__ = True
        self._go(self._at)

    def reach(self, moment: dt.datetime) -> bool:
        """Move to a moment if it lies within the stretch, and return whether it does."""
        __tracebackhide__ = True
        if self._moves_on and not stands_still():
            # Another traveller's clock ticks; the time that has passed doesn't count either.
            self._end += max(self._clock.now() - self._at, dt.timedelta(0))
        if moment > self._end:
            return False
        self._go(moment)
        return True

    def _go(self, moment: dt.datetime) -> None:
        __tracebackhide__ = True
        self._clock.move_to(moment)
        self._at = self._clock.now()
        # A float can't represent each microsecond, and back-off adds up from the clock's time.
        self._end += max(self._at - moment, dt.timedelta(0))

    def finish(self) -> None:
        """Move to the end."""
        __tracebackhide__ = True
        self._clock.move_to(max(self._end, self._clock.now()))


class Deadline:
    """A moment ``seconds`` from now, on the monotonic clock.

    freezegun replaces every *module* attribute that is ``time.monotonic``, but no class attribute.

    Raises:
        BadOptionError: ``seconds`` is not a number.
    """

    __slots__ = ("_end", "seconds")
    _clock = staticmethod(time.monotonic)

    def __init__(self, seconds: float) -> None:
        self.seconds = _number(seconds)
        self._end = self._clock() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - self._clock())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.remaining == 0.0


def _number(seconds: object) -> float:
    if isinstance(seconds, int | float):
        return seconds
    msg = f"timeout={seconds!r}: expected seconds, a number."
    raise BadOptionError(msg)


def end_of(until: object, now: dt.datetime) -> dt.datetime:
    """The moment that ``until`` names, in UTC.

    Args:
        until: A moment, or how far from now.
        now: An aware datetime.

    Raises:
        BadOptionError: ``until`` has passed, is naive under ``USE_TZ``, or is neither.
    """
    if isinstance(until, dt.timedelta):
        if until < dt.timedelta(0):
            msg = f"{until!r} is negative: the clock of a test only goes forward."
            raise BadOptionError(msg)
        return now + until
    moment = aware(until, "until")
    if moment < now:
        msg = f"until={until} has passed: the clock is at {now}, and only goes forward."
        raise BadOptionError(msg)
    return moment


def check_distance(delta: object) -> None:
    """Check how far ``advance()`` is to move the clock.

    Raises:
        BadOptionError: ``delta`` is not a timedelta.
    """
    if not isinstance(delta, dt.timedelta):
        msg = f"advance({delta!r}): expected a timedelta, such as timedelta(minutes=5)."
        raise BadOptionError(msg)


def aware(moment: object, name: str) -> dt.datetime:
    """Return a datetime in UTC; a naive one is in Django's time zone if ``USE_TZ`` is off.

    Where Django isn't configured, it is in the machine's, as Python has it.

    Args:
        moment: The datetime.
        name: The name of the argument, for the error.

    Raises:
        BadOptionError: ``moment`` is naive under ``USE_TZ``, or is not a datetime.
    """
    from django.conf import settings
    from django.utils import timezone as django_timezone

    if not isinstance(moment, dt.datetime):
        msg = f"{name}={moment!r}: expected a timedelta or a datetime."
        raise BadOptionError(msg)
    if moment.tzinfo is not None:
        return moment.astimezone(dt.timezone.utc)
    if not django_is_configured():
        return moment.astimezone(dt.timezone.utc)
    if settings.USE_TZ:
        msg = (
            f"{name}={moment!r} has no time zone, and USE_TZ is on. "
            "Write django.utils.timezone.make_aware(…), or a timedelta from now."
        )
        raise BadOptionError(msg)
    return django_timezone.make_aware(moment).astimezone(dt.timezone.utc)


def offset_change(zone: dt.tzinfo, start: dt.datetime, end: dt.datetime) -> dt.datetime | None:
    """When a zone's clocks are next put forward or back, to the second.

    Args:
        zone: The time zone.
        start: Where to begin, in UTC; a change at exactly this moment is not found.
        end: Where to stop, in UTC, included.
    """
    while start < end:
        stop = min(start + _SEASON, end)
        before = start.astimezone(zone).utcoffset()
        if stop.astimezone(zone).utcoffset() != before:
            while stop - start > dt.timedelta(seconds=1):
                middle = start + (stop - start) / 2
                if middle.astimezone(zone).utcoffset() == before:
                    start = middle
                else:
                    stop = middle
            return stop.replace(microsecond=0)
        start = stop
    return None


def first_offset_change(
    zones: Iterable[dt.tzinfo], start: dt.datetime, end: dt.datetime
) -> dt.datetime | None:
    """The earliest `offset_change` of several zones."""
    changes = (offset_change(zone, start, end) for zone in zones)
    return min((change for change in changes if change is not None), default=None)


def stands_still() -> bool:
    """Whether the time that code sees stands still, so that what is sent now has exact times.

    Private API (``_tick`` of time-machine's travellers), checked on time-machine 2.13 to 3.6.
    freezegun doesn't show whether it ticks.
    """
    journeys = [] if _frozen() else _journeys()
    return bool(journeys) and not getattr(journeys[-1], "_tick", True)


_ticks = time.perf_counter  # freezegun replaces the attribute of the module, but not this one
_real_time_offset = time.time() - _ticks()


def real_time_offset() -> float:
    """What to add to ``time.perf_counter()`` for the time of day that no test has moved.

    If something moves the time now, the answer is that of an earlier call.
    """
    global _real_time_offset  # noqa: PLW0603 - it is of the process
    if not (_frozen() or _journeys()):
        _real_time_offset = time.time() - _ticks()
    return _real_time_offset


def _journeys() -> list[Any]:
    """The journeys of time-machine that are under way, the innermost last.

    Private API (the list has another name since 3.0), checked on time-machine 2.13 to 3.6.
    """
    module = sys.modules.get("time_machine")
    if module is None:  # nothing has travelled
        return []
    stack = getattr(module, "traveller_stack", None)
    return list(module.coordinates_stack if stack is None else stack)  # its name before 3.0


def _frozen() -> bool:
    """Whether freezegun decides the time: time-machine can't start inside it."""
    return "freezegun" in sys.modules and dt.datetime.__name__ == "FakeDatetime"


def _freezer() -> Any:
    """The innermost of freezegun's factories. Private API, checked on freezegun 1.2 to 1.5."""
    from freezegun import api

    return api.freeze_factories[-1]


def _move_freezer(moment: dt.datetime) -> None:
    """Have freezegun show an aware datetime.

    Its factories don't include the ``tz_offset`` that it adds to whatever it shows. Private API,
    checked on freezegun 1.2 to 1.5 (1.5 for ``tick=True``, which could not be moved before).
    """
    from freezegun import api

    _freezer().move_to(moment - api.tz_offsets[-1])

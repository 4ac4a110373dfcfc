"""The file and the function that send a message: found once for each way that leads there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Final

from pytest_djcelery import locations
from pytest_djcelery.transactions.hooks import WatchedHook

if TYPE_CHECKING:
    from pytest_djcelery.locations import Location

_HOOK: Final = WatchedHook.__call__.__code__
_UNNAMED: Final = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})
#: A function and its caller, by their code.
Way = tuple[int, int]


def shown_from(root: str) -> Callable[[str], str]:
    """Make a function that shortens the path of a file, so that it is the same on every machine.

    Args:
        root: The root of the project. A file outside of it is named as it can be imported.
    """

    def shown(path: str) -> str:
        found = locations.from_root(path, root)
        if not found.startswith("..") and not os.path.isabs(found):
            return found
        folders = [os.path.join(os.path.abspath(folder), "") for folder in sys.path]
        above = [folder for folder in folders if path.startswith(folder)]
        return path[len(max(above, key=len, default=os.path.join(os.path.dirname(path), ""))) :]

    return cache(shown)


class Places:
    """Finds the file and the function that send, as `locations.of_caller` does.

    Args:
        shorten: Shortens the path of a file.
    """

    def __init__(self, shorten: Callable[[str], str]) -> None:
        self._shorten = shorten
        self._library: set[str] = set()  # files
        # The code is kept, so that no other has its id.
        self._found: dict[Way, tuple[str, CodeType, CodeType]] = {}

    def nearest(self, above: int = 1) -> FrameType | None:
        """The nearest frame that is not a library's, or that of a hook.

        Args:
            above: How many frames are known to be none of these. Each that is looked at costs as
                much as a small object.
        """
        frame: FrameType | None = sys._getframe(above)
        library = self._library
        while frame is not None:
            if frame.f_code.co_filename not in library:
                name = frame.f_code.co_filename
                if frame.f_code is _HOOK or not locations.in_library(name):
                    return frame
                if name != _HOOK.co_filename:
                    library.add(name)
            frame = frame.f_back
        return None

    def of(self, nearest: FrameType | None) -> tuple[str | None, Way | None]:
        """The place, and the way that always leads there if it is found in one step.

        Args:
            nearest: What `nearest` has found.
        """
        if nearest is None or nearest.f_back is None:
            return None, None
        if nearest.f_code is _HOOK:
            return self.shown(nearest.f_locals["self"].location), None
        way = id(nearest.f_code), id(nearest.f_back.f_code)
        if way in self._found:
            return self._found[way][0], way
        sender = locations.frame_of_project(nearest, locations.is_between)
        place = None if sender is None else self._text(sender)
        if place is None or sender is not nearest or nearest.f_code.co_name in _UNNAMED:
            return place, None
        self._found[way] = place, nearest.f_code, nearest.f_back.f_code
        return place, way

    def _text(self, frame: FrameType) -> str:
        path = frame.f_code.co_filename
        # Since Python 3.12 these are not separate functions any more.
        while frame.f_code.co_name in _UNNAMED and frame.f_back is not None:
            if frame.f_back.f_code.co_filename != path:
                break
            frame = frame.f_back
        return f"{self._shorten(path)} in {frame.f_code.co_name}"

    def shown(self, location: Location | None) -> str | None:
        """The place of a location that is known."""
        if location is None:
            return None
        function = location.function.rpartition(".")[2]
        return f"{self._shorten(location.path)} in {function}"

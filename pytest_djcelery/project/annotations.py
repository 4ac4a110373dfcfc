"""What ``task_annotations`` makes of tasks: it follows the setting, and is taken back.

Celery applies the setting once, as a task is bound (`Task.annotate`), and keeps nothing of what was
there before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from pytest_djcelery.project.derived import MISSING, copied_by_bind, renew_built

if TYPE_CHECKING:
    from celery import Celery

SETTING: Final = "task_annotations"


class Annotations:
    """The annotations of an app's tasks, as its settings have them now.

    Private API (``Task.__bound__`` and ``_app``, ``Celery._tasks``), checked on Celery 5.4 to 5.7.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._bound_under: WeakKeyDictionary[type, Any] = WeakKeyDictionary()
        self._found: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()

    @contextmanager
    def kept_current(self, before: Mapping[str, Any]) -> Iterator[None]:
        """Give tasks as they were bound to a block, and annotate them as the settings say after it.

        Args:
            before: the settings that have changed, as they were.
        """
        if not self._app.finalized or not (SETTING in before or (before and self._found)):
            yield
            return
        now = self._app.conf[SETTING]
        kinds = [kind for kind in map(type, self._app._tasks.values()) if self._is_ours(kind)]
        for kind in kinds:
            self._bound_under.setdefault(kind, before.get(SETTING, now))
        self._put_back()
        yield
        try:
            for kind in kinds:
                if self._bound_under[kind] != now:
                    self._annotate(kind)
        finally:
            renew_built(self._app)

    def _is_ours(self, kind: Any) -> bool:
        return bool(kind.__bound__) and kind._app is self._app

    def _put_back(self) -> None:
        while self._found:
            kind, attributes = self._found.popitem()
            for name, value in attributes.items():
                if value is not MISSING:
                    setattr(kind, name, value)
                elif name in vars(kind):
                    delattr(kind, name)

    def _annotate(self, kind: Any) -> None:
        found = dict(vars(kind))
        try:
            self._withdraw(kind)
            kind.annotate()
        finally:
            names = {*found, *vars(kind)}
            before = {name: found.get(name, MISSING) for name in names}
            changed = {
                name: value
                for name, value in before.items()
                if value is not vars(kind).get(name, MISSING)
            }
            if changed:
                self._found[kind] = changed

    def _withdraw(self, kind: Any) -> None:
        """Take away what annotations made of a task as it was bound.

        What the author of the task gave, and an annotation replaced, is nowhere to be found.
        """
        from celery.app.annotations import prepare, resolve_all

        settings = dict(kind.from_config)
        for annotation in resolve_all(prepare(self._bound_under[kind]), kind):
            for key in annotation:
                name = key.removeprefix("@")
                present = vars(kind).get(name, MISSING)
                if present is not MISSING and copied_by_bind(kind, name):
                    delattr(kind, name)
                    if name in settings:
                        setattr(kind, name, self._app.conf[settings[name]])
                elif key.startswith("@") and hasattr(present, "__wrapped__"):
                    setattr(kind, name, present.__wrapped__)

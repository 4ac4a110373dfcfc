"""Finds the project's Celery app, or notices it as soon as the project makes it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import AppNotFoundError, django_is_configured
from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.project.after_import import entered_after_import

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.options import Options


def imported_app(options: Options) -> Celery | None:
    """The project's app, if the project itself has imported it. Imports nothing."""
    if "celery.app.base" not in sys.modules:
        return None
    if options.app:
        return _app_named(options.app, _imported)
    return _current_app()


def _named(path: str, imp: Callable[..., ModuleType]) -> object:
    """What ``celery -A path`` finds, in modules that ``imp`` returns."""
    from celery.app.utils import find_app as celery_find_app

    found: object = celery_find_app(path, imp=imp)
    return found


def _app_named(path: str, imp: Callable[..., ModuleType]) -> Celery | None:
    from celery import Celery

    try:
        found = _named(path, imp)
    except (AttributeError, ImportError, ValueError):
        return None
    return found if isinstance(found, Celery) else None


def _imported(name: str, **_: Any) -> ModuleType:
    """Do as `importlib.import_module`, for a module that is already imported."""
    if name not in sys.modules:
        raise ImportError(name)
    return sys.modules[name]


def check_named_app(options: Options) -> None:
    """Check ``djcelery_app``, without importing the module that it names.

    Raises:
        AppNotFoundError: There is no such module, or it is imported and has no such app.
    """
    __tracebackhide__ = True
    if not options.app or imported_app(options) is not None:
        return
    module, colon, _ = options.app.partition(":")
    # From the outside in: checking whether a module exists imports the packages that contain it.
    places = [module] if colon else [module.rpartition(".")[0], module, f"{module}.celery"]
    if not any(place and place not in sys.modules and _exists(place) for place in places):
        _app_at(options.app)


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError as error:
        # The package that contains it is missing. Any other missing module shows on import.
        return not f"{module}.".startswith(f"{error.name}.")
    except Exception:  # noqa: BLE001 - an error in the containing package also shows on import
        return True


def app_configuration_watched(callback: Callable[[], object]) -> AbstractContextManager[None]:
    """Call ``callback`` whenever an app has read its settings, before it can reach any server.

    This does not import Celery.
    """
    return entered_after_import(
        "celery.app.base", lambda: load_config_watched(lambda _: callback())
    )


@patches(
    "celery.app.base:Celery._load_config",
    why="Every app reads its settings here, and only here; app.on_init is for subclasses to "
    "replace.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def load_config_watched(callback: Callable[[Celery], object]) -> Iterator[None]:
    """Call ``callback`` with each app that has read its settings.

    Wraps ``Celery._load_config``, where every app reads them.

    An app that doesn't exist yet has no signals to connect to, and the hook for new apps
    (`Celery.on_init`) is for subclasses to replace. Checked on Celery 5.4 to 5.7.
    """
    from celery.app.base import Celery  # ``celery`` itself may not be fully imported yet

    load = vars(Celery)["_load_config"]

    def _load_config(self: Celery) -> Any:
        conf = load(self)
        callback(self)
        return conf

    with replaced(Celery, _load_config=_load_config):
        yield


_APP_REMEDY = (
    "Set djcelery_app = proj.celery:app, or import the app in proj/__init__.py as Celery's Django "
    "tutorial does."
)
_SETTINGS_REMEDY = (
    "Name the project's settings in pytest's configuration, for pytest-django: "
    "DJANGO_SETTINGS_MODULE = proj.settings.\n"
    "Without Django, name the app: djcelery_app = proj.tasks:app."
)


def find_app(options: Options) -> Celery:
    """Find the project's Celery app.

    Raises:
        AppNotFoundError: There is none; the text names the places where it was looked for.
    """
    __tracebackhide__ = True
    if options.app:
        return _app_at(options.app)
    settings_module = os.environ.get("DJANGO_SETTINGS_MODULE", "")
    tried = []
    found = _current_app()
    package = settings_module
    while found is None and "." in package:
        package = package.rpartition(".")[0]
        tried.append(package)
        found = app_beside(package)
    if found is None:
        no_package = f"is {settings_module!r}" if settings_module else "is not set"
        beside = (
            " and ".join(repr(name) for name in tried)
            or f"no package: DJANGO_SETTINGS_MODULE {no_package}"
        )
        kind = "Django " if django_is_configured() else ""
        msg = (
            f"No Celery app was found for this {kind}project. Looked in:\n"
            "  1. djcelery_app (ini) and --djcelery-app: not given;\n"
            "  2. the current Celery app: none that was made after "
            "DJANGO_SETTINGS_MODULE was set;\n"
            f"  3. where 'celery -A' would look next to the settings module: {beside}.\n"
            f"{_APP_REMEDY if settings_module else _SETTINGS_REMEDY}"
        )
        raise AppNotFoundError(msg)
    return found


def _current_app() -> Celery | None:
    """The app that ``shared_task`` uses, if Celery's Django fixup is installed on it.

    Private API (``celery._state``, ``Celery._fixups``), checked on Celery 5.4 to 5.7; the
    public ``current_app`` would make a default app where there is none.
    """
    from celery import _state
    from celery.fixups.django import DjangoFixup

    for app in (_state._tls.current_app, _state.default_app):
        if app is not None and any(isinstance(fixup, DjangoFixup) for fixup in app._fixups):
            return app
    return None


@contextmanager
def current_app_set(app: Celery) -> Iterator[None]:
    """Within the ``with``, make an app this thread's current app, for ``shared_task`` and the like.

    It often is already, since that is how it was found; but if there are several apps,
    ``djcelery_app`` may name another. Private API (``celery._state``), checked on Celery 5.4 to
    5.7.
    """
    from celery import _state

    before = _state._tls.current_app
    _state._tls.current_app = app
    try:
        yield
    finally:
        _state._tls.current_app = before


def app_beside(package: str) -> Celery | None:
    """What ``celery -A package`` would find."""
    return _app_named(package, importlib.import_module)


def _apps_in(name: str) -> list[str]:
    """The apps in a module that is imported, as ``djcelery_app`` names them."""
    from celery import Celery

    attributes = getattr(sys.modules.get(name), "__dict__", {})
    return [
        f"{name}:{attribute}"
        for attribute, value in attributes.items()
        if isinstance(value, Celery)
    ]


def _app_at(path: str) -> Celery:
    __tracebackhide__ = True
    from celery import Celery

    try:
        found = _named(path, importlib.import_module)
    except (AttributeError, ImportError, ValueError) as error:
        there = "".join(f"Its module has {app!r}.\n" for app in _apps_in(path.partition(":")[0]))
        msg = (
            f"djcelery_app = {path!r} could not be imported: {type(error).__name__}: {error}\n"
            f"{there}"
            "Expected a module and the name of the app in it, such as 'proj.celery:app', "
            "importable from where pytest runs."
        )
        raise AppNotFoundError(msg) from error
    if not isinstance(found, Celery):
        msg = (
            f"djcelery_app = {path!r} is {found!r}, which is not a Celery app.\n"
            "Expected a module and the name of the app in it, such as 'proj.celery:app'."
        )
        raise AppNotFoundError(msg)
    return found

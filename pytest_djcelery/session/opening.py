"""Opens the sandbox of a test: fixtures and public context managers share the one that is open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from pytest_djcelery import options as options_module
from pytest_djcelery.session.session import Session, current_session

if TYPE_CHECKING:
    from pytest_djcelery.session.sandbox import Sandbox


def entered_sandbox(*, checks: bool = True, **changes: Any) -> AbstractContextManager[Sandbox]:
    """Yield the open sandbox, or open one; each example of Hypothesis's `@given` is clean.

    Args:
        checks: Whether unseen task failures are raised at the end of a sandbox opened here, or of
            an example; for one that a fixture opens, the pytest hooks do that.
        **changes: Replace options of the run, in a sandbox that is opened here.
    """
    session = current_session()
    if session.sandbox is not None and not session.sandbox.awaits_example:
        return session.sandbox.shared_by_block()
    return _opened_sandbox(session, changes, checks=checks)


@contextmanager
def _opened_sandbox(
    session: Session, changes: Mapping[str, Any], *, checks: bool
) -> Iterator[Sandbox]:
    __tracebackhide__ = True
    opening = (
        _new_sandbox(session, changes, of_fixture=not checks)
        if session.sandbox is None
        else session.sandbox.new_example()
    )
    with opening as sandbox:
        yield sandbox
        if checks:
            sandbox.check_failures()


def sandbox_of_test(**changes: Any) -> AbstractContextManager[Sandbox]:
    """Enter the sandbox of a test's fixtures: its own, or that of a block wider than the test.

    Args:
        **changes: Replace options of the run for the test.
    """
    wider = current_session().sandbox
    return (
        entered_sandbox(checks=False, **changes)
        if wider is None
        else wider.options_changed(**changes)
    )


@contextmanager
def _new_sandbox(
    session: Session, changes: Mapping[str, Any], *, of_fixture: bool
) -> Iterator[Sandbox]:
    options = options_module.replace(session.options, **changes) if changes else session.options
    project = session.use_project()
    # This imports Celery, which a run that uses no fixture must not do.
    from pytest_djcelery.session.sandbox import Sandbox, rolled_back_example

    sandbox = Sandbox(
        project,
        options,
        surroundings=session.surroundings,
        captures=session.captures,
        suite=session.suite,
    )
    audit = nullcontext() if session.audit is None else session.audit.paused_for(sandbox)
    project.check_settings()
    with (
        audit,
        session.app_isolated(project),
        rolled_back_example(),
        session.patched(project, stay=of_fixture) as patches,
        sandbox.recording(patches),
        session.sandbox_opened(sandbox),
    ):
        yield sandbox

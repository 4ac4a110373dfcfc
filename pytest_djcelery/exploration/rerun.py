"""Runs a test again within its own report, with function-scoped fixtures that are set up anew.

Wider fixtures stay, as they do from one test to the next. Every step goes through pytest's hooks,
so that other plugins (logs, warnings, random seeds, async tests) see what they see of two tests.

Private API (``_initrequest`` of an item, which pytest has for plugins that rerun tests, its
instance, the storage of its stash, ``_report_sections``, the finalizers of its fixtures, and the
list of errors of a unittest test case), checked on pytest 8.0 to 9.2.
"""

from __future__ import annotations

from typing import Any

import pytest

#: What means that a test has failed; anything else ends the run, or the search.
FAILURES = (Exception, pytest.fail.Exception)
#: What says that there is nothing to test.
SKIPS = (pytest.skip.Exception, pytest.xfail.Exception)
#: What is no outcome of one run.
ENDS = (pytest.exit.Exception, *SKIPS)


class Rerun:
    """The runs of one test.

    Args:
        item: The test, which has been set up.
    """

    def __init__(self, item: Any) -> None:
        self._item = item
        self._noted = dict(item.stash._storage)  # what plugins have noted in the set-up
        self._sections = len(item._report_sections)
        self._properties = len(item.user_properties)
        # A wider fixture keeps a finalizer for each set-up of one that asks for it.
        self._finalizers = [
            (definition._finalizers, len(definition._finalizers))
            for definitions in item._fixtureinfo.name2fixturedefs.values()
            for definition in definitions
            if definition.scope != "function" and definition.cached_result is not None
        ]

    def call(self) -> BaseException | None:
        """Run the test on fixtures that have been set up, and return its error.

        Raises:
            BaseException: The test is skipped, or the run of pytest has to end.
        """
        try:
            self._item.ihook.pytest_runtest_call(item=self._item)
        except ENDS:
            raise
        except FAILURES as error:
            return error
        return kept_error(self._item)

    def tear_down(self) -> BaseException | None:
        """Tear the fixtures of the test down, and return the error of that."""
        item = self._item
        for key, noted in self._noted.items():
            item.stash._storage.setdefault(key, noted)
        try:
            # The chain of nodes above the test stays: as if another test of its class came next.
            item.ihook.pytest_runtest_teardown(item=item, nextitem=item.parent)
        except FAILURES as error:
            return error
        finally:
            for finalizers, count in self._finalizers:
                del finalizers[count:]
        return None

    def set_up(self) -> BaseException | None:
        """Set the fixtures of the test up anew, and return the error of that."""
        item = self._item
        item.stash._storage.clear()
        item.stash._storage.update(self._noted)
        del item._report_sections[self._sections :]
        del item.user_properties[self._properties :]
        item._initrequest()
        for of_instance in ("_instance", "_obj"):  # of the test's class
            item.__dict__.pop(of_instance, None)
        try:
            item.ihook.pytest_runtest_setup(item=item)
        except ENDS:
            raise
        except FAILURES as error:
            return error
        return None


def kept_error(item: Any) -> BaseException | None:
    """The error of a unittest test case, which pytest keeps and doesn't raise.

    Raises:
        BaseException: The test case was skipped.
    """
    kept: list[pytest.ExceptionInfo[BaseException]] = item.__dict__.pop("_excinfo", None) or []
    for info in kept:
        if isinstance(info.value, SKIPS):
            raise info.value
    return kept[0].value if kept else None

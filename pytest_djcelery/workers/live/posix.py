"""What the live worker needs of the operating system. Imports nothing of Celery's."""

from __future__ import annotations

import os
import platform

from pytest_djcelery.errors import WorkerError

_NEEDED = ("fork", "killpg", "register_at_fork", "setsid")


def check_posix() -> None:
    """Refuse to start a live worker where there are no process groups.

    Raises:
        WorkerError: This is Windows.
    """
    missing = [f"os.{name}" for name in _NEEDED if not hasattr(os, name)]
    if missing:
        raise WorkerError(
            f"celery_live_worker needs POSIX (here, on {platform.system()}, there is no "
            f"{missing[0]}): it runs Celery's prefork pool in a group of processes, which Celery "
            "supports on Linux and macOS alone.\n"
            "Use celery_worker or celery_inline, which run everywhere; or skip the test: "
            "@pytest.mark.skipif(sys.platform == 'win32', reason='prefork')."
        )

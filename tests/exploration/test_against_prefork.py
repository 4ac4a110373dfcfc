"""No real worker comes to a state that exploration has not found.

The program is the same under `celery_inline` and a prefork worker over Redis. Its tasks have bodies
of one Redis command, which nothing can divide: what is left to chance is which of them is next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import services

if TYPE_CHECKING:
    from tests.support.project import Project, Run

RUNS = 15
TASKS = """
    from django.conf import settings

    @shared_task
    def note(key, text, *, then=()):
        redis.Redis.from_url(settings.NOTES).append(key, text)
        for later in then:
            note.delay(key, later)
    """
PROGRAM = """
    import json
    import pathlib

    import pytest
    import redis
    from django.conf import settings
    from shop.tasks import note

    client = redis.Redis.from_url(settings.NOTES)
    found = pathlib.Path("found.json")

    def program(key):
        client.delete(key)
        return [note.delay(key, "a", then=["b", "c"]), note.delay(key, "d"), note.delay(key, "e")]

    def state(key):
        return client.getdel(key).decode()
    """
EXPLORED = """
    states = []

    @pytest.mark.celery_explore
    def test_explored(celery_inline):
        program("explored")
        celery_inline.run()
        states.append(state("explored"))

    def test_found():
        assert len(set(states)) == len(states) == 40
        assert states[0] == "adebc"
        found.write_text(json.dumps(states))
    """
REAL = """
    def test_real(celery_live_worker):
        explored = set(json.loads(found.read_text()))
        for number in range({runs}):
            program(f"real-{{number}}")
        celery_live_worker.wait_until_idle(timeout=60)
        ended = [state(f"real-{{number}}") for number in range({runs})]
        assert set(map(len, ended)) == {{5}}
        assert set(ended) <= explored
        with open("ended.txt", "a") as ends:
            ends.write(" ".join(ended) + "\\n")
    """


def test_a_prefork_worker_comes_to_no_other_state(project: Project, run: Run) -> None:
    services.require("redis")
    url = services.url("redis")
    project.settings(f"""
        NOTES = {url!r}
        DATABASES["default"]["TEST"] = {{"NAME": "test.sqlite3"}}
        """)
    path = project.path / "shop/tasks.py"
    path.write_text(path.read_text().replace("from celery", "import redis\nfrom celery", 1))
    project.tasks(TASKS)
    run(EXPLORED, preamble=PROGRAM).assert_outcomes(passed=2)
    for processes in (2, 4):
        result = run(
            REAL.format(runs=RUNS),
            f"--djcelery-broker={url}",
            "-o", f"djcelery_live_concurrency={processes}",
            preamble=PROGRAM,
        )  # fmt: skip
        result.assert_outcomes(passed=1)
    ended = (project.path / "ended.txt").read_text().split()
    assert len(ended) == 2 * RUNS
    assert len(set(ended)) > 1, "one worker process would do: nothing was left to chance"

"""Random programs: on_commit against real commits, and which messages race with a commit.

Each run draws new programs. The header of the run shows the seed; ``DJCELERY_SEED=…``
repeats it, and a program that fails is named by its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.random_programs import seeds
from tests.support import databases

if TYPE_CHECKING:
    from tests.support.project import Project, Run

pytestmark = pytest.mark.usefixtures("unmeasured")

COUNT = 60  # programs for each database: a few seconds

ON_COMMIT = """
    import logging

    import pytest
    from programs import Generator, Interpreter
    from shop.models import Order
    from shop.tasks import add

    from pytest_djcelery import on_commit, outbox

    SEEDS = range({first}, {first} + {count})
    BOTH = ["default", "other"]
    # What Django does by itself is sent in a fixture, and is not meant to be delivered.
    pytestmark = pytest.mark.filterwarnings("ignore::pytest_djcelery.NotDeliveredWarning")

    @pytest.fixture(autouse=True)
    def robust_hooks_log_nothing():
        logging.disable(logging.CRITICAL)
        yield
        logging.disable(logging.NOTSET)

    def interpreted(seed):
        interpreter = Interpreter(
            lambda number: add.delay(number, 0), lambda number: add.delay_on_commit(number, 0)
        )
        interpreter.run(Generator(seed).program())
        return interpreter

    @pytest.fixture(scope="module")
    def logs(django_db_setup, django_db_blocker):
        # What Django does by itself: no fixture of ours is in use.
        with django_db_blocker.unblock():
            found = {{}}
            logging.disable(logging.CRITICAL)
            for seed in SEEDS:
                found[seed] = interpreted(seed).log
                empty()
            logging.disable(logging.NOTSET)
        assert any(kind == "hook" for log in found.values() for kind, *_ in log)
        return found

    def compare(seed, logs, sent, hooks):
        interpreter = interpreted(seed)
        assert interpreter.log == logs[seed], f"program {{seed}}: {{Generator(seed).program()}}"
        assert hooks.pending == []
        assert len(hooks.ran) + len(hooks.discarded) == interpreter.hooks
        published = [each[1] for each in interpreter.log if each[0] == "published"]
        assert [each.args[0] for each in sent if each.args[0] in published] == published

    def empty():
        for alias in BOTH:
            Order.objects.using(alias).all().delete()

    @pytest.mark.django_db(databases=BOTH)
    @pytest.mark.celery_sent_in_transaction("ignore")
    @pytest.mark.parametrize("seed", SEEDS)
    def test_in_rollback(seed, logs, celery_outbox, celery_on_commit):
        compare(seed, logs, celery_outbox, celery_on_commit)

    @pytest.mark.django_db(transaction=True, databases=BOTH)
    @pytest.mark.filterwarnings("ignore::pytest_djcelery.SentInTransactionWarning")
    def test_with_real_transactions(logs):
        for seed in SEEDS:
            with outbox() as sent, on_commit() as hooks:
                compare(seed, logs, sent, hooks)
            empty()
"""

DETECTION = """
    import logging
    import warnings

    import pytest
    from detection import Races
    from programs import Generator
    from shop.models import Order
    from shop.tasks import add

    from pytest_djcelery import SentInTransactionWarning, outbox

    SEEDS = range({first}, {first} + {count})
    BOTH = ["default", "other"]

    @pytest.fixture(autouse=True)
    def robust_hooks_log_nothing():
        logging.disable(logging.CRITICAL)
        yield
        logging.disable(logging.NOTSET)

    def check(seed):
        program = Generator(seed, size=18).program()
        races = Races(lambda number: add.delay(number, 0))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            races.run(program)
        texts = [str(each.message) for each in caught if each.category is SentInTransactionWarning]
        warned = [int(text.partition("(")[2].partition(",")[0]) for text in texts]
        assert races.certain <= {{*warned}}, f"missed, program {{seed}}: {{program}}"
        assert {{*warned}} <= races.certain | races.possible, f"wolf, program {{seed}}: {{program}}"
        assert len({{*warned}}) == len(warned), f"twice, program {{seed}}: {{program}}"
        return len(warned)

    @pytest.mark.django_db(databases=BOTH)
    @pytest.mark.parametrize("seed", SEEDS)
    def test_in_rollback(seed, celery_outbox):
        check(seed)

    @pytest.mark.django_db(transaction=True, databases=BOTH)
    def test_with_real_transactions():
        found = 0
        for seed in SEEDS:
            with outbox():
                found += check(seed)
            for alias in BOTH:
                Order.objects.using(alias).all().delete()
        assert found
"""

DATABASES = (databases.IN_MEMORY, databases.POSTGRESQL, databases.MARIADB)


def prepare(project: Project, database: str) -> None:
    """Two databases of one kind, and the programs."""
    databases.use(project, database, "other")
    here = Path(__file__).parent
    for name in ("programs", "detection"):
        project.write(**{name: (here / f"{name}.py").read_text()})


@pytest.mark.parametrize("database", DATABASES)
def test_hooks_run_as_with_real_commits(run: Run, project: Project, database: str) -> None:
    prepare(project, database)
    result = run(ON_COMMIT.format(first=seeds.first(), count=COUNT), "-q")
    result.assert_outcomes(passed=COUNT + 1)


@pytest.mark.parametrize("database", DATABASES)
def test_messages_that_race_are_found_and_no_others(
    run: Run, project: Project, database: str
) -> None:
    prepare(project, database)
    result = run(DETECTION.format(first=seeds.first(), count=COUNT), "-q")
    result.assert_outcomes(passed=COUNT + 1)

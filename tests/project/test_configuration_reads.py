"""What is remembered of Celery's settings is what Celery would have read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from tests.support.project import Run


def test_remembered_settings_follow_every_change(run: Run) -> None:
    result = run("""
        import random

        import pytest
        from celery.app.utils import Settings
        from celery.utils.collections import ConfigurationView
        from django.conf import settings as django_settings
        from django.test import override_settings

        from pytest_djcelery import app

        KEYS = ("task_acks_late", "task_default_priority", "task_send_sent_event", "broker_url")

        def changes(rng, celery_app, fixture):
            key = rng.choice(KEYS[:3])
            name = f"CELERY_{key.upper()}"
            value = rng.randrange(1000)
            overridden = override_settings(**{name: value})
            layer = app(**{key: value})
            return rng.choice([
                (lambda: setattr(fixture, name, value), None),
                (lambda: setattr(django_settings, name, value),
                 lambda: delattr(django_settings, name)),
                (overridden.enable, overridden.disable),
                (layer.__enter__, lambda: layer.__exit__(None, None, None)),
                (lambda: setattr(celery_app.conf, key, value),
                 lambda: celery_app.conf.changes.pop(key, None)),
                (lambda: celery_app.conf.update({name: value}),
                 lambda: celery_app.conf.changes.pop(name, None)),
            ])

        @pytest.mark.parametrize("seed", range(60))
        def test_it(celery_app, settings, seed):
            rng = random.Random(seed)
            undo = []
            assert vars(Settings)["__getitem__"] is not ConfigurationView.__getitem__
            for _ in range(30):
                if undo and rng.random() < 0.4:
                    undo.pop()()
                else:
                    do, back = changes(rng, celery_app, settings)
                    do()
                    if back is None:
                        undo.clear()  # what lies under it can't be taken away one by one
                    else:
                        undo.append(back)
                for key in KEYS:
                    truth = ConfigurationView.__getitem__(celery_app.conf, key)
                    assert celery_app.conf[key] == getattr(celery_app.conf, key) == truth
                    namespace, _, name = key.partition("_")
                    assert celery_app.conf.find_value_for_key(name, namespace) == truth
                with pytest.raises(AttributeError):
                    celery_app.conf.nothing_of_the_kind

        def test_and_put_back():
            assert "__getitem__" not in vars(Settings)
    """)
    result.assert_outcomes(passed=61)


def test_settings_that_do_not_come_from_django_are_left_alone(run: Run) -> None:
    run("""
        from types import SimpleNamespace

        from celery import Celery
        from celery.app.utils import Settings

        from pytest_djcelery.project.shortcuts.settings_cache import settings_reads_cached

        def test_it():
            source = SimpleNamespace(CELERY_TASK_ACKS_LATE=True)
            other = Celery("other", set_as_current=False, fixups=[])
            other.config_from_object(source, namespace="CELERY")
            with settings_reads_cached(other):
                assert other.conf.task_acks_late is True
                source.CELERY_TASK_ACKS_LATE = False
                assert other.conf.task_acks_late is False
    """).assert_outcomes(passed=1)


def test_what_changes_between_two_tests(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest("""
        import pytest
        from django.conf import settings

        # In the second test one name has gone and another has come: there are as many as before.
        SETTINGS = [
            {"CELERY_TASK_DEFAULT_PRIORITY": 3},
            {"CELERY_TASK_SEND_SENT_EVENT": True},
            {"CELERY_TASK_DEFAULT_PRIORITY": 4},
            {},
        ]

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_protocol(item):
            given = SETTINGS[item.callspec.params["number"]]
            for name, value in given.items():
                setattr(settings, name, value)
            try:
                return (yield)
            finally:
                for name in given:
                    delattr(settings, name)
    """)
    run("""
        import pytest

        PRIORITIES = [3, None, 4, None]

        @pytest.mark.parametrize("number", range(4))
        def test_it(celery_app, settings, number):
            assert celery_app.conf.task_default_priority == PRIORITIES[number]
            assert celery_app.conf.task_send_sent_event is (number == 1)
            if number == 2:  # gone for this test only
                del settings.CELERY_TASK_DEFAULT_PRIORITY
                assert celery_app.conf.task_default_priority is None
                settings.CELERY_TASK_SEND_SENT_EVENT = True
                assert celery_app.conf.task_send_sent_event is True
    """).assert_outcomes(passed=4)

"""Coroutines in tasks: none waits for an event loop that waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run


@pytest.fixture(autouse=True)
def tasks(project: Project) -> None:
    project.ini("djcelery_timeout = 3")
    project.tasks("""
        import asyncio

        from asgiref.sync import async_to_sync

        LOOPS = []


        async def answer():
            await asyncio.sleep(0)
            return await Order.objects.acount()


        @shared_task
        def ask():
            return async_to_sync(answer)()


        @shared_task
        def ask_the_loop_of_the_test():
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), LOOPS[-1]).result()
        """)
    project.write(
        **{
            "proj/urls": """
            from django.http import JsonResponse
            from django.urls import path
            from shop.models import Order
            from shop.tasks import ask


            async def view(request):
                await Order.objects.acreate()
                return JsonResponse({"state": ask.delay().state})


            urlpatterns = [path("", view)]
            """,
        }
    )


@pytest.mark.parametrize("mode", ["marker", "ini"])
def test_async_to_sync_in_an_automatic_mode(run: Run, project: Project, mode: str) -> None:
    marker = ""
    if mode == "ini":
        project.ini("djcelery_mode = inline")
    else:
        marker = "pytest.mark.celery_inline(auto=True), "
    run(f"""
        import asyncio

        import pytest
        from asgiref.sync import async_to_sync, sync_to_async
        from django.test import AsyncClient
        from shop.tasks import ask

        pytestmark = [{marker}pytest.mark.django_db(transaction=True)]

        def test_in_a_coroutine():
            async def body():
                assert ask.delay().state == "SUCCESS"
            asyncio.run(body())
            async_to_sync(body)()

        def test_in_an_async_view(client):
            assert client.get("/").json() == {{"state": "SUCCESS"}}

        def test_in_an_async_view_of_an_async_client():
            async def body():
                assert (await AsyncClient().get("/")).json() == {{"state": "SUCCESS"}}
            asyncio.run(body())

        def test_in_sync_to_async():
            async def body():
                assert (await sync_to_async(ask.delay)()).state == "SUCCESS"
            asyncio.run(body())
    """).assert_outcomes(passed=4)


def test_a_task_that_waits_for_the_loop_of_the_test_is_reported(run: Run) -> None:
    run("""
        import asyncio

        import pytest
        from pytest_djcelery import InlineError
        from shop.tasks import LOOPS, ask_the_loop_of_the_test

        @pytest.mark.celery_inline(auto=True)
        def test_it(celery_inline):
            async def body():
                LOOPS.append(asyncio.get_running_loop())
                with pytest.raises(InlineError, match="(?s)not ended within 3 s.*arun.*ask_"):
                    ask_the_loop_of_the_test.delay()
                await asyncio.sleep(0.1)  # now it goes on
            asyncio.run(body())
    """).assert_outcomes(passed=1)

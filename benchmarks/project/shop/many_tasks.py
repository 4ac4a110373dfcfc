"""As many tasks as a large project has, for the contract of messages."""

import os

from celery import shared_task


def _head(number: int) -> str:
    more = {0: "", 1: ", *, express=False", 2: ", *rest", 3: ", note='', **more"}[number % 4]
    return f"def task_{number}(order_id, text=''{more}): ..."


for _number in range(int(os.environ.get("BENCHMARK_TASKS", "0"))):
    exec(_head(_number))
    shared_task(globals()[f"task_{_number}"])

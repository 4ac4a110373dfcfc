"""Tasks that tell what they know of themselves."""

from __future__ import annotations

from celery import Task, current_app, current_task, shared_task
from celery.worker.request import Request
from shop.contract.log import LOG
from shop.contract.plain import double


@shared_task(bind=True)
def tell_request(self, *args, **kwargs):
    request = self.request
    return {
        "id": request.id,
        "task": request.task,
        "args": list(request.args),
        "kwargs": request.kwargs,
        "is_eager": request.is_eager,
        "called_directly": request.called_directly,
        "retries": request.retries,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "group": request.group,
        "hostname": request.hostname,
        "delivery_info": request.delivery_info,
        "correlation_id": request.correlation_id,
        "timelimit": request.timelimit,
        "expires": request.expires is not None,
        "eta": request.eta is not None,
        "headers": {
            key: value for key, value in (request.headers or {}).items() if key == "tenant"
        },
        "origin": bool(request.origin),
        "priority": request.delivery_info.get("priority"),
        "redelivered": request.delivery_info.get("redelivered"),
        "shadow": getattr(request, "shadow", None),  # eager requests lack some
        "argsrepr": getattr(request, "argsrepr", None),
        "stamps": getattr(request, "stamps", None),
        "callbacks": [each["task"] for each in request.callbacks or ()],
        "errbacks": [each["task"] for each in request.errbacks or ()],
    }


@shared_task(bind=True)
def tell_lineage(self, *_):
    request = self.request
    return [request.id, request.root_id, request.parent_id, request.group]


@shared_task(bind=True)
def tell_chain(self, *_):
    return [each["task"] for each in self.request.chain or ()]


@shared_task
def tell_current():
    return [current_task.name, current_task.request.id, current_app.main]


@shared_task(bind=True)
def call_directly(self):
    return [tell_called_directly(), self.request.called_directly]


@shared_task(bind=True)
def tell_called_directly(self):
    return self.request.called_directly


@shared_task
def publish(x):
    return double.delay(x).id


@shared_task
def publish_three_deep(depth):
    LOG.append(depth)
    if depth:
        publish_three_deep.delay(depth - 1)


class Watched(Request):
    def on_accepted(self, pid, time_accepted):
        LOG.append(f"request of {self.name} accepted")
        return super().on_accepted(pid, time_accepted)


class WithRequest(Task):
    Request = Watched


@shared_task(base=WithRequest)
def watched():
    return "seen"

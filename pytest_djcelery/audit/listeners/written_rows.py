"""Records which rows a transaction writes, by their primary keys and without extra queries.

Saving has a signal. Other writes have none that could be used without side effects (the one for
deletions makes Django fetch the rows first), so `QuerySet.bulk_create` and ``update``, and the
private ``_raw_delete`` and ``DeleteQuery.delete_batch``, in which deletions end, are wrapped by
functions that pass everything on. Checked on Django 4.2, 5.2, 6.0 and 6.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_djcelery.patching import patches, replaced

if TYPE_CHECKING:
    from pytest_djcelery.audit.recorder import Recorder


@contextmanager
def saves_recorded(recorder: Recorder) -> Iterator[None]:
    """Record rows that are saved one by one."""
    from django.db.models.signals import post_save

    def saved(instance: Any, using: str, **_: Any) -> None:
        with recorder.errors_contained():
            recorder.written(type(instance), [instance.pk], using)

    post_save.connect(saved, weak=False, dispatch_uid=recorder)
    try:
        yield
    finally:
        post_save.disconnect(dispatch_uid=recorder)


@patches(
    "django.db.models.query:QuerySet.bulk_create",
    "django.db.models.query:QuerySet.update",
    "django.db.models.query:QuerySet._raw_delete",
    why="They write without a signal.",
    checked_on="Django 4.2, 5.2, 6.0 and 6.1",
)
@contextmanager
def query_sets_recorded(recorder: Recorder) -> Iterator[None]:
    """Record rows that a query set writes."""
    from django.db.models.query import QuerySet

    create, change = vars(QuerySet)["bulk_create"], vars(QuerySet)["update"]
    delete = vars(QuerySet)["_raw_delete"]

    def bulk_create(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        created = create(self, *args, **kwargs)
        with recorder.errors_contained():
            recorder.written(self.model, [row.pk for row in created], self.db)
        return created

    def update(self: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        count = change(self, **kwargs)
        with recorder.errors_contained():
            recorder.written(self.model, _keys(self.query) if count else (), self.db)
        return count

    def _raw_delete(self: Any, using: str) -> Any:
        __tracebackhide__ = True
        count = delete(self, using)
        with recorder.errors_contained():
            recorder.written(self.model, _keys(self.query) if count else (), using)
        return count

    with replaced(QuerySet, bulk_create=bulk_create, update=update, _raw_delete=_raw_delete):
        yield


@patches(
    "django.db.models.sql.subqueries:DeleteQuery.delete_batch",
    why="The keys are known here before post_delete reaches the project.",
    checked_on="Django 4.2, 5.2, 6.0 and 6.1",
)
@contextmanager
def deletions_recorded(recorder: Recorder) -> Iterator[None]:
    """Record rows that are deleted by their keys, before ``post_delete`` reaches the project."""
    from django.db.models.sql.subqueries import DeleteQuery

    delete = vars(DeleteQuery)["delete_batch"]

    def delete_batch(self: Any, pk_list: Any, using: str) -> Any:
        __tracebackhide__ = True
        count = delete(self, pk_list, using)
        with recorder.errors_contained():
            recorder.written(self.model, pk_list if count else (), using)
        return count

    with replaced(DeleteQuery, delete_batch=delete_batch):
        yield


def _keys(query: Any) -> Iterable[Any]:
    """The primary keys that a query names, as ``filter(pk=…)`` and ``pk__in`` do.

    ``where``, its ``children`` and what a lookup compares are private. Each child applies to all
    rows, unless it is one of several alternatives or negated.
    """
    from django.db.models.lookups import Exact, In

    where, key = query.where, query.get_meta().pk
    if where.negated or where.connector != "AND":
        return
    for lookup in where.children:
        if getattr(getattr(lookup, "lhs", None), "target", None) is not key:
            continue
        if isinstance(lookup, Exact):
            yield lookup.rhs
        elif isinstance(lookup, In) and isinstance(lookup.rhs, list | tuple | set | frozenset):
            yield from lookup.rhs


#: Listeners, by the module whose import they wait for.
BY_MODULE: dict[str, Callable[[Recorder], Any]] = {
    "django.db.models.signals": saves_recorded,
    "django.db.models.query": query_sets_recorded,
    "django.db.models.sql.subqueries": deletions_recorded,
}

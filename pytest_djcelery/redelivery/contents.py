"""What a table holds, read before and after a run, and how the two differ, in words.

A table of up to `MOST_ROWS` rows is compared row by row, known by their primary keys. Of a larger
one only the number of its rows is compared, and a checksum over them: reading it all, before and
after each run, would take longer than the test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

MOST_ROWS: Final = 1000
_MOST_SHOWN: Final = 3  # rows that a text shows one by one
_LONGEST: Final = 60  # characters of a value in a text
_FETCHED: Final = 1000  # rows at a time
_LIMITED: Final = ("sqlite", "postgresql", "mysql")  # those that know LIMIT


@dataclass(frozen=True, slots=True)
class Contents:
    """The rows of a table.

    ``rows`` is ``None`` for one that is too large; then ``checksum`` is over all of them, in any
    order.
    """

    columns: tuple[str, ...]
    count: int
    rows: list[tuple[Any, ...]] | None
    checksum: Any = None


class Table:
    """A table, as far as its rows are compared.

    Args:
        connection: Its database.
        name: Its name there.
    """

    def __init__(self, connection: BaseDatabaseWrapper, name: str) -> None:
        self._connection = connection
        self.name = name
        self._model = _model_of(name)
        self.app: str | None = None if self._model is None else self._model._meta.app_label

    def read(self, most: int = MOST_ROWS) -> Contents:
        """Read what it holds now.

        Through a cursor of the driver, so that a test which counts queries does not count these.

        Args:
            most: The number of rows above which they aren't read one by one.
        """
        connection: Any = self._connection
        quoted = connection.ops.quote_name(self.name)
        sql = f"SELECT * FROM {quoted}"  # noqa: S608 - the name is the database's own, and quoted
        limit = f" LIMIT {most + 1}" if connection.vendor in _LIMITED else ""
        with closing(connection.create_cursor()) as cursor:
            cursor.execute(sql + limit)
            columns = tuple(column[0] for column in cursor.description)
            rows = cursor.fetchmany(most + 1)
            if len(rows) <= most:
                return Contents(columns, len(rows), [tuple(row) for row in rows])
            count, checksum = _CHECKSUMS.get(connection.vendor, _streamed)(cursor, quoted)
            return Contents(columns, count, None, checksum)

    def changes(self, before: Contents) -> Iterator[str]:
        """Say how what it holds now differs from what it held."""
        after = self.read(most=0 if before.rows is None else before.count + MOST_ROWS)
        if after.columns != before.columns:
            names = " → ".join(", ".join(held.columns) for held in (before, after))
            yield f"ALTER {self.name}: {names}"
        elif before.rows is None or after.rows is None:
            yield from _changes_of_many(self.name, before, after)
        elif key := self._key(before.columns):
            yield from _changes_by_key(self.name, before, after.rows, key, self._booleans())
        else:
            compared = self._compared(before.columns)
            yield from _changes_without_key(self.name, before.rows, after.rows, compared)

    def _key(self, columns: Sequence[str]) -> tuple[int, ...]:
        """The positions of the columns by which a row is known."""
        if self._model is None:
            with closing(self._connection.create_cursor()) as cursor:
                found: Any = self._connection.introspection.get_primary_key_columns(
                    cursor, self.name
                )
            names = tuple(found or ())
        elif self._model._meta.auto_created:
            return ()  # of a relation: it is known by the two rows that it connects
        else:
            fields = getattr(self._model._meta, "pk_fields", None) or [self._model._meta.pk]
            names = tuple(field.column for field in fields)
        return tuple(map(columns.index, names)) if {*names} <= {*columns} else ()

    def _booleans(self) -> frozenset[str]:
        """The columns of truth values, for which SQLite and MariaDB have numbers."""
        fields = () if self._model is None else self._model._meta.concrete_fields
        return frozenset(
            field.column for field in fields if field.get_internal_type() == "BooleanField"
        )

    def _compared(self, columns: Sequence[str]) -> tuple[int, ...]:
        """The positions of the columns that make up a row without a key."""
        number = None
        if self._model is not None and self._model._meta.auto_created:
            # ``clear()`` and ``add()`` give the same relation another number.
            number = self._model._meta.pk.column
        return tuple(index for index, column in enumerate(columns) if column != number)


def emptied_by_database(table: str) -> Iterator[str]:
    """The tables from which the database itself deletes, once this one loses rows.

    That is ``on_delete=models.DB_CASCADE`` and its like, since Django 6.1.
    """
    model = _model_of(table)
    for relation in () if model is None else model._meta.related_objects:
        if hasattr(relation.on_delete, "on_delete_sql"):
            yield relation.related_model._meta.db_table


def _model_of(table: str) -> Any:
    from django.apps import apps

    for model in apps.get_models(include_auto_created=True):
        if model._meta.db_table == table:
            return model
    return None


def _changes_by_key(
    name: str,
    before: Contents,
    rows: Sequence[tuple[Any, ...]],
    key: Sequence[int],
    booleans: Collection[str],
) -> Iterator[str]:
    def by_key(found: Sequence[tuple[Any, ...]]) -> dict[Any, tuple[Any, ...]]:
        return {tuple(row[index] for index in key): row for row in found}

    old, new = by_key(before.rows or ()), by_key(rows)
    yield from _counted("INSERT", name, len(new.keys() - old.keys()))
    changed = [known for known, row in new.items() if known in old and old[known] != row]
    for known in changed[:_MOST_SHOWN]:
        shown = ", ".join(str(value)[:_LONGEST] for value in known)
        values = ", ".join(
            f"{column} {_shown(value, as_bool=column in booleans)} → "
            f"{_shown(value_now, as_bool=column in booleans)}"
            for column, value, value_now in zip(before.columns, old[known], new[known], strict=True)
            if value != value_now
        )
        yield f"UPDATE {name} {shown if len(key) == 1 else f'({shown})'}: {values}"
    if len(changed) > _MOST_SHOWN:
        yield f"UPDATE {name}: {_rows(len(changed) - _MOST_SHOWN, more='more ')}"
    yield from _counted("DELETE", name, len(old.keys() - new.keys()))


def _changes_without_key(
    name: str,
    before: Sequence[tuple[Any, ...]],
    after: Sequence[tuple[Any, ...]],
    compared: Sequence[int],
) -> Iterator[str]:
    def counted(rows: Sequence[tuple[Any, ...]]) -> Counter[Any]:
        # As text, since PostgreSQL's arrays and documents have no hash.
        return Counter(repr([row[index] for index in compared]) for row in rows)

    old, new = counted(before), counted(after)
    yield from _counted("INSERT", name, (new - old).total())
    yield from _counted("DELETE", name, (old - new).total())


def _changes_of_many(name: str, before: Contents, after: Contents) -> Iterator[str]:
    more = after.count - before.count
    if more:
        what = _rows(abs(more), more="more " if more > 0 else "fewer ")
    elif before.checksum != after.checksum:
        what = "as many rows, with other contents"
    else:
        return
    largest = max(before.count, after.count)
    yield f"{name} ({largest:,} rows, too many to compare one by one): {what}"


def _counted(verb: str, name: str, count: int) -> Iterator[str]:
    if count:
        yield f"{verb} {name}: {_rows(count)}"


def _rows(count: int, *, more: str = "") -> str:
    return f"{count:,} {more}{'row' if count == 1 else 'rows'}"


def _shown(value: object, *, as_bool: bool = False) -> str:
    """A value of a column, as a person would write it."""
    if value is None:
        return "NULL"
    if as_bool:
        return str(bool(value))
    if isinstance(value, str):
        cut = value if len(value) <= _LONGEST else f"{value[: _LONGEST - 1]}…"
        return '"{}"'.format(cut.replace("\n", "\\n"))
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(bytes(value)):,} bytes"
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


# Tables that are too large to be compared by row ---------------------------------------------


def _streamed(cursor: Any, quoted: str) -> tuple[int, Any]:
    """Count the rows and add up their hashes, here in the process."""
    count = checksum = 0
    cursor.execute(f"SELECT * FROM {quoted}")  # noqa: S608 - as above
    while rows := cursor.fetchmany(_FETCHED):
        count += len(rows)
        checksum += sum(hash(repr(row)) for row in rows)
    return count, checksum


def _of_postgresql(cursor: Any, quoted: str) -> tuple[int, Any]:
    cursor.execute(
        f"SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM {quoted} t"  # noqa: S608 - as above
    )
    count, checksum = cursor.fetchone()
    return int(count), checksum


def _of_mysql(cursor: Any, quoted: str) -> tuple[int, Any]:
    cursor.execute(f"SELECT count(*) FROM {quoted}")  # noqa: S608 - as above
    [count] = cursor.fetchone()
    cursor.execute(f"CHECKSUM TABLE {quoted} EXTENDED")
    return int(count), cursor.fetchone()[1]


_CHECKSUMS: Final[dict[str, Callable[[Any, str], tuple[int, Any]]]] = {
    "postgresql": _of_postgresql,
    "mysql": _of_mysql,
}

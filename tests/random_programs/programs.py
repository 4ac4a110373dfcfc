"""Random programs of blocks, hooks, writes and messages, and what runs them.

Copied into inner projects, which import it as `programs`. A program is a list of statements, each
a tuple that begins with its kind, so that one that fails can be read, cut down and run again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Statement = tuple[Any, ...]
Program = list[Statement]
ALIASES = ("default", "other")
DEPTH = 4


class RaisedError(Exception):
    """What a program raises, and nothing else does."""


class Generator:
    """Draws a program, which is the same for the same seed.

    Args:
        seed: of this program.
        size: how many statements it has at most.
    """

    def __init__(self, seed: int, size: int = 14) -> None:
        self._random = random.Random(seed)
        self._left = size
        self._number = 0
        self._several = self._random.random() < 0.35

    def program(self) -> Program:
        """The program: what raises is caught at its top."""
        drawn: Program = []
        while self._left > 0:
            drawn.append(("try", [self._statement(0, ())]))
        return drawn

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _alias(self) -> str:
        return self._random.choice(ALIASES) if self._several else "default"

    def _body(self, depth: int, blocks: tuple[str, ...]) -> Program:
        count = self._random.randint(1, 4)
        return [self._statement(depth, blocks) for _ in range(count) if self._left > 0]

    def _statement(self, depth: int, blocks: tuple[str, ...]) -> Statement:
        self._left -= 1
        simple = [
            (14, lambda: ("write", self._alias(), self._next())),
            (6, lambda: ("touch nothing", self._alias())),
            (10, lambda: ("publish", self._next())),
            (4, lambda: ("publish after the commit", self._next())),
            (4, lambda: ("read", self._alias())),
            (4, lambda: ("raise",)),
            (5, lambda: ("fail to write", self._alias(), self._next())),
        ]
        if blocks:
            innermost = blocks[-1]
            simple.append((4, lambda: ("set rollback", innermost, self._random.random() < 0.8)))
        nested = [
            (16, lambda: self._hook(depth)),
            (26, lambda: self._block(depth, blocks)),
            (6, lambda: ("try", self._body(depth + 1, blocks))),
        ]
        if blocks:
            innermost = blocks[-1]
            nested.append((6, lambda: self._savepoint(depth, blocks, innermost)))
        drawn = simple if depth >= DEPTH else [*simple, *nested]
        [draw] = self._random.choices([each for _, each in drawn], [weight for weight, _ in drawn])
        statement: Statement = draw()
        return statement

    def _hook(self, depth: int) -> Statement:
        body = self._body(depth + 1, ()) if self._random.random() < 0.5 else []
        robust = self._random.random() < 0.25
        return ("on commit", self._alias(), self._next(), robust, body)

    def _block(self, depth: int, blocks: tuple[str, ...]) -> Statement:
        alias = self._alias()
        options = {}
        if self._random.random() < 0.4:
            options["savepoint"] = False
        if self._random.random() < 0.1:
            options["durable"] = True
        return ("block", alias, options, self._body(depth + 1, (*blocks, alias)))

    def _savepoint(self, depth: int, blocks: tuple[str, ...], alias: str) -> Statement:
        rolled_back = self._random.random() < 0.6
        return ("savepoint", alias, rolled_back, self._body(depth + 1, blocks))


class Interpreter:
    """Runs a program, and logs all that the program can see.

    Args:
        publish: sends a message with a number.
        publish_after_commit: sends one by ``delay_on_commit``.
    """

    def __init__(
        self, publish: Callable[[int], object], publish_after_commit: Callable[[int], object]
    ) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.hooks = 0
        self._publish = publish
        self._publish_after_commit = publish_after_commit

    def run(self, program: Program) -> list[tuple[Any, ...]]:
        """Run it, and return what it has logged."""
        self.body(program)
        self.log.append(("at the end", self.rows()))
        return self.log

    def body(self, statements: Program) -> None:
        """Run statements, in a block or a hook."""
        for kind, *operands in statements:
            getattr(self, "do_" + kind.replace(" ", "_"))(*operands)

    def rows(self) -> list[Any]:
        """What each database has, as this connection sees it."""
        from django.db import DatabaseError, transaction
        from shop.models import Order

        found: list[Any] = []
        for alias in ALIASES:
            try:
                names = Order.objects.using(alias).order_by("name", "pk").values_list("name")
                found.append([name for (name,) in names])
            except (DatabaseError, transaction.TransactionManagementError) as error:
                found.append(type(error).__name__)
        return found

    def do_write(self, alias: str, number: int) -> None:
        """A row that no other has."""
        from shop.models import Order

        Order.objects.using(alias).create(name=f"row {number}")

    def do_touch_nothing(self, alias: str) -> None:
        """An UPDATE and a DELETE that match no row."""
        from shop.models import Order

        nobody = Order.objects.using(alias).filter(name="nobody")
        self.log.append(("touched", nobody.update(name="x"), nobody.delete()[0]))

    def do_fail_to_write(self, alias: str, number: int) -> None:
        """Two rows with one key, in two statements: the first stays unless a block takes it."""
        from shop.models import Order

        for _ in range(2):
            order = Order(pk=-number, name=f"key {number}")  # no key that a database draws
            order.save(using=alias, force_insert=True)

    def do_read(self, alias: str) -> None:
        """A query."""
        from shop.models import Order

        self.log.append(("count", Order.objects.using(alias).count()))

    def do_set_rollback(self, alias: str, value: bool) -> None:  # noqa: FBT001 - an operand
        """What a block may do to itself."""
        from django.db import transaction

        transaction.set_rollback(value, using=alias)

    def do_on_commit(self, alias: str, number: int, robust: bool, body: Program) -> None:  # noqa: FBT001
        """Register a hook, which runs its own statements."""
        from django.db import transaction

        def hook() -> None:
            self.log.append(("hook", number, self.rows()))
            self.body(body)
            self.log.append(("hook is done", number))

        self.hooks += 1
        transaction.on_commit(hook, using=alias, robust=robust)
        self.log.append(("registered", number))

    def do_block(self, alias: str, options: dict[str, Any], body: Program) -> None:
        """An atomic block."""
        from django.db import transaction

        with transaction.atomic(using=alias, **options):
            self.body(body)
        self.log.append(("left", alias))

    def do_savepoint(self, alias: str, rolled_back: bool, body: Program) -> None:  # noqa: FBT001
        """A savepoint set by hand."""
        from django.db import transaction

        point = transaction.get_connection(alias).savepoint()
        try:
            self.body(body)
        finally:
            leave = transaction.savepoint_rollback if rolled_back else transaction.savepoint_commit
            leave(point, using=alias)

    def do_publish(self, number: int) -> None:
        """A message that is sent now."""
        self._publish(number)
        self.log.append(("published", number))

    def do_publish_after_the_commit(self, number: int) -> None:
        """One that is sent by ``delay_on_commit``."""
        self.hooks += 1
        self._publish_after_commit(number)

    def do_try(self, body: Program) -> None:
        """Catch whatever statements raise."""
        from django.db import Error, transaction

        try:
            self.body(body)
        except (RaisedError, Error, transaction.TransactionManagementError, RuntimeError) as error:
            self.log.append(("caught", type(error).__name__))

    def do_raise(self) -> None:
        """Fail."""
        raise RaisedError

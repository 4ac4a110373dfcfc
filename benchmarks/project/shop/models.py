"""One table, for the tasks that use the database."""

from django.db import models


class Order(models.Model):
    """An order."""

    name = models.CharField(max_length=50, default="")

    def __str__(self) -> str:
        return self.name

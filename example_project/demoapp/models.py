"""What the tasks work on."""

from django.db import models


class Widget(models.Model):
    """A thing with a name."""

    name = models.CharField(max_length=140)
    archived = models.BooleanField(default=False)

    def __str__(self) -> str:
        return self.name


class Product(models.Model):
    """What the shop sells."""

    name = models.CharField(max_length=140)
    stock = models.IntegerField(default=0)
    announced = models.BooleanField(default=False)

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """What a customer has bought."""

    amount = models.IntegerField()
    paid = models.BooleanField(default=False)
    carrier = models.CharField(max_length=50, blank=True)

    def __str__(self) -> str:
        return f"order {self.pk}"


class AuditEntry(models.Model):
    """How one task ended whose base class is ``AuditedTask``."""

    task = models.CharField(max_length=255)
    task_id = models.CharField(max_length=255)
    state = models.CharField(max_length=50)

    class Meta:
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.task}[{self.task_id}] {self.state}"

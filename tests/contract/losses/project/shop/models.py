from django.db import models


class Row(models.Model):
    case = models.CharField(max_length=200)
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "shop"

# What a customer has bought.

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("demoapp", "0002_product")]

    operations = [
        migrations.CreateModel(
            name="Order",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("amount", models.IntegerField()),
                ("paid", models.BooleanField(default=False)),
                ("carrier", models.CharField(blank=True, max_length=50)),
            ],
        ),
    ]

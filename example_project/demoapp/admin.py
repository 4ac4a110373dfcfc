"""Widgets and the audit in Django's admin, beside the results and the schedule."""

from django.contrib import admin

from demoapp.models import AuditEntry, Widget

admin.site.register(Widget)
admin.site.register(AuditEntry)

"""The input of the views."""

from django import forms
from django.contrib.auth import get_user_model

from demoapp.models import Widget


class SignUpForm(forms.ModelForm):
    """A name that is free and well formed; the address may follow later."""

    class Meta:
        model = get_user_model()
        fields = ("username", "email")


class RenameForm(forms.ModelForm):
    """A new name for a widget."""

    class Meta:
        model = Widget
        fields = ("name",)

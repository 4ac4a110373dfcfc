"""Views that send tasks."""

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError, transaction
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_http_methods

from demoapp.forms import RenameForm, SignUpForm
from demoapp.models import Widget
from demoapp.tasks import rename_widget, send_email

User = get_user_model()


def _page(request: HttpRequest, form: ModelForm, *, status: int = 200) -> HttpResponse:
    return render(request, "demoapp/form.html", {"form": form}, status=status)


@transaction.atomic
def sign_up(data: QueryDict) -> None:
    """Create a user; the mail waits for the commit.

    The row is inserted first, so that the database itself decides whether the name is still
    free, and the form then checks it inside the same transaction. Input that fails takes
    everything back together: the row and the mail.
    """
    user = User.objects.create(username=data.get("username", ""))
    send_email.delay_on_commit(user.pk)
    form = SignUpForm(data, instance=user)
    if not form.is_valid():
        raise ValidationError(form.errors.as_data())
    form.save()


@require_http_methods(["GET", "POST"])
def create_user(request: HttpRequest) -> HttpResponse:
    if request.method == "GET":
        return _page(request, SignUpForm())
    try:
        sign_up(request.POST)
    except (ValidationError, IntegrityError, DataError):
        # Bound to no instance: the form finds that the name is taken, or not well formed.
        return _page(request, SignUpForm(request.POST), status=400)
    return HttpResponse("User created", status=201)


@require_http_methods(["GET", "POST"])
def create_user_pitfall(request: HttpRequest) -> HttpResponse:
    """Create a user, the wrong way: a worker may look for the row before it is committed."""
    form = SignUpForm(request.POST or None)
    if request.method == "GET":
        return _page(request, form)
    if not form.is_valid():
        return _page(request, form, status=400)
    with transaction.atomic():
        user = form.save()
        send_email.delay(user.pk)  # on purpose: tests/test_pitfall.py shows it caught
    return HttpResponse("User created", status=201)


@require_http_methods(["GET", "POST"])
def rename(request: HttpRequest, pk: int) -> HttpResponse:
    """Rename a widget ten seconds from now, which leaves time for second thoughts."""
    widget = get_object_or_404(Widget, pk=pk)
    if request.method == "GET":
        return _page(request, RenameForm(instance=widget))
    form = RenameForm(request.POST)
    if not form.is_valid():
        return _page(request, form, status=400)
    # If no transaction is open, a task sent "on commit" is sent at once.
    rename_widget.apply_async_on_commit(args=(pk, form.cleaned_data["name"]), countdown=10)
    return HttpResponse("Widget will be renamed", status=202)

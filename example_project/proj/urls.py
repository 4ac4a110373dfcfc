"""The addresses of the example project."""

from django.contrib import admin
from django.urls import path

from demoapp import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("users/", views.create_user, name="create-user"),
    path("users/pitfall/", views.create_user_pitfall, name="create-user-pitfall"),
    path("widgets/<int:pk>/rename/", views.rename, name="rename-widget"),
]

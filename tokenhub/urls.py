"""Django's URLs: the admin site and its REST API. Control plane; /v1, /healthz, /readyz and /metrics never get here."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/", permanent=False)),
    path("admin/v1/", include("tokenhub.control.urls")),
    path("admin/", include("signin.urls")),
    path("admin/vault/", include("vault.urls")),
    path("admin/", admin.site.urls),
]

"""Django's URLs: the admin site and its REST API. Control plane; /v1, /healthz, /readyz and /metrics never get here."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from console.health import HealthView, show_health
from console.simulator import show_simulator
from console.simulator_api import SimulateView

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/", permanent=False)),
    path("admin/v1/routing/simulate", SimulateView.as_view(), name="simulate"),
    path("admin/v1/health", HealthView.as_view(), name="health_api"),
    path("admin/v1/", include("tokenhub.control.urls")),
    path("admin/", include("signin.urls")),
    path("admin/vault/", include("vault.urls")),
    path("admin/routing/health/", admin.site.admin_view(show_health), name="health"),
    path("admin/routing/simulator/", admin.site.admin_view(show_simulator), name="simulator"),
    path("admin/", admin.site.urls),
]

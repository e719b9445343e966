"""The routes of the admin API, `/admin/v1`. Control plane; wiring."""

from __future__ import annotations

from threading import Lock
from typing import Any

from django.http import Http404
from django.urls import include, path, re_path
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter

from access.api import AdminTokenViewSet, ApiKeyViewSet, ProjectViewSet, TeamViewSet
from access.group_api import ModelGroupViewSet
from providers.api import EndpointViewSet, ModelViewSet, ProviderViewSet
from routing.api import AliasViewSet
from routing.decision_api import DecisionViewSet
from routing.policy_api import PolicyViewSet
from snapshots.api import PublishView, RevisionViewSet, WorkerViewSet
from tokenhub.control.api import ControlView
from usage.api import PriceViewSet, RequestView, UsageViewSet
from vault.api import AuditViewSet, CredentialViewSet
from vault.vault_api import SealedSecretViewSet, SlotViewSet, VaultViewSet

app_name = "control"

router = SimpleRouter(trailing_slash=False)
router.register("providers", ProviderViewSet)
router.register("endpoints", EndpointViewSet)
router.register("credentials", CredentialViewSet)
router.register("models", ModelViewSet)
router.register("prices", PriceViewSet)
router.register("aliases", AliasViewSet)
router.register("policies", PolicyViewSet)
router.register("decisions", DecisionViewSet)
router.register("model-groups", ModelGroupViewSet)
router.register("teams", TeamViewSet)
router.register("projects", ProjectViewSet)
router.register("api-keys", ApiKeyViewSet)
router.register("admin-tokens", AdminTokenViewSet)
router.register("vault/slots", SlotViewSet)
router.register("vault/secrets", SealedSecretViewSet)
router.register("vault", VaultViewSet, basename="vault")
router.register("audit", AuditViewSet)
router.register("usage", UsageViewSet)
router.register("revisions", RevisionViewSet)
router.register("workers", WorkerViewSet)


class SchemaView(ControlView, SpectacularAPIView):
    """The OpenAPI document."""

    renderer_classes = SpectacularAPIView.renderer_classes
    schema = None
    one_at_a_time = Lock()

    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The document. Its generator keeps what it works on in the views' classes, which all threads share."""
        with self.one_at_a_time:
            return super().get(request, *args, **kwargs)


class DocsView(ControlView, SpectacularSwaggerSplitView):
    """The OpenAPI document in an offline viewer, its script in an answer of its own."""

    renderer_classes = SpectacularSwaggerSplitView.renderer_classes
    url_name = "control:schema"
    schema = None


@extend_schema(exclude=True)
class NothingHere(ControlView):
    """Every other path below `/admin/v1`: a problem, not the admin site's page."""

    def get(self, request: Request, rest: str) -> Response:
        """Raises Http404."""
        raise Http404

    post = put = patch = delete = get


urlpatterns = [
    path("schema", SchemaView.as_view(), name="schema"),
    path("docs", DocsView.as_view(), name="docs"),
    path("requests/<str:request_id>", RequestView.as_view(), name="request"),
    path("snapshot/publish", PublishView.as_view(), name="publish"),
    path("", include(router.urls)),
    re_path(r"^(?P<rest>.*)$", NothingHere.as_view(), name="nothing"),
]

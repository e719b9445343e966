"""What every view of the admin API builds on: who asks, pages of results, errors, and writing by actions. Control plane."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db.models import Model
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django_filters.rest_framework import DjangoFilterBackend
from drf_spectacular.openapi import AutoSchema
from rest_framework import serializers, status
from rest_framework.exceptions import ParseError
from rest_framework.filters import OrderingFilter, SearchFilter
from rest_framework.generics import GenericAPIView
from rest_framework.pagination import PageNumberPagination
from rest_framework.parsers import JSONParser
from rest_framework.permissions import BasePermission
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSetMixin

from tokenhub.control.actors import Actor
from tokenhub.control.callers import actor_of
from tokenhub.control.permissions import Staff, StaffWithPermission
from tokenhub.control.problems import exception_handler


class NumberedPages(PageNumberPagination):
    """`?page=2&page_size=100`: 50 rows a page unless asked, at most 500."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 500


MAX_DEPTH = 64
_TOO_DEEP = f"The body is nested deeper than {MAX_DEPTH} levels."


class BoundedJSONParser(JSONParser):
    """JSON of at most MAX_DEPTH levels: what walks a body later does so by recursion."""

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        """The body's value. Raises ParseError."""
        try:
            value = super().parse(stream, media_type, parser_context)
        except RecursionError:
            # Deeper than the interpreter's own parser goes.
            raise ParseError(_TOO_DEEP) from None
        level = _containers([value])
        for _ in range(MAX_DEPTH):
            if not level:
                return value
            level = _containers(
                inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)
            )
        if level:
            raise ParseError(_TOO_DEEP)
        return value


def _containers(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, dict | list)]


class ControlView(APIView):
    """An endpoint of the admin API. Who may come in by which token or session is in settings.REST_FRAMEWORK."""

    permission_classes: Sequence[type[BasePermission]] = (Staff,)
    renderer_classes = (JSONRenderer,)
    parser_classes = (BoundedJSONParser,)
    throttle_classes = ()
    schema = AutoSchema()

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        """The request as the framework sees it, left on Django's own for `control.typed_secrets`."""
        made: Request = super().initialize_request(request, *args, **kwargs)
        request.tokenhub_parsed = made  # type: ignore[attr-defined]
        return made

    def get_exception_handler(self) -> Any:
        """Errors leave as `application/problem+json`."""
        return exception_handler

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """One request."""
        try:
            return super().dispatch(request, *args, **kwargs)
        finally:
            self._leave_schema()

    def _leave_schema(self) -> None:
        """An action's schema, which lives as long as the process, keeps its last view: and with it what somebody sent."""
        schema = self.schema
        name = "view" if isinstance(schema, type) else "_view"
        if schema is not None and vars(schema).get(name) is self:
            setattr(schema, name, None)

    @property
    def actor(self) -> Actor:
        """Who asks, for actions and the audit trail."""
        return actor_of(self.request)


class ControlViewSet(ViewSetMixin, ControlView, GenericAPIView):
    """Lists and shows rows of `queryset`, filtered by `filterset_fields`, `search` and `ordering`."""

    permission_classes = (StaffWithPermission,)
    filter_backends = (DjangoFilterBackend, SearchFilter, OrderingFilter)
    pagination_class = NumberedPages
    lookup_value_regex = "[0-9]{1,18}"

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One page of rows."""
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.get_paginated_response(self.get_serializer(page, many=True).data)

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One row."""
        return Response(self.get_serializer(self.get_object()).data)

    def checked(
        self, request: Request, serializer: type[serializers.Serializer[Any]], **kwargs: Any
    ) -> dict[str, Any]:
        """The body, as `serializer` validates it. Raises ValidationError with JSON paths."""
        found = serializer(data=request.data, context=self.get_serializer_context(), **kwargs)
        found.is_valid(raise_exception=True)
        return dict(found.validated_data)

    def shown(self, pk: Any, code: int = status.HTTP_200_OK) -> Response:
        """The row as it is now, read afresh with the view's own joins."""
        row = self.get_queryset().get(pk=pk)
        return Response(self.get_serializer(row).data, status=code)


class WritableViewSet(ControlViewSet, ABC):
    """A view set whose writes are actions: subclasses say which."""

    @abstractmethod
    def do_create(self, data: dict[str, Any]) -> Model:
        """Calls the app's action that creates one."""

    @abstractmethod
    def do_update(self, row: Any, data: dict[str, Any]) -> Model:
        """Calls the app's action that changes one; `data` holds the given fields only."""

    @abstractmethod
    def do_delete(self, row: Any) -> None:
        """Calls the app's action that deletes one."""

    def without_parent(self, data: dict[str, Any], row: Any, parent: str) -> dict[str, Any]:
        """`data` without the parent, which a row keeps. Raises ValidationError for another one."""
        given = data.pop(parent, None)
        if given is not None and given.pk != getattr(row, f"{parent}_id"):
            raise serializers.ValidationError(
                {parent: f"Can't be changed. Create another in that {parent} instead."}
            )
        return data

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Creates a row; 201 with it."""
        row = self.do_create(self.checked(request, self.get_serializer_class()))
        return self.shown(row.pk, status.HTTP_201_CREATED)

    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Changes the given fields of a row."""
        row = self.get_object()
        data = self.checked(request, self.get_serializer_class(), instance=row, partial=True)
        return self.shown(self.do_update(row, data).pk)

    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Deletes a row; 204."""
        self.do_delete(self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

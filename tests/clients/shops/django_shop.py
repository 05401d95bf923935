"""The shop of docs/testing.md, in Django: settings, URLs and view."""

from __future__ import annotations

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import path

from sidefx import AuditEvent, SideEffects, after, audit

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="for the test", ROOT_URLCONF=__name__, MIDDLEWARE=[])
    django.setup()

delivered: list[AuditEvent] = []


async def record(event: AuditEvent) -> None:
    """Its sink."""
    delivered.append(event)


fx = SideEffects({"audit": record})


def create_order(request: HttpRequest) -> HttpResponse:
    """Its one view."""
    sku = str(request.POST["sku"])
    after(audit("order.create", target=sku), when="success")
    after(audit("order.refuse", target=sku), when="error")
    return HttpResponse(sku.encode(), status=404 if sku == "coal" else 201)


urlpatterns = [path("orders", create_order)]

"""The project of django_wsgi.py: its settings, its views and its URLs."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from sidefx import after, audit

ALLOWED_HOSTS = ["*"]
SECRET_KEY = "of an example"  # noqa: S105 - of an example
MIDDLEWARE = ["django_middleware.NameTheRoute"]
ROOT_URLCONF = "django_site"


def place_order(request: HttpRequest, order_id: int) -> HttpResponse:
    after(audit("order.place", target=f"order:{order_id}"))
    return HttpResponse("placed")


def stats(request: HttpRequest) -> HttpResponse:
    from django_wsgi import application  # noqa: PLC0415 - it imports these settings

    return HttpResponse(str(application.effects.stats()))


urlpatterns = [path("orders/<int:order_id>", place_order), path("stats", stats)]

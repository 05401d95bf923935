from django.http import HttpRequest
from django.utils.deprecation import MiddlewareMixin


class NameTheRoute(MiddlewareMixin):  # for sidefx.request().route
    def process_view(self, request: HttpRequest, *_: object) -> None:
        request.META["path_template"] = f"/{request.resolver_match.route}"

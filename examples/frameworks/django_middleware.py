from django.http import HttpRequest
from django.utils.deprecation import MiddlewareMixin


class NameTheRoute(MiddlewareMixin):  # for sidefx.request().route
    def process_view(self, request: HttpRequest, *_: object) -> None:
        if hasattr(request, "scope"):  # Django's own test client brings none
            request.scope["path_template"] = f"/{request.resolver_match.route}"

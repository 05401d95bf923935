import os

from django.core.asgi import get_asgi_application

from sidefx.asgi import SideEffectsMiddleware

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_site")
app = SideEffectsMiddleware(get_asgi_application(), config="sidefx.toml")

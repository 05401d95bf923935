import os

from django.core.wsgi import get_wsgi_application

from sidefx.wsgi import SideEffectsMiddleware

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_site")
application = SideEffectsMiddleware(get_wsgi_application(), config="sidefx.toml")

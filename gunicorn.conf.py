"""What `gunicorn _wsgi:app` reads in this folder."""

from segloop.web.gunicorn_conf import *  # noqa: F403

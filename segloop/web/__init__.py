"""HTTP: the routes of Label Studio's ML backend protocol, on Flask."""

from segloop.web.app import create_app

__all__ = ["create_app"]

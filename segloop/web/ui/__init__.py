"""The status page: what Label Studio does not show of versions, retrains and what they are worth."""

from segloop.web.ui.routes import ui

__all__ = ["ui"]

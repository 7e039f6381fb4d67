"""The workshop that tests of jobs on AWS have."""

from __future__ import annotations

from tests.workshop import jobs, quick_shop, settings, shop

__all__ = ["jobs", "quick_shop", "settings", "shop"]

"""The workshop that tests of jobs have."""

from tests.workshop import jobs, quick_shop, settings, shop

__all__ = ["jobs", "quick_shop", "settings", "shop"]

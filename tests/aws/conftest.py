"""The context that tests of jobs on AWS have; every request that they send is held against AWS's documentation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.aws.documented import watched
from tests.job_context import context, jobs, quick_context, settings

__all__ = ["context", "jobs", "quick_context", "settings"]


@pytest.fixture(autouse=True, scope="session")
def _documented() -> Iterator[None]:
    with watched():
        yield

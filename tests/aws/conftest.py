"""The context that tests of jobs on AWS have."""

from __future__ import annotations

from tests.job_context import context, jobs, quick_context, settings

__all__ = ["context", "jobs", "quick_context", "settings"]

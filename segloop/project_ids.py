"""What people are told of segloop's key of a project. It imports nothing: an endpoint's container has little."""

from __future__ import annotations


def project_id(key: str) -> str:
    """The id, as Label Studio shows it to people, of a project's key."""
    return key.partition(".")[0]

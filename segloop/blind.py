"""Blind tasks: those whose pre-labels stay hidden, so that it shows what pre-labels do. A pure choice by chance."""

from __future__ import annotations

import hashlib


def is_blind(project: str, task: object, share: float) -> bool:
    """Whether a task's pre-label is hidden: of a random `share` of the tasks, always the same ones of a project.

    With a larger share, those of a smaller one stay blind. What is no id of a task is not blind.
    """
    if not share or not isinstance(task, int):
        return False
    digest = hashlib.sha256(f"blind/{project}/{task}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64

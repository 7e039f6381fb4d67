"""Data sets that become tasks: where their images are, and under which labels. A real Label Studio is in tests/integration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segloop.exchange.datasets import Example
from segloop.exchange.importing import addresses


def example(name: str) -> Example:
    return Example(name, Path(name), lambda: np.zeros((1, 1), np.uint8))


@pytest.mark.parametrize(
    ("prefix", "address"),
    [
        ("https://host/folder/", "https://host/folder/a%20b/%C3%A9%23%25.jpg"),
        ("s3://bucket/prefix/", "s3://bucket/prefix/a b/é#%.jpg"),
        ("gs://bucket", "gs://bucket/a b/é#%.jpg"),
    ],
)
def test_keys_of_buckets_are_not_escaped(prefix: str, address: str) -> None:
    """Label Studio takes what follows the bucket for the key, as its own syncs write it."""
    assert addresses(prefix)([example("a b/é#%.jpg")]) == [address]

"""The workshop that tests of jobs have, and the real Label Studio that several modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from demo.label_studio import RunningLabelStudio
from segloop.labelstudio import Credentials, LabelStudio
from tests.workshop import jobs, quick_shop, settings, shop

__all__ = ["jobs", "quick_shop", "running", "settings", "shop", "studio"]


@pytest.fixture(scope="session")
def running() -> Iterator[RunningLabelStudio]:
    """A real Label Studio; each test makes a project of its own."""
    with RunningLabelStudio() as label_studio:
        yield label_studio


@pytest.fixture
def studio(running: RunningLabelStudio) -> Iterator[LabelStudio]:
    """A client of it."""
    label_studio = LabelStudio(running.url, Credentials(running.url, SecretStr(running.api_key)))
    yield label_studio
    label_studio.close()

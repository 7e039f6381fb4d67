"""A backend in this process, with a real registry, queue and web application, toy networks and images; and events for it."""

from __future__ import annotations

from typing import Any

from segloop.backend import Backend
from segloop.queue import Jobs
from segloop.registry import open_registry
from segloop.serving import Loader, ServedModels
from segloop.settings import Settings
from segloop.web import create_app
from tests.toys import BRUSH, ToyImages, toy_bundle, toy_loader


class World:
    """A backend over a real registry and queue, with toy networks and images."""

    def __init__(self, settings: Settings, load: Loader = toy_loader) -> None:
        self.settings = settings
        self.registry = open_registry(settings)
        self.images = ToyImages()
        self.jobs = Jobs.open(settings)
        self.models = ServedModels(self.registry, settings, load)
        self.backend = Backend(settings, self.registry, self.models, self.images, lambda: self.jobs)
        self.client = create_app(self.backend, settings).test_client()

    def promote(self, project: str, seed: int = 0) -> str:
        folder, info = toy_bundle(self.settings.data_dir / f"bundle-{project}-{seed}", seed)
        version = self.registry.add(project, folder, info)
        self.registry.promote(project, version, "test")
        return version

    def close(self) -> None:
        self.backend.close()
        self.jobs.close()


def event(action: str, project: str = "29.1795383040", **fields: Any) -> dict[str, Any]:
    """An event as Label Studio sends it to the webhook; the fields are what it is about, such as its annotation."""
    ident = int(project.partition(".")[0])
    return {
        "action": action,
        "project": {"id": ident, "created_at": "2026-11-22T21:30:40.804663Z", "label_config": BRUSH},
        **fields,
    }

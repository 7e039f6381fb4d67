"""A backend in this process: real registry, queue and web application; toy networks and images."""

from __future__ import annotations

from segloop.backend import Backend
from segloop.queue import Jobs
from segloop.registry import open_registry
from segloop.serving import Loader, ServedModels
from segloop.settings import Settings
from segloop.web import create_app
from tests.toys import ToyImages, toy_bundle, toy_loader


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

"""SageMaker endpoints that serve a version: what their container runs, and how they are made and updated."""

from worker.endpoints.deployment import Deployment
from worker.endpoints.requests import Wish

__all__ = ["Deployment", "Wish"]

"""What Dockerfile and docker-compose.yml say, read out of them: commands, probes, environments."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments, continuation lines joined."""
    text = "\n".join(
        line for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines() if not line.lstrip().startswith("#")
    )
    lines = [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def image_command() -> list[str]:
    """CMD of the image."""
    return json.loads(next(rest for name, rest in reversed(dockerfile()) if name == "CMD"))


def image_healthcheck() -> list[str]:
    """The command of the image's HEALTHCHECK."""
    rest = next(rest for name, rest in dockerfile() if name == "HEALTHCHECK")
    return json.loads(rest.partition(" CMD ")[2])


def compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    """docker-compose.yml or what is laid over it, merge keys resolved."""
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def service(name: str) -> dict[str, Any]:
    """A service of docker-compose.yml."""
    return compose()["services"][name]


def manifests(folder: str = "deploy/kubernetes/base") -> list[dict[str, Any]]:
    """Every Kubernetes object of a folder."""
    files = sorted((ROOT / folder).glob("*.yaml"))
    objects = [one for file in files for one in yaml.safe_load_all(file.read_text("utf-8"))]
    return [one for one in objects if one and one["kind"] != "Kustomization"]


def pods() -> dict[str, dict[str, Any]]:
    """The pod spec of every workload, by its name."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in manifests()
        if "template" in one.get("spec", {})
    }

"""This process's environment: what it reads from there, and what it passes to its children."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import SecretStr

from segloop.settings.settings import Settings
from segloop.settings.sources import CHECKED

_log = logging.getLogger(__name__)

#: Where `segloop`, `worker`, `model` and `_wsgi` are.
_ROOT = Path(__file__).resolve().parents[2]
# read by prometheus-client when it is imported
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
#: Memory as a folder, on Linux; containers have 64 MiB of it.
_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder in it is this user's alone
#: What the metrics of many processes may take, in bytes.
_METRICS_BYTES = 16 * 2**20
# what torchrun sets, and what stands for a process alone
_TORCHRUN = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}


def share_cores() -> None:
    """Have the threads of OpenMP sleep, not spin, while they wait for each other. Call it before torch is imported.

    Serving and training share this machine's cores. A thread that spins keeps the one that it waits for from
    running: a training step beside another process took 7 to 9 s, and 1 s with this (alone 0.5 s both ways;
    ResNet-50, 128x96, batch 4, 2 cores).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a child process that is to have the same settings: this process's, and all that were set.

    A child looks for modules nowhere in the current folder: a file there with the name of one of segloop's, such as
    `worker.py`, would be imported in its place.
    """
    variables = dict(os.environ) | {"PYTHONSAFEPATH": "1", CHECKED: "1"}
    if _ROOT.name not in ("site-packages", "dist-packages"):
        # a clone, which need not be installed
        paths = [str(_ROOT), *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))]
        variables["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        variables.pop(name.upper(), None)
        variables[f"SEGLOOP_{name.upper()}"] = (
            ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
        )
    return variables


def update_environ(variables: Mapping[str, str]) -> None:
    """Set these variables in this process's own environment."""
    os.environ.update(variables)


def metrics_folder() -> str | None:
    """The folder in which this server's processes share their metrics (prometheus-client's own variable), if any."""
    return os.environ.get(_METRICS_FOLDER)


def share_metrics(name: str) -> None:
    """Have this process and its children share their metrics in a folder of this name, a server's own; it counts anew.

    The files are mapped into memory, and on a disk that is full the first write to a page of one kills the process. So
    the folder is in memory, else where temporary files are, and never beside the data. Without room there, each process
    answers with its own metrics.
    """
    for place in (_MEMORY, Path(tempfile.gettempdir())):
        try:
            if shutil.disk_usage(place).free < _METRICS_BYTES:
                continue
            own = place / f"segloop-{os.getuid()}"
            own.mkdir(mode=0o700, exist_ok=True)
            if own.is_symlink() or own.lstat().st_uid != os.getuid():
                continue  # somebody else's
            folder = own / f"metrics-{name}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
        except OSError:
            continue
        os.environ[_METRICS_FOLDER] = str(folder)
        return
    os.environ.pop(_METRICS_FOLDER, None)
    _log.warning("There is no room for the metrics that server processes share: each answers with its own.")


def forget_metrics() -> None:
    """Remove the folder of `share_metrics`, at a server's end."""
    if folder := os.environ.pop(_METRICS_FOLDER, None):
        shutil.rmtree(folder, ignore_errors=True)


def trace_exporter() -> Literal["", "otlp", "console"]:
    """Where OpenTelemetry's standard variables want traces to go; "" where they ask for none.

    Source: OpenTelemetry, "Environment Variable Specification". Without OTEL_TRACES_EXPORTER it is an OTLP endpoint that
    asks for traces.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ""
    asked = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if not asked:
        endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        return "otlp" if any(os.environ.get(name) for name in endpoints) else ""
    for name in asked.split(","):
        match name.strip():
            case "otlp" | "console" as known:
                return known
    if asked != "none":
        # the specification wants a value that is not known to be ignored, with a warning
        _log.warning("OTEL_TRACES_EXPORTER is %r: segloop knows otlp, console and none; nothing is traced.", asked)
    return ""


def prefer_stable_span_names() -> None:
    """Have OpenTelemetry's instrumentations use the stable conventions for HTTP, unless their variable says otherwise."""
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")


class Place(NamedTuple):
    """A process among those that torchrun started: its number, its number on this machine, and how many there are."""

    rank: int
    local_rank: int
    world_size: int


def torchrun_place() -> Place:
    """The place that torchrun gave this process; (0, 0, 1) where it was started alone."""
    return Place(*(int(os.environ.get(name, alone)) for name, alone in _TORCHRUN.items()))


def torch_home() -> Path:
    """The folder that torch and torchvision keep downloads in, by torch's own rule; imports no torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser()

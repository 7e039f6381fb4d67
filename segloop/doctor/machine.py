"""Checks of what segloop needs: queue and workers, store, disk, engine, GPU."""

from __future__ import annotations

import shutil
from contextlib import closing
from typing import TYPE_CHECKING, Final

from segloop.doctor.findings import Finding, failure, ok, skipped, warning
from segloop.errors import LabelConfigError, QueueRefusesWrites, QueueUnavailable, RegistryError, SettingsError
from segloop.formats import WEIGHTS_FILE
from segloop.installation import missing_extra
from segloop.label_config import parse_label_config
from segloop.masks.native import library
from segloop.network.voc_classes import zero_shot_channels
from segloop.network.weights import known_classes
from segloop.registry import Registry, VersionInfo, open_registry
from segloop.serving import UNTRAINED
from segloop.serving.engines import has_gpu_driver, on_gpu, pick_engine
from segloop.serving.predict import label_names
from segloop.serving.pretrained import pretrained_state
from segloop.settings import Settings, misspelt_settings

if TYPE_CHECKING:
    from segloop.queue.state import QueueState

_GIB: Final = 2**30
#: A version with its engines takes about half a GiB, and a training run's checkpoints several times that.
_LOW_BYTES: Final = 1 * _GIB
_SCARCE_BYTES: Final = 5 * _GIB
_REDIS_TIMEOUT_S: Final = 2.0


def installation() -> dict[str, Finding]:
    """Whether masks are coded by the compiled codec, and whether this machine can train."""
    found = {"codec": ok("the compiled mask codec is used")}
    if library() is None:
        text = "the mask codec was not compiled when segloop was installed: NumPy does its work several times slower"
        fix = "install a C compiler (Debian: apt-get install gcc libc6-dev), then install segloop again"
        found["codec"] = warning(text, fix)
    if sentence := missing_extra("worker"):
        found["worker-extra"] = skipped(f"{sentence} Workers of other machines with this queue can do it.")
    return found


def names() -> Finding:
    """Whether what looks like a setting is one."""
    slips = misspelt_settings()
    if slips:
        return warning(" ".join(slips), "correct the names; docs/settings.md lists every setting")
    return ok("every variable and line of .env that looks like a setting is one")


def queue(settings: Settings) -> Finding | dict[str, Finding]:
    """Whether Redis answers and keeps its keys, and whether every queue has a worker."""
    from segloop.queue import Jobs
    from segloop.queue.state import queue_state

    try:
        with closing(Jobs.open(settings, timeout_s=_REDIS_TIMEOUT_S)) as jobs:
            state = queue_state(jobs)
    except QueueRefusesWrites as error:
        return failure(error.cause, error.fix)
    except QueueUnavailable as error:
        fix = (
            "start that Redis, or correct REDIS_URL"
            if settings.redis_url
            else "start segloop up, which runs a queue of its own; or set REDIS_URL to the queue that segloop uses"
        )
        return failure(str(error), fix)
    return {"redis": redis(state), "workers": workers(state)}


def redis(state: QueueState) -> Finding:
    """Whether Redis would drop jobs when its memory is full."""
    if state.evicts:
        text = (
            f"Redis answers, but drops keys when its memory is full (maxmemory-policy {state.evicts}): jobs may vanish"
        )
        return warning(text, "set maxmemory-policy to noeviction in Redis")
    return ok("Redis answers")


def workers(state: QueueState) -> Finding:
    """Whether somebody works on each queue."""
    idle = [name for name, names in state.workers.items() if not names]
    if idle:
        waiting = sum(state.waiting.get(name, 0) for name in idle)
        text = f"no worker listens to {' and '.join(idle)}" + (f", where {waiting} jobs wait" if waiting else "")
        return failure(text, "start segloop up, or segloop worker on a machine with the same REDIS_URL")
    counts = ", ".join(f"{name}: {len(names)}" for name, names in state.workers.items())
    return ok(counts)


def store(settings: Settings) -> Finding:
    """Whether the store of versions can be read and written."""
    try:
        registry = open_registry(settings)
        known = registry.projects()
        registry.check_writable()
    except (RegistryError, SettingsError) as error:
        fix = "see that the bucket exists and that this machine's AWS credentials may read and write it"
        if not settings.store_url.startswith("s3://"):
            fix = "see who owns that folder, and that its disk is not full"
        return failure(str(error), fix)
    return ok(f"{settings.store_url}, {len(known)} projects")


def disk(settings: Settings) -> Finding:
    """Whether there is room for another version."""
    folder = settings.data_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    return disk_space(str(settings.data_dir), shutil.disk_usage(folder).free)


def disk_space(folder: str, free: int) -> Finding:
    """What `free` bytes on the disk of the data folder mean."""
    text = f"{free / _GIB:.1f} GiB are free on the disk of {folder}"
    fix = "make room there (segloop versions prune), lower SEGLOOP_IMAGE_CACHE_BYTES, or move SEGLOOP_DATA_DIR"
    if free < _LOW_BYTES:
        return failure(f"{text}: a training will fail", fix)
    if free < _SCARCE_BYTES:
        return warning(text, fix)
    return ok(text)


def gpu(settings: Settings) -> Finding:
    """Whether the network runs where the settings want it."""
    try:
        used = on_gpu(settings)
    except SettingsError as error:
        return failure(str(error), "install NVIDIA's driver and a torch for it, or set SEGLOOP_DEVICE=auto")
    if used:
        return ok("the network runs on a GPU")
    if settings.device == "auto" and has_gpu_driver():
        text = "there is a GPU, but torch does not see it: the network runs on the CPU"
        return warning(text, "install a torch for this machine's CUDA, or set SEGLOOP_DEVICE=cpu")
    return ok("the network runs on the CPU" + ("" if settings.device == "cpu" else "; there is no GPU here"))


def engine(settings: Settings, registry: Registry, key: str, config: str, answers: str) -> Finding:
    """What serves a project and why, and whether its files are whole. `answers` is the version that the server gave."""
    champion = registry.champion(key)
    if champion is None:
        return untrained(settings, config, answers)
    info = registry.get(key, champion.version)
    if settings.endpoint:
        return ok(f"{info.version} runs on the SageMaker endpoint {settings.endpoint}")
    name = pick_engine(settings, info.engines)
    try:
        exported = [f"{name}.xml", f"{name}.bin"]
        registry.bundle(key, info.version, exported if info.files.keys() >= set(exported) else [WEIGHTS_FILE])
    except RegistryError as error:
        fix = "serve the version before it: segloop versions rollback; or train again"
        return failure(f"{info.version} cannot be served: {error}", fix)
    return chosen(settings, info, name)


def chosen(settings: Settings, info: VersionInfo, name: str) -> Finding:
    """Whether the engine that was picked is the one that was wanted."""
    figures, error = info.engines.figures(), info.engines.error
    reason = figures[name].reason if name in figures else ""
    text = f"{info.version} runs on {name}" + (f": {reason}" if reason else "")
    if error and name == "torch" and settings.engine != "torch":
        return warning(f"{text}, because it could not be exported: {error}", "train again; see the worker's log")
    if settings.engine == "openvino-int8" and name != "openvino-int8":
        int8 = info.engines.openvino_int8
        why = int8.reason if int8 is not None else "it has no int8 model"
        return warning(f"{info.version} runs on {name} instead of openvino-int8: {why}", "set SEGLOOP_ENGINE=auto")
    return ok(text)


def untrained(settings: Settings, config: str, answers: str) -> Finding:
    """What answers before the first training."""
    state = pretrained_state(settings)
    if state.problem:
        return failure(f"nothing is trained yet, and nothing is pre-labelled: {state.problem}", state.fix)
    try:
        known = zero_shot_channels(label_names(parse_label_config(config)), known_classes(settings))
    except LabelConfigError:
        known = {}
    if not known:
        return ok("nothing is trained yet: predictions come with the first version")
    if answers == UNTRAINED:
        return warning(
            f"the weights {settings.weights} know {', '.join(known)}, but the server answered that it has none",
            "see setup-warning for its reason, or its log; it looks for them again within minutes",
        )
    return ok(f"nothing is trained yet: {answers or settings.weights} answers for {', '.join(known)}")

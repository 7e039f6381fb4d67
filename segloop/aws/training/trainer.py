"""A trainer whose runs are SageMaker's: all that it knows is in the run's folder and in AWS."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from segloop.aws.checks import check_request, check_settings
from segloop.aws.clients import ATTEMPTS, Clients
from segloop.aws.training import pipelines
from segloop.aws.training.code import ENTRY, code_files
from segloop.aws.training.jobs import TrainingJobs
from segloop.aws.training.requests import RUN, JobSpec, job_name, training_job
from segloop.aws.training.status import status_of
from segloop.aws.uploads import Bucket, Folder, digest_of
from segloop.dataset import MANIFEST, Manifest, load_manifest, read_manifest
from segloop.errors import TrainerUnavailable, TrainingError
from segloop.files import read_json, write_json
from segloop.formats import VERSION_FILE, WEIGHTS_FILE
from segloop.network.weights import sidecars
from segloop.settings import Settings
from segloop.trainers.base import Run, RunStatus

logger = logging.getLogger(__name__)

#: How long a stop is waited for: SageMaker gives a training two minutes to save, then uploads; in seconds.
STOP_S = 600.0
#: What a training reads: names of its channels, and of the container's folders.
_CHANNELS = ("snapshot", "code", "model", "weights", "wheels")
#: Values of the hyperparameter `weights` that name weights and no file.
_PUBLISHED = ("coco", "imagenet", "none")


@dataclass(frozen=True)
class _State:
    """What a run's sagemaker.json keeps: which attempt is under way, and the ARN of its pipeline's execution."""

    attempt: int = 1
    execution: str = ""


class SageMakerTrainer:
    """Trains in training jobs of SageMaker, or in executions of a pipeline (setting `sagemaker_pipeline`).

    Every method may raise what `Trainer` says, and may be called again, by any process: a run's training job has a name, and a pipeline's execution a
    token, that follow from the run's id and from how often it was lost.

    Args:
        code: files of the code channel, train.py among them, in place of segloop's own.
        attempts: times that a call of AWS is tried in all.

    Raises:
        SettingsError: a setting is missing or breaks one of SageMaker's rules.
    """

    def __init__(self, settings: Settings, *, code: Path | None = None, attempts: int = ATTEMPTS) -> None:
        check_settings(settings)
        self._settings = settings
        self._clients = Clients(settings, attempts)
        self._jobs = TrainingJobs(self._clients)
        self._bucket = Bucket(self._clients, settings.sagemaker_s3)
        self._pipeline = pipelines.Pipeline(self._clients, settings.sagemaker_pipeline)
        self._code = code

    @property
    def poll_later_s(self) -> float | None:
        """The setting `sagemaker_poll_s`."""
        return self._settings.sagemaker_poll_s

    def fetch_snapshot(self, digest: str, folder: Path) -> bool:
        """Download a snapshot that was sent for a training; False where it was not, or is not there any more.

        Raises:
            TrainingError: it is another, or incomplete.
        """
        key = _snapshot_key(digest)
        text = self._bucket.read(f"{key}/{MANIFEST}")
        if text is None:
            return False
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).write_bytes(text)
        manifest = read_manifest(folder / MANIFEST)
        if manifest.hash != digest:
            raise TrainingError(
                f"{self._bucket.uri(key)} holds the snapshot {manifest.hash}; what is there was altered"
            )
        sent = self._bucket.download(key, sorted(_files_of(manifest)), folder)
        logger.info("%s: %d files fetched", self._bucket.uri(key), sent)
        return True

    def submit(self, run: Run) -> None:
        """Start a run, go on with one that was lost, or take up one that still runs or has ended.

        Raises:
            TrainingError, SettingsError: it cannot be started, and trying again would not help.
        """
        state = _read_state(run)
        status = self._status(run, state)
        if status is not None and status.state != "lost":
            return
        if status is not None:
            state = _State(state.attempt + 1)
            _write_state(run, state)
        if self._settings.sagemaker_pipeline:
            self._start_execution(run, state)
        else:
            self._create_job(run, state.attempt)

    def poll(self, run: Run) -> RunStatus:
        """How a submitted run is; `running`, with a line in the log, while AWS cannot be asked."""
        try:
            status = self._status(run, _read_state(run))
        except TrainerUnavailable as error:
            logger.warning("run %s: %s", run.id, error)
            return RunStatus("running")
        return status or RunStatus("lost", reason="SageMaker knows no training job of this run.")

    def collect(self, run: Run) -> Path:
        """The bundle folder of a finished run, downloaded and checked once.

        Raises:
            TrainingError: it is not finished, or what it left is not its bundle.
        """
        bundle = run.folder / "model"
        if bundle.is_dir():
            return bundle
        name = self._job_of(run, _read_state(run))
        job = self._jobs.describe(name) if name is not None else None
        if job is None or status_of(job).state != "finished":
            raise TrainingError(f"Run {run.id} has no trained bundle: its training job {name} is not completed.")
        self._jobs.take_bundle(job, bundle, load_manifest(run.snapshot).hash)
        return bundle

    def stop(self, run: Run) -> None:
        """Stop a run so that it can be submitted again later; returns when it has stopped, or after ten minutes."""
        state = _read_state(run)
        status = self._status(run, state)
        if status is None or status.state != "running":
            return
        if state.execution:
            self._pipeline.stop(state.execution)
        else:
            self._jobs.stop(job_name(run.id, state.attempt))
        deadline = time.monotonic() + STOP_S
        while self.poll(run).state == "running":
            if time.monotonic() > deadline:
                logger.warning("run %s: SageMaker has not stopped it within %.0f s", run.id, STOP_S)
                return
            time.sleep(min(self._settings.sagemaker_poll_s, 5.0))

    # -- training jobs

    def _create_job(self, run: Run, attempt: int) -> None:
        name = job_name(run.id, attempt)
        channels, folders, manifest = self._inputs(run)
        output, hyperparameters = self._bucket.uri("output/"), self._hyperparameters(run)
        spec = JobSpec(name, run.id, channels, hyperparameters, output, self._checkpoints(run))
        request = training_job(self._settings, self._clients.region, spec)
        check_request(self._clients.sagemaker, "CreateTrainingJob", request)
        self._upload(folders, manifest)
        if self._jobs.create(request):
            logger.info("run %s: training job %s created", run.id, name)
        else:
            logger.info("run %s: its training job %s is there already", run.id, name)

    # -- either

    def _status(self, run: Run, state: _State) -> RunStatus | None:
        """How the run is; None if it was never submitted."""
        name = self._job_of(run, state)
        job = self._jobs.describe(name) if name is not None else None
        status = status_of(job, self._settings.sagemaker_price_per_hour) if job is not None else None
        if not self._settings.sagemaker_pipeline:
            return status
        if not state.execution:
            return None
        return self._pipeline.status(state.execution, status)

    def _job_of(self, run: Run, state: _State) -> str | None:
        if not self._settings.sagemaker_pipeline:
            return job_name(run.id, state.attempt)
        jobs = self._pipeline.jobs(state.execution) if state.execution else []
        return jobs[0] if jobs else None

    def _start_execution(self, run: Run, state: _State) -> None:
        channels, folders, manifest = self._inputs(run)
        nothing = self._bucket.uri("nothing/")
        values = {
            **{f"{name.capitalize()}S3Uri": channels.get(name, nothing) for name in _CHANNELS},
            "OutputS3Uri": self._bucket.uri("output/"),
            "CheckpointS3Uri": self._checkpoints(run),
            **{
                pipelines.hyperparameter_name(name): value
                for name, value in {**self._hyperparameters(run), RUN: run.id}.items()
            },
        }
        self._upload(folders, manifest)
        # A channel needs an object.
        self._bucket.put("nothing/nothing", b"")
        execution = self._pipeline.start(run.id, state.attempt, values)
        _write_state(run, _State(state.attempt, execution))
        logger.info("run %s: pipeline execution %s started", run.id, execution)

    # -- what a training reads

    def _inputs(self, run: Run) -> tuple[dict[str, str], list[Folder], Manifest]:
        """The addresses of a run's channels by their names, and the folders that have to be there."""
        manifest = load_manifest(run.snapshot)
        names = {MANIFEST, *_files_of(manifest)}
        folders = {
            "snapshot": Folder(_snapshot_key(manifest.hash), {name: run.snapshot / name for name in names}, MANIFEST),
            "code": _folder("code", self._code_files(run), ENTRY),
        }
        if run.champion is not None:
            files = {name: run.champion / name for name in (WEIGHTS_FILE, VERSION_FILE)}
            folders["model"] = _folder("champions", files, VERSION_FILE)
        elif (file := _weights_file(run)) is not None:
            beside = [path for path in (file.with_name(VERSION_FILE), *sidecars(file)) if path.is_file()]
            folders["weights"] = _folder("weights", {path.name: path for path in (file, *beside)}, file.name)
        channels = {name: self._uri(folder) for name, folder in folders.items()}
        if self._settings.sagemaker_wheels:
            channels["wheels"] = self._settings.sagemaker_wheels
        return channels, list(folders.values()), manifest

    def _upload(self, folders: list[Folder], manifest: Manifest) -> None:
        latest = f"snapshots/latest-{manifest.project}"
        earlier = (self._bucket.read(latest) or b"").decode()
        for folder in folders:
            is_next = folder.last == MANIFEST and earlier not in ("", manifest.hash)
            sent = self._bucket.upload(folder, earlier=_snapshot_key(earlier) if is_next else "")
            logger.info("%s: %d of %d files sent", self._uri(folder), sent, len(folder.files))
        if earlier != manifest.hash:
            self._bucket.put(latest, manifest.hash.encode())

    def _code_files(self, run: Run) -> dict[str, Path]:
        if self._code is None:
            return code_files(run.folder / "code")
        return {path.name: path for path in self._code.iterdir() if path.is_file()}

    def _hyperparameters(self, run: Run) -> dict[str, str]:
        """The run's own, with the paths and the device of the machine that it gets."""
        hyperparameters = {**run.hyperparameters}
        if "device" in hyperparameters:
            hyperparameters["device"] = "auto"
        if run.champion is not None and _weights_file(run) is not None:
            # The champion's weights go before them.
            hyperparameters["weights"] = "none"
        elif (file := _weights_file(run)) is not None:
            hyperparameters["weights"] = f"/opt/ml/input/data/weights/{file.name}"
        return hyperparameters

    def _checkpoints(self, run: Run) -> str:
        return self._bucket.uri(f"checkpoints/{run.id}/")

    def _uri(self, folder: Folder) -> str:
        return self._bucket.uri(f"{folder.key}/")


def _snapshot_key(digest: str) -> str:
    return f"snapshots/{digest}"


def _files_of(manifest: Manifest) -> set[str]:
    return {name for item in manifest.all_items() for name in (item.image, item.mask)}


def _folder(kind: str, files: dict[str, Path], last: str) -> Folder:
    return Folder(f"{kind}/{digest_of(files)}", files, last)


def _weights_file(run: Run) -> Path | None:
    """The file of this machine that the hyperparameter `weights` names."""
    weights = run.hyperparameters.get("weights", "none")
    if weights in _PUBLISHED:
        return None
    if not Path(weights).is_file():
        raise TrainingError(f"SEGLOOP_WEIGHTS is {weights!r}, which is no file: use coco, imagenet, none or a file.")
    return Path(weights)


def _read_state(run: Run) -> _State:
    return _State(**(read_json(run.folder / "sagemaker.json") or {}))


def _write_state(run: Run, state: _State) -> None:
    write_json(run.folder / "sagemaker.json", asdict(state))

"""SageMaker's training jobs, by name: how they are, their end, their model."""

from __future__ import annotations

import shutil
from pathlib import Path

from segloop.aws.clients import Clients, explained, none_if
from segloop.aws.training.archive import ARCHIVE_BYTES, extract_bundle
from segloop.aws.training.status import TrainingJob
from segloop.aws.uploads import split_s3
from segloop.errors import TrainingError

_UNKNOWN = r"\((ValidationException|ResourceNotFound)\).*not found"


class TrainingJobs:
    """Training jobs of an account and region.

    Raises (every method):
        TrainingError: AWS refused.
        TrainerUnavailable: AWS cannot be reached now.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def create(self, request: dict[str, object]) -> bool:
        """Create a job; whether it was not there already."""
        with explained("sagemaker:CreateTrainingJob"):
            return none_if(r"\(ResourceInUse\)", self._clients.sagemaker.create_training_job, **request) is not None

    def describe(self, name: str) -> TrainingJob | None:
        """A job as it is now; None if there is no such job."""
        with explained("sagemaker:DescribeTrainingJob"):
            job: TrainingJob | None = none_if(
                _UNKNOWN, self._clients.sagemaker.describe_training_job, TrainingJobName=name
            )
        return job

    def stop(self, name: str) -> None:
        """Stop a job; one that has ended stays as it is."""
        with explained("sagemaker:StopTrainingJob"):
            # The refusal: it has just ended.
            none_if(r"\(ValidationException\)", self._clients.sagemaker.stop_training_job, TrainingJobName=name)

    def take_bundle(self, job: TrainingJob, bundle: Path, snapshot: str | None = None) -> None:
        """Download and check the model.tar.gz of a completed job into a folder, which is there whole or not at all.

        Args:
            snapshot: the hash of the manifest that it has to have learnt from; without one, of that in the archive.

        Raises:
            TrainingError: it is too large, damaged, or no bundle of the snapshot.
            DiskFull: it does not fit on this machine's disk.
        """
        archive, part = (bundle.with_name(bundle.name + suffix) for suffix in (".tar.gz", ".part"))
        model = job.get("ModelArtifacts", {}).get("S3ModelArtifacts", "")
        bucket, key = split_s3(model, "sagemaker_s3")
        with explained("s3:GetObject"):
            size = self._clients.s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
            if size > ARCHIVE_BYTES:
                raise TrainingError(f"{model} has {size} bytes; at most {ARCHIVE_BYTES} are taken")
            self._clients.s3.download_file(bucket, key, str(archive))
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        extract_bundle(archive, part, snapshot)
        part.rename(bundle)
        archive.unlink()

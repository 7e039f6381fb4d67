"""The managed route with nothing left out: the pipeline's container gathers from S3 and trains, segloop compares and promotes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segloop.aws.training.code import PACKAGES, code_files
from segloop.aws.training.entry import AWS_SDK
from segloop.images import ImageSource
from segloop.labelstudio import Credentials
from segloop.queue import Jobs
from segloop.registry import open_registry
from segloop.settings import Settings
from tests.aws.container_image import image_site
from tests.aws.route_jobs import Route
from tests.aws.route_world import ARTIFACTS, KEY, SOURCE, TARGET, RouteBuckets
from tests.aws.sagemaker_emulator import deploy, emulated_aws
from tests.job_context import FakeLabelStudio, fake_export
from tests.labelling import CONFIG, half
from tests.toys import toy_model
from worker.jobs.context import JobContext, compare_bundles

pytestmark = pytest.mark.slow

PATIENCE_S = 240


class Studio(FakeLabelStudio):
    """Annotations are read in the target bucket, so that it only tells the label config."""

    def get(self, project_id: int) -> dict[str, Any]:
        return {"id": project_id, "label_config": CONFIG}


@pytest.fixture
def route(redis_url: str, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Route]:
    with emulated_aws(tmp_path / "instances", ARTIFACTS) as (emulator, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        emulator.environment = {
            "PYTHONPATH": str(image_site(tmp_path / "site", (*PACKAGES, *AWS_SDK), lacks=("rq", "flask"))),
            "OMP_NUM_THREADS": "2",
        }
        buckets = RouteBuckets(emulator.s3)
        buckets.make()
        buckets.connect(settings={"input_size": 64, "arch": "fcn_resnet50"})
        for task in range(1, 9):
            buckets.annotate(100 + task, task, [half("Sky"), half("Road", right=True)])
        for name, path in code_files(tmp_path / "code").items():
            emulator.s3.upload_file(str(path), ARTIFACTS, f"code/1/{name}")
        parameters = {
            "SourceBucketName": SOURCE,
            "TargetBucketName": TARGET,
            "ArtifactsBucketName": ARTIFACTS,
            "CodeUri": f"s3://{ARTIFACTS}/code/1/",
            "MinimumMiou": "0",
            "TrainMinutes": "0.02",
            "Weights": "none",
        }
        outputs = deploy(emulator, parameters)
        settings = Settings(
            data_dir=tmp_path / "data",
            redis_url=redis_url,
            annotations_from=f"s3://{TARGET}/projects/{{project}}",
            weights="none",
            device="cpu",
            retrain_threshold=0,
            sagemaker_route=outputs["PipelineName"],
            sagemaker_events=outputs["EventQueueUrl"],
            sagemaker_poll_s=0.2,
        )
        credentials = Credentials(settings.label_studio_url, settings.label_studio_api_key)
        images = ImageSource(settings, credentials, tmp_path / "images")
        registry = open_registry(settings)
        registry.write_json(KEY, "project.json", {"project": KEY, "label_config": CONFIG})
        context = JobContext(
            settings,
            registry,
            Studio(),  # type: ignore[arg-type]
            images,
            jobs,
            None,  # type: ignore[arg-type]
            compare_bundles,
            fake_export,
            lambda registry, project, version, settings: toy_model(version, project),
            lambda settings: False,
        )
        yield Route(emulator, outputs, context, tmp_path)
        images.close()


def test_a_version_is_trained_from_s3_and_promoted(route: Route) -> None:
    training = route.start()
    log = route.emulator.jobs[training].log
    execution = route.execution(PATIENCE_S)
    assert execution.status == "Succeeded", "\n".join(log)
    assert len(route.emulator.flow.groups["segloop"]) == 1
    route.hear()
    (job_id,) = route.adopted()
    result = route.work(job_id)
    assert result["promoted"], result
    assert (result["learnt"], result["tasks"]) == (6, 8)
    context = route.context
    version = context.registry.get(KEY, result["version"])
    assert version.classes == ("Sky", "Road")
    assert version.input_size == 64
    # trained and compared on the very same tasks
    assert version.metrics.tasks == 2
    measured = route.emulator.jobs[training].description["FinalMetricDataList"]
    assert version.metrics.miou == pytest.approx(
        next(one["Value"] for one in measured if one["MetricName"] == "segloop:miou"), abs=1e-6
    )

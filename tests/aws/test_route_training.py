"""The managed route with nothing left out: the pipeline's container gathers from S3 and trains, segloop compares and promotes."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.exceptions import ClientError

from segloop.aws.endpoints import packing
from segloop.aws.training.code import PACKAGES, code_files
from segloop.aws.training.entry import AWS_SDK
from segloop.images import ImageSource
from segloop.labelstudio import Credentials
from segloop.network.network import load_bundle
from segloop.queue import Jobs
from segloop.registry import open_registry
from segloop.serving.engines import TorchEngine
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
#: As the toolkit in AWS's image does it.
CALLED = """
import os, sys
sys.path.insert(0, os.path.join(sys.argv[1], "code"))
import inference
handler = inference.model_fn(sys.argv[1])
answer = inference.transform_fn(handler, sys.stdin.buffer.read(), "application/x-npy", "application/x-npy")
sys.stdout.buffer.write(handler.name.encode() + b"\\n" + answer)
"""


class Studio(FakeLabelStudio):
    """Annotations are read in the target bucket, so that it only tells the label config."""

    def get(self, project_id: int) -> dict[str, Any]:
        return {"id": project_id, "label_config": CONFIG}


@pytest.fixture
def route(redis_url: str, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Route]:
    with emulated_aws(tmp_path / "instances", ARTIFACTS) as (emulator, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        brought = {*PACKAGES, *packing.PACKAGES, *AWS_SDK}
        emulator.environment = {"PYTHONPATH": str(image_site(tmp_path / "site", brought, lacks=("rq", "flask")))}
        buckets = RouteBuckets(emulator.s3)
        buckets.make()
        buckets.connect(settings={"input_size": 64, "arch": "fcn_resnet50"})
        for task in range(1, 9):
            buckets.annotate(100 + task, task, [half("Sky"), half("Road", right=True)])
        for name, path in (code_files(tmp_path / "code") | packing.inference_files()).items():
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
    package_serves(route, version.version)


def package_serves(route: Route, version: str) -> None:
    """A model made of what the pipeline registered, with the functions that AWS's image calls, gives the class map of the
    version that segloop took up."""
    container = model_of_package(route)
    assert container["Image"].endswith("/pytorch-inference:2.6.0-cpu-py312")
    bucket, _, key = container["ModelDataUrl"].removeprefix("s3://").partition("/")
    folder = route.folder / "opt" / "ml" / "model"
    folder.mkdir(parents=True)
    route.emulator.s3.download_file(bucket, key, str(route.folder / "model.tar.gz"))
    with tarfile.open(route.folder / "model.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    batch = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    body = io.BytesIO()
    np.save(body, batch, allow_pickle=False)
    called = subprocess.run(
        [sys.executable, "-c", CALLED, str(folder)],
        env={
            "PATH": os.environ["PATH"],
            "TMPDIR": str(route.folder),
            **container["Environment"],
            **route.emulator.environment,
        },
        cwd=folder,
        input=body.getvalue(),
        capture_output=True,
        check=False,
    )
    assert called.returncode == 0, called.stderr.decode()
    name, _, answer = called.stdout.partition(b"\n")
    assert re.fullmatch(rb"candidate-[0-9a-f]{8}", name)
    logits = np.load(io.BytesIO(answer))
    network, _ = load_bundle(route.context.registry.bundle(KEY, version))
    expected = TorchEngine(network, "cpu").logits(batch)
    np.testing.assert_allclose(logits, expected, atol=1e-3)
    class_map = logits.argmax(1)
    assert class_map.shape == (1, 4, 6)
    np.testing.assert_array_equal(class_map, expected.argmax(1))


def model_of_package(route: Route) -> dict[str, Any]:
    """The container of a model that is made of the pipeline's package as docs/aws.md has it in AWS's own command line."""
    client = boto3.client("sagemaker")
    [package] = client.list_model_packages(ModelPackageGroupName="segloop")["ModelPackageSummaryList"]
    arn = package["ModelPackageArn"]
    role = "arn:aws:iam::123456789012:role/endpoint"
    named = {"ModelName": "street-1", "ExecutionRoleArn": role, "Containers": [{"ModelPackageName": arn}]}
    with pytest.raises(ClientError, match="is not approved"):
        client.create_model(**named)
    client.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
    client.create_model(**named)
    client.close()
    container: dict[str, Any] = route.emulator.hosting.models["street-1"]["PrimaryContainer"]
    return container

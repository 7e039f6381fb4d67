"""Versions on SageMaker endpoints: deployed to the emulator by the command, answered by real containers, used by a server."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from demo.stack import RunningSegloop
from segloop.aws.endpoints.packing import PACKAGES
from segloop.cli import main
from segloop.errors import EngineError
from segloop.network.network import load_bundle
from segloop.queue import PRELABEL_QUEUE, Jobs
from segloop.registry import Registry, open_registry
from segloop.serving import load_served_model
from segloop.serving.engines import TorchEngine
from segloop.settings import load_settings
from segloop.versions import EngineReport
from tests.aws.container_image import image_site
from tests.aws.sagemaker_emulator import Emulator, Refusal, emulated_aws
from tests.job_context import queued
from tests.toys import BRUSH, ToyImage, half_red_half_blue, sparse_network, toy_info
from worker.jobs.context import _load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROJECT = "1.1795382829"
BUCKET = "segloop-endpoints"
ROLE = "arn:aws:iam::123456789012:role/segloop-endpoint"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """A network that finds nothing but Road, with its OpenVINO model, and one that finds nothing but Sky, without."""
    import torch

    from segloop.network.network import save_bundle
    from segloop.training.export import export

    made = {}
    network = sparse_network()
    for channel, label in ((1, "Road"), (2, "Sky")):
        with torch.no_grad():
            network.classifier[-1].weight.mul_(1e-3)
            network.classifier[-1].bias.copy_(torch.eye(3)[channel] * 5)
        folder = tmp_path_factory.mktemp(label)
        info = toy_info(arch="fcn_resnet50")
        save_bundle(folder, network, info)
        if label == "Road":
            export(folder, None, folder)
        else:
            info = info.model_copy(update={"engines": EngineReport(error="a test without an export")})
        made[label] = (folder, info)
    return made


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Emulator, dict[str, str]]]:
    with emulated_aws(tmp_path / "instances", BUCKET) as (emulator, environment):
        emulator.environment = {"PYTHONPATH": str(image_site(tmp_path / "site", PACKAGES))}
        environment |= {
            "SEGLOOP_STORE": f"s3://{BUCKET}/store",
            "SEGLOOP_SAGEMAKER_S3": f"s3://{BUCKET}/segloop",
            "SEGLOOP_SAGEMAKER_ROLE": ROLE,
            "SEGLOOP_SAGEMAKER_POLL_S": "0.2",
            "SEGLOOP_ENGINE": "sagemaker:street",
            "SEGLOOP_DEVICE": "cpu",
            "SEGLOOP_DATA_DIR": str(tmp_path / "data"),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield emulator, environment


def deploy(version: str, *options: str, endpoint: str = "street") -> Result:
    return CliRunner().invoke(main, ["sagemaker", "deploy", version, "--endpoint", endpoint, *options])


def body() -> dict[str, Any]:
    image = cv2.imencode(".png", half_red_half_blue(48, 64))[1].tobytes()
    task = {"id": 1, "data": {"image": "data:image/png;base64," + base64.b64encode(image).decode()}}
    return {"tasks": [task], "project": PROJECT, "label_config": BRUSH, "params": {}}


def mutations(emulator: Emulator) -> list[str]:
    return [call for call in emulator.calls if call.startswith(("Create", "Update"))]


def test_an_endpoint_serves_one_version_and_then_another(
    aws: tuple[Emulator, dict[str, str]],
    bundles: dict[str, tuple[Path, dict[str, Any]]],
    tmp_path: Path,
    redis_url: str,
) -> None:
    emulator, environment = aws
    registry = open_registry(load_settings())
    road, sky = (registry.add(PROJECT, *bundles[label]) for label in ("Road", "Sky"))
    registry.promote(PROJECT, road, "first")

    dry = deploy(road, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert emulator.calls == []
    assert json.loads(dry.stdout)["config"]["ProductionVariants"][0]["InstanceType"] == "ml.c6i.xlarge"

    environment["SEGLOOP_REDIS_URL"] = redis_url
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGLOOP_REDIS_URL", redis_url)
        first = deploy(road)
        assert first.exit_code == 0, first.output + emulator.hosting.containers[0].log()
        jobs = Jobs.open(load_settings())
        assert queued(jobs, PRELABEL_QUEUE) == [[PROJECT, road]]
        jobs.close()
        assert f"created; it serves {road}" in first.output
        assert mutations(emulator) == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
        assert "unchanged" in deploy(road).output
        assert mutations(emulator) == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    assert "runs on openvino" in emulator.hosting.containers[0].log()
    described = emulator.hosting.endpoints["street"].description
    assert described["EndpointConfigName"] == json.loads(dry.stdout)["config"]["EndpointConfigName"]

    the_same_logits(registry, road, bundles["Road"][0])
    assert found(a_whole_task(emulator)) == (road, {"Road"})

    own = {name.removeprefix("SEGLOOP_").lower(): value for name, value in environment.items() if "SEGLOOP" in name}
    own |= {"weights": "none", "input_size": 64, "swap_poll_s": 0.2, "data_dir": tmp_path / "server"}
    with RunningSegloop(tmp_path / "log", **own) as segloop, segloop.client() as client:
        assert found(client.post("/predict", json=body()).json()) == (road, {"Road"})
        # until it is deployed, the endpoint does not serve what is promoted
        registry.promote(PROJECT, sky, "second")
        updated = deploy(sky)
        assert updated.exit_code == 0, updated.output + emulator.hosting.containers[-1].log()
        assert "updated; it serves" in updated.output
        # without SEGLOOP_REDIS_URL there is no queue here
        assert "not refreshed: The queue (Redis) cannot be reached" in updated.output
        deadline = 120
        while (answer := found(client.post("/predict", json=body()).json()))[0] != sky or not answer[1]:
            deadline -= 1
            assert deadline, segloop.log.read_text("utf-8")[-3000:]
            time.sleep(0.5)
        assert answer == (sky, {"Sky"})
    assert "runs on torch" in emulator.hosting.containers[-1].log()
    # neither weights nor models came to the server's machine
    assert [path for path in (tmp_path / "server").rglob("*") if path.suffix in (".safetensors", ".bin", ".xml")] == []

    # what serves another version says so, to a worker's job before it begins
    with pytest.raises(EngineError, match=f"this endpoint serves {sky}, not {road}"):
        _load_model(registry, PROJECT, road, load_settings())

    # an alarm rolls the update back
    emulator.hosting.alarmed.add("errors")
    rolled = deploy(road, "--alarm", "errors")
    assert rolled.exit_code == 1
    assert "did not take" in rolled.output
    assert "alarms were activated" in rolled.output
    assert emulator.hosting.endpoints["street"].description["EndpointStatus"] == "InService"


def a_whole_task(emulator: Emulator) -> dict[str, Any]:
    """What a caller without NumPy gets: a prediction in the form of /predict's answer."""
    image = cv2.imencode(".png", half_red_half_blue(48, 64))[1].tobytes()
    address = "s3://source/projects/1/a.png"
    request = {
        "label_config": BRUSH,
        "task": {"id": 1, "data": {"image": address}},
        "images": {address: base64.b64encode(image).decode()},
    }
    status, answer, _ = emulator.hosting.invoke(
        "street", json.dumps(request).encode(), {"content-type": "application/json"}
    )
    assert status == 200, answer
    prediction = json.loads(answer)
    return {"results": [prediction], "model_version": prediction["model_version"]}


def found(answer: dict[str, Any]) -> tuple[str, set[str]]:
    """The version of an answer, and the labels in it."""
    labels = {region["value"]["brushlabels"][0] for result in answer["results"] for region in result["result"]}
    return answer["model_version"], labels


def the_same_logits(registry: Registry, version: str, bundle: Path) -> None:
    """As the network gives them on this machine, through several windows too."""
    batch = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    model = load_served_model(registry, PROJECT, version, load_settings())
    [there] = model.batcher.logits([batch[0]])
    here = TorchEngine(load_bundle(bundle)[0], "cpu").logits(batch)[0]
    np.testing.assert_allclose(there, here, atol=1e-3)
    segmentation = model.segment(ToyImage(half_red_half_blue(48, 64)))  # type: ignore[arg-type]
    assert set(np.unique(segmentation.class_map)) == {1}


def test_a_container_that_fails_is_told(
    aws: tuple[Emulator, dict[str, str]], bundles: dict[str, tuple[Path, dict[str, Any]]]
) -> None:
    emulator, _ = aws
    version = open_registry(load_settings()).add(PROJECT, *bundles["Road"])
    limit = "The account-level service limit 'ml.c6i.xlarge for endpoint usage' is 0 Instances."
    emulator.faults.append(("CreateEndpoint", Refusal("ResourceLimitExceeded", limit)))
    refused = deploy(version)
    assert (refused.exit_code, limit in refused.output) == (1, True)
    # the model and the configuration are there already
    emulator.environment["SEGLOOP_DEVICE"] = "cuda"
    failed = deploy(version)
    assert failed.exit_code == 1
    assert re.search(r"did not take v1-\w+: it is Failed: .*ping health check", failed.output)
    again = deploy(version)
    assert "delete it" in again.output
    serverless = deploy(version, "--serverless", "2048", "--dry-run", endpoint="other")
    [variant] = json.loads(serverless.stdout)["config"]["ProductionVariants"]
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 2048, "MaxConcurrency": 5}

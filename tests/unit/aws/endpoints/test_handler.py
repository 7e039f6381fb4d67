"""What an endpoint's container answers with: real networks, real HTTP, and the functions that AWS's image calls."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import cache
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segloop.aws.checks import check_request
from segloop.aws.clients import Clients
from segloop.aws.endpoints import handler as handler_module
from segloop.aws.endpoints import inference
from segloop.aws.endpoints.deployment import Deployment
from segloop.aws.endpoints.handler import NPY, Handler, Refused, http_of
from segloop.aws.endpoints.packing import PACKAGES, REQUIREMENTS, archive_files, write_archive
from segloop.aws.endpoints.requests import EndpointSpec, requests_of
from segloop.aws.training.code import requirements_of
from segloop.errors import RegistryError, SettingsError
from segloop.registry import Registry
from segloop.serving.engines import TorchEngine
from segloop.settings import Settings
from tests.toys import toy_registry

ROOT = Path(__file__).parents[4]
PROJECT = "7.1795383040"
ROLE = "arn:aws:iam::123456789012:role/segloop-endpoint"
CPU = Settings(_env_file=None, device="cpu", weights="none")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return toy_registry(tmp_path_factory.mktemp("handler"), PROJECT)


@pytest.fixture(scope="module")
def folder(registry: Registry) -> Path:
    return registry.bundle(PROJECT, registry.versions(PROJECT)[0].version)


@pytest.fixture(scope="module")
def handler(folder: Path) -> Handler:
    return Handler(folder, CPU)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype.hasobject)
    return buffer.getvalue()


BATCH = np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32)


@pytest.mark.slow
def test_logits_are_the_networks(handler: Handler, folder: Path) -> None:
    from segloop.network.network import load_bundle

    attributes = f"trace=1,version={handler.info.version}"
    logits = np.load(io.BytesIO(handler.invoke(npy(BATCH), NPY, attributes)))
    expected = TorchEngine(load_bundle(folder)[0], "cpu").logits(BATCH)
    assert logits.shape == (2, 3, 4, 6)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("body", "content_type", "attributes", "status", "reason"),
    [
        (npy(BATCH), NPY, "version=v9-00000000", 409, "this endpoint serves v1-.*, not v9-00000000"),
        (npy(BATCH), f"{NPY}; version=v9-00000000", "", 409, "not v9-00000000"),
        (npy(BATCH), "text/csv", "", 415, "application/x-npy"),
        (b"", NPY, "", 400, "no .npy"),
        (npy(BATCH)[:-1], NPY, "", 400, "no .npy"),
        (npy(np.array([{}], dtype=object)), NPY, "", 400, "no .npy"),
        (npy(BATCH.astype(np.float64)), NPY, "", 400, "float64"),
        (npy(BATCH[0]), NPY, "", 400, r"\(3, 64, 96\)"),
        (npy(BATCH[..., 1:]), NPY, "", 400, "multiples of 32"),
        (npy(BATCH[:0]), NPY, "", 400, "1 to 64 images"),
        (npy(np.zeros((65, 3, 32, 32), np.float32)), NPY, "", 400, "1 to 64 images"),
        (bytes(handler_module.REQUEST_BYTES + 1), NPY, "", 413, "a request may have"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(
    handler: Handler, body: bytes, content_type: str, attributes: str, status: int, reason: str
) -> None:
    with pytest.raises(Refused, match=reason) as caught:
        handler.invoke(body, content_type, attributes)
    assert caught.value.status == status


def test_what_no_registry_holds_is_named_by_its_snapshot(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "left")
    left = json.loads((folder / "version.json").read_text("utf-8")) | {"version": ""}
    (tmp_path / "left" / "version.json").write_text(json.dumps(left), "utf-8")
    candidate = Handler(tmp_path / "left", CPU)
    assert candidate.name == f"candidate-{left['snapshot'][:8]}"
    with pytest.raises(Refused, match=f"serves {candidate.name}, not v1-00000000"):
        candidate.invoke(npy(BATCH), NPY, "version=v1-00000000")


def test_a_folder_without_its_own_files_is_no_version(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(RegistryError, match=r"version\.json cannot be read"):
        Handler(tmp_path, CPU)
    (tmp_path / "version.json").write_bytes((folder / "version.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(RegistryError, match="sha256"):
        Handler(tmp_path, CPU)


@pytest.fixture(scope="module")
def server(handler: Handler) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), http_of(handler)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: ThreadingHTTPServer, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, path)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, answer, response.headers["Content-Type"]


def test_http(server: ThreadingHTTPServer, handler: Handler) -> None:
    status, answer, _ = ask(server, "GET", "/ping")
    assert (status, handler.info.version.encode() in answer) == (200, True)
    assert ask(server, "GET", "/elsewhere")[0] == 404
    body = npy(BATCH)
    status, answer, kind = ask(server, "POST", "/invocations", body, Content_Length=str(len(body)), Content_Type=NPY)
    assert (status, kind) == (200, NPY)
    assert np.load(io.BytesIO(answer)).shape == (2, 3, 4, 6)
    custom = {"X_Amzn_SageMaker_Custom_Attributes": "version=v9-00000000"}
    status, answer, _ = ask(
        server, "POST", "/invocations", body, Content_Length=str(len(body)), Content_Type=NPY, **custom
    )
    assert (status, b"not v9-00000000" in answer) == (409, True)
    assert ask(server, "POST", "/invocations", Content_Type=NPY)[0] == 411
    too_long = str(handler_module.REQUEST_BYTES + 1)
    assert ask(server, "POST", "/invocations", Content_Length=too_long, Content_Type=NPY)[0] == 413
    assert ask(server, "POST", "/elsewhere", Content_Length="0")[0] == 404


class Context:
    """What TorchServe gives a handler of a request."""

    def __init__(self, **headers: Any) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.status: tuple[int, str] | None = None

    def get_all_request_header(self, index: int) -> dict[str, Any]:
        return self.headers

    def set_response_status(self, code: int, phrase: str) -> None:
        self.status = (code, phrase)


@pytest.mark.slow
def test_what_aws_image_calls(handler: Handler) -> None:
    own = Context(X_Amzn_SageMaker_Custom_Attributes=f"version={handler.info.version}".encode())
    answer = inference.transform_fn(handler, bytearray(npy(BATCH)), NPY, NPY, own)
    assert np.load(io.BytesIO(answer)).shape == (2, 3, 4, 6)
    assert own.status is None
    without = inference.transform_fn(handler, npy(BATCH), f"{NPY}; version={handler.info.version}", NPY)
    assert without == bytes(answer)
    with pytest.raises(Refused, match="not v9-00000000"):
        inference.transform_fn(handler, npy(BATCH), f"{NPY}; version=v9-00000000", NPY)
    other = Context(x_amzn_sagemaker_custom_attributes="version=v9-00000000")
    assert "not v9-00000000" in inference.transform_fn(handler, npy(BATCH), NPY, NPY, other)
    assert other.status == (409, "Conflict")


# -- the archive


@pytest.mark.slow
def test_the_archive_is_the_same_every_time(registry: Registry, tmp_path: Path) -> None:
    info = registry.versions(PROJECT)[0]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_archive(archive_files(registry, info, CPU, tmp_path / name), tmp_path / f"{name}.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        names = tar.getnames()
    code = ["code/inference.py", "code/lacking.txt", "code/segloop.zip", "code/segloop_entry.py"]
    assert names == [*code, "model.safetensors", "version.json"]


def test_the_requirements_are_the_locks() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert REQUIREMENTS.read_text("utf-8") == requirements_of(lock, PACKAGES), "run make lock"


# -- requests


def settings(**own: Any) -> Settings:
    return Settings(_env_file=None, sagemaker_s3="s3://b/x", sagemaker_role=ROLE, sagemaker_region="eu-west-1", **own)


@cache
def sagemaker() -> Any:
    """A client, for AWS's own model of its requests: half a second to make."""
    return Clients(settings()).sagemaker


def check(registry: Registry, spec: EndpointSpec, **own: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    made, client = settings(**own), sagemaker()
    info = registry.versions(PROJECT)[0]
    requests = requests_of(made, "eu-west-1", spec, info, "s3://b/x/model.tar.gz")
    check_request(client, "CreateModel", requests.model)
    check_request(client, "CreateEndpointConfig", requests.config)
    check_request(client, "UpdateEndpoint", requests.endpoint)
    return requests.model, requests.config, requests.endpoint


def test_names_follow_from_the_specification(registry: Registry) -> None:
    model, config, _ = check(registry, EndpointSpec("street"))
    assert check(registry, EndpointSpec("street")) == check(registry, EndpointSpec("street"))
    assert model["ModelName"].startswith(f"segloop-{registry.versions(PROJECT)[0].version}-")
    assert model["PrimaryContainer"]["Image"].endswith("eu-west-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312")
    two = check(registry, EndpointSpec("street", count=2))
    assert (two[0], two[1]["EndpointConfigName"] == config["EndpointConfigName"]) == (model, False)


def test_every_option_fits(registry: Registry) -> None:
    network = {"sagemaker_subnets": ("subnet-1",), "sagemaker_security_groups": ("sg-1",), "sagemaker_tags": ("a=b",)}
    spec = EndpointSpec("street", instance="ml.g4dn.xlarge", alarms=("errors", "slow"))
    model, _, endpoint = check(registry, spec, **network)
    assert "2.6.0-gpu-" in model["PrimaryContainer"]["Image"]
    assert model["VpcConfig"]["Subnets"] == ["subnet-1"]
    alarms = endpoint["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert alarms == [{"AlarmName": "errors"}, {"AlarmName": "slow"}]
    model, config, endpoint = check(registry, EndpointSpec("street", serverless_mb=3072, image="own:1"), **network)
    assert "VpcConfig" not in model
    assert config["ProductionVariants"][0]["ServerlessConfig"]["MemorySizeInMB"] == 3072
    assert "DeploymentConfig" not in endpoint


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (EndpointSpec("my_street"), "--endpoint does not fit"),
        (EndpointSpec("street", instance="m5"), "--instance does not fit"),
        (EndpointSpec("street", count=0), "--count does not fit"),
        (EndpointSpec("street", serverless_mb=512), "--serverless does not fit"),
        (EndpointSpec("street", serverless_mb=3000), "--serverless does not fit.*whole GB"),
        (EndpointSpec("street", serverless_mb=2048, concurrency=500), "--concurrency does not fit"),
        (EndpointSpec("street", alarms=("",)), "--alarm does not fit"),
        (EndpointSpec("street", image="two words"), "--image does not fit"),
    ],
)
def test_an_option_that_does_not_fit_is_named(registry: Registry, spec: EndpointSpec, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        check(registry, spec)


def test_a_deployment_needs_a_role_and_a_bucket(registry: Registry) -> None:
    with pytest.raises(SettingsError, match="SEGLOOP_SAGEMAKER_S3"):
        Deployment(Settings(_env_file=None, sagemaker_role=ROLE), registry)
    with pytest.raises(SettingsError, match="SEGLOOP_SAGEMAKER_ROLE is empty"):
        Deployment(settings(sagemaker_pipeline="mine").model_copy(update={"sagemaker_role": ""}), registry)

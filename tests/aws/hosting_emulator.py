"""The half of the SageMaker emulator that hosts: models, endpoints, and their containers, which are real processes."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.aws.sagemaker_emulator import Emulator

ACCOUNT = "123456789012"
Json = dict[str, Any]
#: Real seconds that a container has until it answers /ping, and to end after SIGTERM.
START_S = 120.0
STOP_S = 10.0


def share_of_cores() -> dict[str, str]:
    """What a container inherits of this process's environment: how many threads compute, and how they wait."""
    return {name: os.environ[name] for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY") if name in os.environ}


class Refusal(Exception):
    """An error that the service answers with."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


class Container:
    """A model's container: the code of its archive, run as an image of one's own runs it."""

    def __init__(self, folder: Path, archive: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        (folder / "tmp").mkdir(parents=True)
        with tarfile.open(archive) as tar:
            tar.extractall(folder / "model", filter="data")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port: int = listener.getsockname()[1]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["python3", str(folder / "model/code/inference.py")],
                env={
                    "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
                    "HOME": str(folder),
                    "TMPDIR": str(folder / "tmp"),
                    "LANG": "C.UTF-8",
                    **share_of_cores(),
                    "SAGEMAKER_BIND_TO_PORT": str(self.port),
                    **environment,
                },
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def healthy(self) -> str:
        """Wait for /ping; what is wrong where it does not answer."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                status, _ = self.ask("GET", "/ping", b"", {})
            except OSError:
                time.sleep(0.1)
                continue
            if status == 200:
                return ""
        return f"The primary container did not pass the ping health check: {self.log()[-500:]}"

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", errors="replace")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Endpoint:
    """An endpoint: what DescribeEndpoint tells of it, and the container that answers."""

    description: Json
    container: Container | None = None

    @property
    def status(self) -> str:
        return str(self.description["EndpointStatus"])


class Hosting:
    """Models, configurations and endpoints.

    Attributes:
        alarmed: names of alarms that have gone off.
        containers: all that were started.
    """

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self.models: dict[str, Json] = {}
        self.configs: dict[str, Json] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.alarmed: set[str] = set()
        self.containers: list[Container] = []
        self._threads: list[threading.Thread] = []

    def close(self) -> None:
        for thread in self._threads:
            thread.join()
        for container in self.containers:
            container.stop()

    def create_model(self, request: Json) -> Json:
        name = request["ModelName"]
        if name in self.models:
            raise Refusal("ValidationException", f'Cannot create already existing model "{_arn("model", name)}".')
        [container] = request.get("Containers") or [request["PrimaryContainer"]]
        if "ModelPackageName" in container:
            package = self._emulator.flow.package(container["ModelPackageName"])
            if package.get("ModelApprovalStatus") != "Approved":
                # API_CreateModelPackage.html: it must be, to deploy the model
                raise Refusal("ValidationException", f"{container['ModelPackageName']} is not approved.")
            [container] = package["InferenceSpecification"]["Containers"]
        self.models[name] = {**request, "PrimaryContainer": container}
        return {"ModelArn": _arn("model", name)}

    def create_endpoint_config(self, request: Json) -> Json:
        name = request["EndpointConfigName"]
        arn = _arn("endpoint-config", name)
        if name in self.configs:
            raise Refusal("ValidationException", f'Cannot create already existing endpoint configuration "{arn}".')
        for variant in request["ProductionVariants"]:
            if variant["ModelName"] not in self.models:
                model = _arn("model", variant["ModelName"])
                raise Refusal("ValidationException", f'Could not find model "{model}".')
            if ("ServerlessConfig" in variant) == ("InstanceType" in variant):
                raise Refusal("ValidationException", "Give InstanceType, or ServerlessConfig")
        self.configs[name] = request
        return {"EndpointConfigArn": arn}

    def create_endpoint(self, request: Json) -> Json:
        name = request["EndpointName"]
        if name in self.endpoints:
            raise Refusal("ValidationException", f'Cannot create already existing endpoint "{_arn("endpoint", name)}".')
        self._config(request)
        description = {
            "EndpointName": name,
            "EndpointArn": _arn("endpoint", name),
            "EndpointConfigName": request["EndpointConfigName"],
            "EndpointStatus": "Creating",
            "CreationTime": time.time(),
            "LastModifiedTime": time.time(),
        }
        self.endpoints[name] = Endpoint(description)
        self._begin(self.endpoints[name], request)
        return {"EndpointArn": description["EndpointArn"]}

    def update_endpoint(self, request: Json) -> Json:
        endpoint = self._endpoint(request["EndpointName"])
        self._config(request)
        if endpoint.status not in ("InService", "OutOfService"):
            raise Refusal("ValidationException", f"Cannot update in-progress endpoint ({endpoint.status}).")
        if request["EndpointConfigName"] == endpoint.description["EndpointConfigName"]:
            raise Refusal("ValidationException", "Cannot update endpoint to the configuration that it has.")
        endpoint.description["EndpointStatus"] = "Updating"
        pending = {"EndpointConfigName": request["EndpointConfigName"]}
        endpoint.description["PendingDeploymentSummary"] = pending
        self._begin(endpoint, request)
        return {"EndpointArn": endpoint.description["EndpointArn"]}

    def describe_endpoint(self, request: Json) -> Json:
        return self._endpoint(request["EndpointName"]).description

    def invoke(self, name: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, str]:
        """Status, body and error type of InvokeEndpoint's answer."""
        endpoint = self.endpoints.get(name)
        if endpoint is None or endpoint.container is None:
            message = f"Endpoint {name} of account {ACCOUNT} not found."
            return 400, json.dumps({"Message": message}).encode(), "ValidationError"
        kept = ("content-type", "accept", "x-amzn-sagemaker-custom-attributes")
        passed = {key: value for key, value in headers.items() if key.lower() in kept}
        status, answer = endpoint.container.ask("POST", "/invocations", body, passed)
        if status == 200:
            return 200, answer, ""
        told = f'Received client error ({status}) from primary with message "{answer.decode(errors="replace")}".'
        fault = {"Message": told, "OriginalStatusCode": status, "OriginalMessage": answer.decode(errors="replace")}
        return 424, json.dumps(fault).encode(), "ModelError"

    # -- inside

    def _endpoint(self, name: str) -> Endpoint:
        if name not in self.endpoints:
            raise Refusal("ValidationException", f'Could not find endpoint "{_arn("endpoint", name)}".')
        return self.endpoints[name]

    def _config(self, request: Json) -> Json:
        name = request["EndpointConfigName"]
        if name not in self.configs:
            arn = _arn("endpoint-config", name)
            raise Refusal("ValidationException", f'Could not find endpoint configuration "{arn}".')
        return self.configs[name]

    def _begin(self, endpoint: Endpoint, request: Json) -> None:
        thread = threading.Thread(target=self._deploy, args=(endpoint, request))
        self._threads.append(thread)
        thread.start()

    def _deploy(self, endpoint: Endpoint, request: Json) -> None:
        try:
            self._swap(endpoint, request)
        except Exception as error:  # noqa: BLE001 - a broken emulator must fail the test, not hang it
            endpoint.description |= {"EndpointStatus": "Failed", "FailureReason": f"{type(error).__name__}: {error}"}
        endpoint.description.pop("PendingDeploymentSummary", None)

    def _swap(self, endpoint: Endpoint, request: Json) -> None:
        """Blue/green: a new container beside the old one, which ends once the new one answers."""
        container = self._start(self._config(request))
        problem = container.healthy()
        rollback = request.get("DeploymentConfig", {}).get("AutoRollbackConfiguration", {}).get("Alarms", [])
        if any(alarm["AlarmName"] in self.alarmed for alarm in rollback):
            problem = "One or more alarms were activated during baking."
        if problem:
            container.stop()
            state = "Failed" if endpoint.container is None else "InService"
            endpoint.description |= {"EndpointStatus": state, "FailureReason": problem}
            return
        old, endpoint.container = endpoint.container, container
        endpoint.description.pop("FailureReason", None)
        endpoint.description |= {
            "EndpointStatus": "InService",
            "EndpointConfigName": request["EndpointConfigName"],
        }
        if old is not None:
            old.stop()

    def _start(self, config: Json) -> Container:
        model = self.models[config["ProductionVariants"][0]["ModelName"]]["PrimaryContainer"]
        folder = self._emulator.folder / f"endpoint-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        bucket, _, key = model["ModelDataUrl"].removeprefix("s3://").partition("/")
        archive = folder / "model.tar.gz"
        self._emulator.s3.download_file(bucket, key, str(archive))
        shutil.rmtree(folder / "model", ignore_errors=True)
        container = Container(folder, archive, {**model["Environment"], **self._emulator.environment})
        self.containers.append(container)
        return container


def _arn(kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:{kind}/{name}"

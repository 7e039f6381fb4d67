"""An endpoint is made, or updated, to serve a version. Every step may be repeated: names follow from contents."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segloop.aws.checks import check_request, check_settings
from segloop.aws.clients import ATTEMPTS, Clients, explained, none_if
from segloop.aws.endpoints.packing import archive_files, write_archive
from segloop.aws.endpoints.requests import EndpointRequests, EndpointSpec, requests_of
from segloop.aws.uploads import Bucket, Folder, digest_of
from segloop.errors import EngineError, SettingsError
from segloop.registry import Registry, VersionInfo
from segloop.settings import Settings

ARCHIVE = "model.tar.gz"
#: Longest time that an endpoint's change is waited for, in seconds.
WAIT_S = 3600.0

_MISSING = r"\(ValidationException\).*could not find"
# The names of models and configurations follow from their content.
_THERE = "already existing"
_CHANGING = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")

#: Is told in a sentence what happens now.
Say = Callable[[str], None]


@dataclass(frozen=True)
class Deployed:
    """What a deployment did to the endpoint, and its requests."""

    done: Literal["nothing", "unchanged", "created", "updated"]
    requests: EndpointRequests


@dataclass(frozen=True)
class _Endpoint:
    """What DescribeEndpoint says: `pending` is the configuration that an update under way brings."""

    status: str
    config: str
    pending: str
    failure: str

    def serves(self, config: str) -> bool:
        return self.status == "InService" and self.config == config

    def is_going_to(self, config: str) -> bool:
        return self.status in ("Creating", "Updating") and (self.pending or self.config) == config


class Deployment:
    """What makes an endpoint serve a version.

    Args:
        attempts: times that a call of AWS is tried in all.

    Raises:
        SettingsError: a setting is missing or breaks one of SageMaker's rules.
    """

    def __init__(self, settings: Settings, registry: Registry, *, attempts: int = ATTEMPTS) -> None:
        check_settings(settings)
        if not settings.sagemaker_role:
            raise SettingsError("SEGLOOP_SAGEMAKER_ROLE is empty: give the ARN of the role that the endpoint has.")
        self._settings = settings
        self._registry = registry
        self._clients = Clients(settings, attempts)
        self._bucket = Bucket(self._clients, settings.sagemaker_s3)

    def deploy(self, info: VersionInfo, spec: EndpointSpec, say: Say, *, dry_run: bool = False) -> Deployed:
        """Make or update the endpoint, and wait until it serves the version; what was done, and the requests.

        A dry run checks the requests and sends nothing. Nothing is sent either where the endpoint is so already.

        Raises:
            RegistryError: the version's files cannot be had.
            SettingsError: a setting or an option that SageMaker's requests do not take.
            EngineError: the endpoint did not take the version; the text has SageMaker's reason.
            TrainingError: AWS refused.
            TrainerUnavailable: AWS cannot be reached now.
        """
        with tempfile.TemporaryDirectory(prefix="segloop-endpoint-") as scratch:
            # an engine is picked for the endpoint's machines
            engine = "torch" if spec.on_gpu else "auto"
            settings = self._settings.model_copy(update={"engine": engine, "device": "cpu"})
            files = archive_files(self._registry, info, settings, Path(scratch))
            key = f"endpoints/{digest_of(files)}"
            requests = self._requests(spec, info, self._bucket.uri(f"{key}/{ARCHIVE}"))
            if dry_run:
                return Deployed("nothing", requests)
            before = self._describe(spec.endpoint)
            if before is not None and before.serves(requests.config_name):
                return Deployed("unchanged", requests)
            if before is None or not before.is_going_to(requests.config_name):
                _check_free(spec.endpoint, before)
                say(f"Sending {info.version} to {self._bucket.uri(f'{key}/')}")
                archive = Path(scratch) / ARCHIVE
                write_archive(files, archive)
                self._bucket.upload(Folder(key, {ARCHIVE: archive}, ARCHIVE))
                with explained("sagemaker:CreateModel"):
                    none_if(_THERE, self._clients.sagemaker.create_model, **requests.model)
                with explained("sagemaker:CreateEndpointConfig"):
                    none_if(_THERE, self._clients.sagemaker.create_endpoint_config, **requests.config)
                self._change(requests.endpoint, is_new=before is None)
        found = self._wait(spec.endpoint, say)
        if not found.serves(requests.config_name):
            reason = found.failure or "an alarm went off, or its container did not answer /ping"
            raise EngineError(
                f"the endpoint {spec.endpoint} did not take {info.version}: it is {found.status}: {reason}"
            )
        return Deployed("created" if before is None else "updated", requests)

    # -- steps

    def _requests(self, spec: EndpointSpec, info: VersionInfo, archive: str) -> EndpointRequests:
        requests = requests_of(self._settings, self._clients.region, spec, info, archive)
        check_request(self._clients.sagemaker, "CreateModel", requests.model)
        check_request(self._clients.sagemaker, "CreateEndpointConfig", requests.config)
        check_request(self._clients.sagemaker, "UpdateEndpoint", requests.endpoint)
        return requests

    def _change(self, request: dict[str, object], *, is_new: bool) -> None:
        if is_new:
            with explained("sagemaker:CreateEndpoint"):
                # there is nothing to roll back to yet
                self._clients.sagemaker.create_endpoint(
                    **{name: value for name, value in request.items() if name != "DeploymentConfig"}
                )
            return
        with explained("sagemaker:UpdateEndpoint"):
            self._clients.sagemaker.update_endpoint(**request)

    def _wait(self, endpoint: str, say: Say) -> _Endpoint:
        """The endpoint as it is once nothing changes it any more."""
        deadline = time.monotonic() + WAIT_S
        shown = ""
        while True:
            found = self._describe(endpoint)
            if found is None:
                raise EngineError(f"the endpoint {endpoint} was deleted meanwhile")
            if found.status not in _CHANGING:
                return found
            if time.monotonic() > deadline:
                raise EngineError(
                    f"the endpoint {endpoint} is {found.status} for more than {WAIT_S:.0f} s; look at its log"
                )
            if found.status != shown:
                shown = found.status
                say(f"SageMaker: the endpoint {endpoint} is {found.status}")
            time.sleep(min(self._settings.sagemaker_poll_s, 10.0))

    def _describe(self, endpoint: str) -> _Endpoint | None:
        with explained("sagemaker:DescribeEndpoint"):
            found = none_if(_MISSING, self._clients.sagemaker.describe_endpoint, EndpointName=endpoint)
        if found is None:
            return None
        pending = (found.get("PendingDeploymentSummary") or {}).get("EndpointConfigName", "")
        return _Endpoint(
            found["EndpointStatus"], found["EndpointConfigName"], pending, found.get("FailureReason") or ""
        )


def _check_free(endpoint: str, found: _Endpoint | None) -> None:
    if found is None:
        return
    if found.status in _CHANGING:
        raise EngineError(f"the endpoint {endpoint} is {found.status}, to something else: try again when it is not")
    if found.status == "Failed":
        reason = found.failure or "no reason given"
        raise EngineError(
            f"the endpoint {endpoint} could not be created ({reason}): delete it, by "
            f"aws sagemaker delete-endpoint --endpoint-name {endpoint}, and deploy again"
        )

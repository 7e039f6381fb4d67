"""An endpoint is made, or updated, to serve a version. Every step may be repeated: names follow from contents."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from segloop.aws.checks import check_request, check_settings
from segloop.aws.clients import ATTEMPTS, Clients, code_of, explained
from segloop.aws.endpoints.packing import archive_files, write_archive
from segloop.aws.endpoints.requests import Wish, config_request, endpoint_request, model_request
from segloop.aws.uploads import Bucket, Folder, digest_of
from segloop.errors import EngineError, SettingsError
from segloop.registry import Registry, VersionInfo
from segloop.settings import Settings

logger = logging.getLogger(__name__)

ARCHIVE = "model.tar.gz"
#: Longest time that an endpoint's change is waited for, in seconds.
WAIT_S = 3600.0

_MISSING = "could not find"
_THERE = "already existing"
_CHANGING = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")

Tell = Callable[[dict[str, Any]], None]


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

    def deploy(self, project: str, version: str, wish: Wish, tell: Tell, *, dry_run: bool = False) -> dict[str, Any]:
        """Make or update the endpoint, and wait until it serves the version; what was done, and the requests.

        A dry run checks the requests and sends nothing. Nothing is sent either where the endpoint is so already.

        Raises:
            VersionNotFound, RegistryError: the version cannot be had.
            SettingsError: a setting or an option that SageMaker's requests do not take.
            EngineError: the endpoint did not take the version; the text has SageMaker's reason.
            TrainingError: AWS refused.
            TrainerUnavailable: AWS cannot be reached now.
        """
        info = self._registry.get(project, version)
        with tempfile.TemporaryDirectory(prefix="segloop-endpoint-") as scratch:
            files = archive_files(self._registry, info, self._settings_of(wish), Path(scratch))
            key = f"endpoints/{digest_of(files)}"
            requests = self._requests(wish, info, self._bucket.uri(f"{key}/{ARCHIVE}"))
            if dry_run:
                return {"done": "nothing", **requests}
            before = self._describe(wish.endpoint)
            config = requests["endpoint"]["EndpointConfigName"]
            if before is not None and _serves(before, config):
                return {"done": "unchanged", **requests}
            if before is None or not _is_going_to(before, config):
                _check_free(wish.endpoint, before)
                tell({"message": f"Sending {version} to {self._bucket.uri(f'{key}/')}"})
                self._upload(key, files, Path(scratch) / ARCHIVE)
                with explained("sagemaker:CreateModel"):
                    _unless_there(self._clients.sagemaker.create_model, requests["model"])
                with explained("sagemaker:CreateEndpointConfig"):
                    _unless_there(self._clients.sagemaker.create_endpoint_config, requests["config"])
                self._change(requests["endpoint"], is_new=before is None)
        self._wait(wish.endpoint, config, version, tell)
        return {"done": "created" if before is None else "updated", **requests}

    # -- steps

    def _requests(self, wish: Wish, info: VersionInfo, archive: str) -> dict[str, dict[str, Any]]:
        model = model_request(self._settings, self._clients.region, wish, info, archive)
        config = config_request(wish, info, model)
        endpoint = endpoint_request(wish, config)
        for operation, request in (
            ("CreateModel", model),
            ("CreateEndpointConfig", config),
            ("UpdateEndpoint", endpoint),
        ):
            check_request(self._clients.sagemaker, operation, request)
        return {"model": model, "config": config, "endpoint": endpoint}

    def _upload(self, key: str, files: dict[str, Path], archive: Path) -> None:
        write_archive(files, archive)
        sent = self._bucket.upload(Folder(key, {ARCHIVE: archive}, ARCHIVE))
        logger.info("%s: %s", self._bucket.uri(f"{key}/{ARCHIVE}"), "sent" if sent else "it is there")

    def _change(self, request: dict[str, Any], *, is_new: bool) -> None:
        if is_new:
            with explained("sagemaker:CreateEndpoint"):
                # there is nothing to roll back to yet
                self._clients.sagemaker.create_endpoint(
                    **{name: value for name, value in request.items() if name != "DeploymentConfig"}
                )
            return
        with explained("sagemaker:UpdateEndpoint"):
            self._clients.sagemaker.update_endpoint(**request)

    def _wait(self, endpoint: str, config: str, version: str, tell: Tell) -> None:
        deadline = time.monotonic() + WAIT_S
        shown = ""
        while True:
            found = self._describe(endpoint)
            if found is None:
                raise EngineError(f"the endpoint {endpoint} was deleted meanwhile")
            status = found["EndpointStatus"]
            if status not in _CHANGING:
                break
            if time.monotonic() > deadline:
                raise EngineError(f"the endpoint {endpoint} is {status} for more than {WAIT_S:.0f} s; look at its log")
            if status != shown:
                shown = status
                tell({"message": f"SageMaker: the endpoint {endpoint} is {status}"})
            time.sleep(min(self._settings.sagemaker_poll_s, 10.0))
        if not _serves(found, config):
            reason = found.get("FailureReason") or "an alarm went off, or its container did not answer /ping"
            raise EngineError(f"the endpoint {endpoint} did not take {version}: it is {status}: {reason}")

    def _describe(self, endpoint: str) -> dict[str, Any] | None:
        with explained("sagemaker:DescribeEndpoint"):
            try:
                found: dict[str, Any] = self._clients.sagemaker.describe_endpoint(EndpointName=endpoint)
            except ClientError as error:
                if code_of(error) == "ValidationException" and _MISSING in str(error).lower():
                    return None
                raise
        return found

    def _settings_of(self, wish: Wish) -> Settings:
        """The settings by which an engine is picked on the endpoint's machines."""
        engine = "torch" if wish.on_gpu else "auto"
        return self._settings.model_copy(update={"engine": engine, "device": "cpu"})


def _unless_there(create: Callable[..., Any], request: dict[str, Any]) -> None:
    """Create what has a name that follows from its content, unless it is there."""
    try:
        create(**request)
    except ClientError as error:
        if _THERE not in str(error):
            raise


def _serves(found: dict[str, Any], config: str) -> bool:
    return bool(found["EndpointStatus"] == "InService" and found["EndpointConfigName"] == config)


def _is_going_to(found: dict[str, Any], config: str) -> bool:
    """Whether an update to a configuration is under way."""
    pending = (found.get("PendingDeploymentSummary") or {}).get("EndpointConfigName") or found["EndpointConfigName"]
    return bool(found["EndpointStatus"] in ("Creating", "Updating") and pending == config)


def _check_free(endpoint: str, found: dict[str, Any] | None) -> None:
    if found is None:
        return
    status = found["EndpointStatus"]
    if status in _CHANGING:
        raise EngineError(f"the endpoint {endpoint} is {status}, to something else: try again when it is not")
    if status == "Failed":
        reason = found.get("FailureReason") or "no reason given"
        raise EngineError(
            f"the endpoint {endpoint} could not be created ({reason}): delete it, by "
            f"aws sagemaker delete-endpoint --endpoint-name {endpoint}, and deploy again"
        )

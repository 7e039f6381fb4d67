"""The requests that make an endpoint, and the names in them: the same wish gives the same names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from segloop.aws.endpoints.handler import REQUEST_BYTES
from segloop.aws.training.requests import default_image, has_gpu, tag_of
from segloop.registry import VersionInfo
from segloop.settings import Settings

_IMAGE = "pytorch-inference:2.6.0-{processor}-py312"
_VARIANT = "segloop"
#: How long an update with alarms watches them before the old instances end, in seconds.
WATCH_S = 300
#: How long a container may take to install what its image lacks and to load the version, in seconds.
_STARTUP_S = 600


@dataclass(frozen=True)
class Wish:
    """What an endpoint is to be: instances of a type, or serverless with so much memory where `serverless_mb` is given.

    `alarms` are names of CloudWatch alarms: one that goes off during an update rolls it back. `image` is a container
    image in place of AWS's own.
    """

    endpoint: str
    instance: str = "ml.c6i.xlarge"
    count: int = 1
    serverless_mb: int = 0
    concurrency: int = 5
    alarms: tuple[str, ...] = ()
    image: str = ""

    @property
    def on_gpu(self) -> bool:
        """Whether its instances have a GPU."""
        return not self.serverless_mb and has_gpu(self.instance)


def model_request(settings: Settings, region: str, wish: Wish, info: VersionInfo, archive: str) -> dict[str, Any]:
    """The request of CreateModel; `archive` is the address of model.tar.gz."""
    instance = "" if wish.serverless_mb else wish.instance
    request: dict[str, Any] = {
        "PrimaryContainer": {
            "Image": wish.image or default_image(region, instance, _IMAGE, "There is no --image"),
            "ModelDataUrl": archive,
            "Environment": {
                "SAGEMAKER_PROGRAM": "inference.py",
                # one process uses all cores
                "SAGEMAKER_MODEL_SERVER_WORKERS": "1",
                # of the server in AWS's image, whose own limit is 6.5 MB
                "TS_MAX_REQUEST_SIZE": str(REQUEST_BYTES),
                "TS_MAX_RESPONSE_SIZE": str(REQUEST_BYTES),
                "SEGLOOP_LOG_LEVEL": settings.log_level,
            },
        },
        "ExecutionRoleArn": settings.sagemaker_role,
        "Tags": [
            {"Key": "segloop-project", "Value": info.project},
            {"Key": "segloop-version", "Value": info.version},
            *map(tag_of, settings.sagemaker_tags),
        ],
    }
    if settings.sagemaker_subnets and not wish.serverless_mb:
        request["VpcConfig"] = {
            "Subnets": list(settings.sagemaker_subnets),
            "SecurityGroupIds": list(settings.sagemaker_security_groups),
        }
    return {"ModelName": _name(info.version, request), **request}


def config_request(wish: Wish, info: VersionInfo, model: dict[str, Any]) -> dict[str, Any]:
    """The request of CreateEndpointConfig."""
    variant: dict[str, Any] = {"VariantName": _VARIANT, "ModelName": model["ModelName"]}
    if wish.serverless_mb:
        variant["ServerlessConfig"] = {"MemorySizeInMB": wish.serverless_mb, "MaxConcurrency": wish.concurrency}
    else:
        variant |= {
            "InstanceType": wish.instance,
            "InitialInstanceCount": wish.count,
            "InitialVariantWeight": 1.0,
            "ContainerStartupHealthCheckTimeoutInSeconds": _STARTUP_S,
        }
    request = {"ProductionVariants": [variant], "Tags": model["Tags"]}
    return {"EndpointConfigName": _name(info.version, request), **request}


def endpoint_request(wish: Wish, config: dict[str, Any]) -> dict[str, Any]:
    """The request of CreateEndpoint or UpdateEndpoint, which is blue/green: the old instances answer until the new ones do."""
    request: dict[str, Any] = {"EndpointName": wish.endpoint, "EndpointConfigName": config["EndpointConfigName"]}
    if wish.alarms:
        request["DeploymentConfig"] = {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": WATCH_S},
                "TerminationWaitInSeconds": 0,
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in wish.alarms]},
        }
    return request


def _name(version: str, request: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    return f"segloop-{version}-{digest[:12]}"

"""The requests that make an endpoint, and the names in them: the same specification gives the same names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from segloop.aws.endpoints.handler import REQUEST_BYTES
from segloop.aws.training.requests import INFERENCE_IMAGE, default_image, has_gpu, tag_of, vpc_of
from segloop.registry import VersionInfo
from segloop.settings import Settings

#: The name of an endpoint's only variant.
VARIANT = "segloop"
#: How long an update with alarms watches them before the old instances end, in seconds.
WATCH_S = 300
#: How long a container may take to install what its image lacks and to load the version, in seconds.
_STARTUP_S = 600


@dataclass(frozen=True)
class EndpointSpec:
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


@dataclass(frozen=True)
class EndpointRequests:
    """The requests of CreateModel, CreateEndpointConfig, and UpdateEndpoint (or CreateEndpoint), and the configuration's name."""

    config_name: str
    model: dict[str, object]
    config: dict[str, object]
    endpoint: dict[str, object]


def requests_of(
    settings: Settings, region: str, spec: EndpointSpec, info: VersionInfo, archive: str
) -> EndpointRequests:
    """The requests that have an endpoint serve a version; `archive` is the address of its model.tar.gz."""
    tags = [
        {"Key": "segloop-project", "Value": info.project},
        {"Key": "segloop-version", "Value": info.version},
        *map(tag_of, settings.sagemaker_tags),
    ]
    model: dict[str, object] = {
        "PrimaryContainer": _container(settings, region, spec, archive),
        "ExecutionRoleArn": settings.sagemaker_role,
        "Tags": tags,
        **({} if spec.serverless_mb else vpc_of(settings)),
    }
    model_name = _name(info.version, model)
    config: dict[str, object] = {"ProductionVariants": [_variant(spec, model_name)], "Tags": tags}
    config_name = _name(info.version, config)
    return EndpointRequests(
        config_name,
        {"ModelName": model_name, **model},
        {"EndpointConfigName": config_name, **config},
        {"EndpointName": spec.endpoint, "EndpointConfigName": config_name, **_update(spec)},
    )


def _container(settings: Settings, region: str, spec: EndpointSpec, archive: str) -> dict[str, object]:
    instance = "" if spec.serverless_mb else spec.instance
    return {
        "Image": spec.image or default_image(region, instance, INFERENCE_IMAGE, "There is no --image"),
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
    }


def _variant(spec: EndpointSpec, model_name: str) -> dict[str, object]:
    named = {"VariantName": VARIANT, "ModelName": model_name}
    if spec.serverless_mb:
        return {
            **named,
            "ServerlessConfig": {"MemorySizeInMB": spec.serverless_mb, "MaxConcurrency": spec.concurrency},
        }
    return {
        **named,
        "InstanceType": spec.instance,
        "InitialInstanceCount": spec.count,
        "InitialVariantWeight": 1.0,
        "ContainerStartupHealthCheckTimeoutInSeconds": _STARTUP_S,
    }


def _update(spec: EndpointSpec) -> dict[str, object]:
    """How an endpoint is updated: blue/green, so that the old instances answer until the new ones do."""
    if not spec.alarms:
        return {}
    return {
        "DeploymentConfig": {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": WATCH_S},
                "TerminationWaitInSeconds": 0,
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in spec.alarms]},
        }
    }


def _name(version: str, request: dict[str, object]) -> str:
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    return f"segloop-{version}-{digest[:12]}"

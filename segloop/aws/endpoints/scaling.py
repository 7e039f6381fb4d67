"""An endpoint's instances by its load, and its end."""

from __future__ import annotations

from typing import Final

from segloop.aws.checks import check_request
from segloop.aws.clients import Clients, explained, none_if
from segloop.aws.endpoints.requests import VARIANT
from segloop.errors import EngineError

#: Requests that an instance answers in a minute before there is another, and how long is waited before one goes, in seconds.
PER_MINUTE: Final = 60
IDLE_S: Final = 600
_SERVICE: Final = "sagemaker"
_DIMENSION: Final = "sagemaker:variant:DesiredInstanceCount"
_GONE: Final = r"\((ValidationException|ObjectNotFoundException)\)"
#: How the names of what segloop makes for an endpoint begin.
_OURS: Final = "segloop-"


def scale(clients: Clients, endpoint: str, least: int, most: int) -> None:
    """Have an endpoint between so many instances, by its requests a minute; done again, it changes what differs.

    Raises:
        SettingsError: numbers that AWS does not take.
        TrainingError: AWS refused; TrainerUnavailable, it cannot be reached now.
    """
    client = clients.client("application-autoscaling")
    target = {"ServiceNamespace": _SERVICE, "ResourceId": _resource(endpoint), "ScalableDimension": _DIMENSION}
    bounds = {**target, "MinCapacity": least, "MaxCapacity": most}
    policy = {
        **target,
        "PolicyName": f"segloop-{endpoint}",
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": float(PER_MINUTE),
            "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
            "ScaleInCooldown": IDLE_S,
        },
    }
    check_request(client, "RegisterScalableTarget", bounds)
    check_request(client, "PutScalingPolicy", policy)
    with explained("application-autoscaling:RegisterScalableTarget"):
        client.register_scalable_target(**bounds)
    with explained("application-autoscaling:PutScalingPolicy"):
        client.put_scaling_policy(**policy)


def delete(clients: Clients, endpoint: str) -> list[str]:
    """Delete an endpoint that segloop made, with its scaling, its configuration and its models; what is deleted.

    One that is not there leaves nothing to delete. The models' files stay in the bucket.

    Raises:
        EngineError: somebody else made it.
        TrainingError: AWS refused; TrainerUnavailable, it cannot be reached now.
    """
    sagemaker = clients.sagemaker
    with explained("sagemaker:DescribeEndpoint"):
        found = none_if(_GONE, sagemaker.describe_endpoint, EndpointName=endpoint)
    if found is None:
        return []
    config = found["EndpointConfigName"]
    if not config.startswith(_OURS):
        raise EngineError(f"the endpoint {endpoint} has the configuration {config}, which segloop did not make")
    with explained("sagemaker:DescribeEndpointConfig"):
        described = none_if(_GONE, sagemaker.describe_endpoint_config, EndpointConfigName=config)
    models = [variant["ModelName"] for variant in (described or {}).get("ProductionVariants", [])]
    with explained("application-autoscaling:DeregisterScalableTarget"):
        scaling = {"ServiceNamespace": _SERVICE, "ResourceId": _resource(endpoint), "ScalableDimension": _DIMENSION}
        none_if(_GONE, clients.client("application-autoscaling").deregister_scalable_target, **scaling)
    with explained("sagemaker:DeleteEndpoint"):
        sagemaker.delete_endpoint(EndpointName=endpoint)
    with explained("sagemaker:DeleteEndpointConfig"):
        none_if(_GONE, sagemaker.delete_endpoint_config, EndpointConfigName=config)
    for model in models:
        with explained("sagemaker:DeleteModel"):
            none_if(_GONE, sagemaker.delete_model, ModelName=model)
    return [f"endpoint {endpoint}", f"configuration {config}", *(f"model {model}" for model in models)]


def _resource(endpoint: str) -> str:
    return f"endpoint/{endpoint}/variant/{VARIANT}"

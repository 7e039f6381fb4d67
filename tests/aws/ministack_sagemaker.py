"""ministack with the two SageMaker types of CloudFormation that it lacks: made in the SageMaker at AWS_ENDPOINT_URL_SAGEMAKER.

Events of AWS's own are taken from that SageMaker too, which EventBridge refuses to anybody else. It runs in ministack's own interpreter, in the place of `python -m ministack`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from botocore.session import get_session
from ministack.app import main
from ministack.services import eventbridge
from ministack.services.cloudformation import provisioners

Props = dict[str, Any]


def sagemaker() -> Any:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return get_session().create_client("sagemaker", "us-east-1", **keys)


def create_pipeline(logical_id: str, props: Props, stack: str) -> tuple[str, Props]:
    sagemaker().create_pipeline(ClientRequestToken=f"{stack:x<32}", **definition(props))
    return props["PipelineName"], {}


def update_pipeline(physical_id: str, old: Props, new: Props, stack: str) -> tuple[str, Props]:
    sagemaker().update_pipeline(**definition(new))
    return physical_id, {}


def delete_pipeline(physical_id: str, props: Props) -> None:
    sagemaker().delete_pipeline(PipelineName=physical_id, ClientRequestToken=f"{physical_id:x<32}")


def create_group(logical_id: str, props: Props, stack: str) -> tuple[str, Props]:
    sagemaker().create_model_package_group(**{name: props[name] for name in props if name != "Tags"})
    return props["ModelPackageGroupName"], {"ModelPackageGroupName": props["ModelPackageGroupName"]}


def delete_group(physical_id: str, props: Props) -> None:
    sagemaker().delete_model_package_group(ModelPackageGroupName=physical_id)


def definition(props: Props) -> Props:
    """A request's fields of a resource's properties."""
    return {
        **{name: props[name] for name in props if name not in ("PipelineDefinition", "Tags")},
        "PipelineDefinition": props["PipelineDefinition"]["PipelineDefinitionBody"],
    }


eventbridge._put_events = partial(eventbridge._put_events, allow_aws_source=True)
provisioners._RESOURCE_HANDLERS |= {
    "AWS::SageMaker::Pipeline": {"create": create_pipeline, "update": update_pipeline, "delete": delete_pipeline},
    "AWS::SageMaker::ModelPackageGroup": {"create": create_group, "delete": delete_group},
}
main()

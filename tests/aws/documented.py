"""What AWS's documentation says of requests and resources, and neither botocore nor an emulator holds them to.

`RULES` are patterns, ranges and dependencies between fields, each with the page it is from (below docs.aws.amazon.com). `problems_of` checks
a request by them and by all that botocore's own model tells (largest sizes, patterns, enumerations, which botocore does not check
itself); `watched` has it check every request that a process sends. `resource_problems` checks a resource of a rendered template.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from botocore import handlers
from botocore.model import OperationModel

from segloop.aws.checks import problems

Holds = Callable[[Any], bool]


@dataclass(frozen=True)
class Rule:
    """A rule for a value of some requests of a service, or of resources of a type.

    Args:
        of: `service` or a resource's type.
        operations: expression that names the operations; "" for a resource.
        path: names of members down to the value; `*` is each item of a list or map, and "" the whole request.
        holds: whether a value keeps to it.
        says: the rule in words.
        page: where it is documented.
    """

    of: str
    operations: str
    path: str
    holds: Holds
    says: str
    page: str


def matches(pattern: str) -> Holds:
    """A text of this form."""
    return lambda value: re.fullmatch(pattern, str(value)) is not None


def within(least: float, most: float) -> Holds:
    """A number of this range, as a template may write it as text too."""
    return lambda value: least <= float(value) <= most


def at_most(count: int) -> Holds:
    """A text, list or map of so many characters or items."""
    return lambda value: len(value) <= count


def _is_bucket(name: Any) -> bool:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", str(name)) or ".." in name:
        return False
    if name.startswith(("xn--", "sthree-", "amzn-s3-demo-")):
        return False
    if name.endswith(("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")):
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return True
    return False


def _own_tags(tags: Any) -> bool:
    names = [tag.get("Key", tag.get("key")) for tag in tags]
    return len(set(names)) == len(names) <= 50 and not any(name.lower().startswith("aws:") for name in names)


def _spot(request: Any) -> bool:
    condition, resources = request["StoppingCondition"], request["ResourceConfig"]
    wait_s = condition.get("MaxWaitTimeInSeconds")
    if not request.get("EnableManagedSpotTraining"):
        return wait_s is None
    return (
        wait_s is not None
        and wait_s >= condition["MaxRuntimeInSeconds"]
        and not resources.get("KeepAlivePeriodInSeconds")
    )


def _variant(variant: Any) -> bool:
    if "ServerlessConfig" in variant:
        return not {"InstanceType", "InitialInstanceCount"} & variant.keys()
    return {"InstanceType", "InitialInstanceCount"} <= variant.keys()


def _batch(entries: Any) -> bool:
    ids = [entry["Id"] for entry in entries]
    size = sum(len(entry["MessageBody"].encode()) for entry in entries)
    return 1 <= len(set(ids)) == len(ids) <= 10 and size <= _MESSAGE_BYTES


def _location(request: Any) -> bool:
    place = request.get("CreateBucketConfiguration", {}).get("LocationConstraint")
    return place != "us-east-1"


def _rate(expression: Any) -> bool:
    found = re.fullmatch(r"rate\((\d+) (minute|hour|day)(s?)\)", str(expression))
    return found is not None and int(found[1]) >= 1 and bool(found[3]) == (int(found[1]) > 1)


def _inline_bytes(role: Any) -> bool:
    text = "".join(json.dumps(policy["PolicyDocument"]) for policy in role.get("Policies", []))
    # white space does not count
    return len(re.sub(r"\s", "", text)) <= 10_240


_MESSAGE_BYTES: Final = 2**20
_S3_URI: Final = matches(r"s3://[^/]{3,63}(/.*)?")
_NAME: Final = matches(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
_SM: Final = "sagemaker/latest/APIReference/"
_S3: Final = "AmazonS3/latest/userguide/"
_SQS: Final = "AWSSimpleQueueService/latest/APIReference/"
_CF: Final = "AWSCloudFormation/latest/"

#: Of requests.
RULES: Final = (
    # -- SageMaker
    Rule("sagemaker", "CreateTrainingJob", "TrainingJobName", _NAME, "63 letters, digits and dashes", _SM + "API_CreateTrainingJob.html"),
    Rule("sagemaker", "CreateTrainingJob", "HyperParameters", at_most(100), "100 hyperparameters", _SM + "API_CreateTrainingJob.html"),
    Rule("sagemaker", "CreateTrainingJob", "HyperParameters.*", at_most(256), "256 characters", _SM + "API_CreateTrainingJob.html"),
    Rule("sagemaker", "CreateTrainingJob", "Environment", at_most(100), "100 variables", _SM + "API_CreateTrainingJob.html"),
    Rule("sagemaker", "CreateTrainingJob", "", _spot, "MaxWait with spot alone, at least MaxRuntime, no warm pool", _SM + "API_StoppingCondition.html"),
    Rule("sagemaker", "CreateTrainingJob", "StoppingCondition.MaxRuntimeInSeconds", within(1, 28 * 86400), "28 days", _SM + "API_StoppingCondition.html"),
    Rule("sagemaker", "CreateTrainingJob", "ResourceConfig.VolumeSizeInGB", within(1, 16384), "16 TB", _SM + "API_ResourceConfig.html"),
    Rule("sagemaker", "CreateTrainingJob", "ResourceConfig.KeepAlivePeriodInSeconds", within(0, 21600), "6 hours", _SM + "API_ResourceConfig.html"),
    Rule("sagemaker", "CreateTrainingJob", "InputDataConfig.*.DataSource.S3DataSource.S3Uri", _S3_URI, "s3://bucket/key", _SM + "API_S3DataSource.html"),
    Rule("sagemaker", "CreateTrainingJob", "OutputDataConfig.S3OutputPath", _S3_URI, "s3://bucket/key", _SM + "API_OutputDataConfig.html"),
    Rule("sagemaker", "CreateTrainingJob", "AlgorithmSpecification.MetricDefinitions", at_most(40), "40 metrics", _SM + "API_AlgorithmSpecification.html"),
    Rule("sagemaker", "StartPipelineExecution|StopPipelineExecution", "ClientRequestToken", matches(r"[ -~]{32,128}"), "32 to 128 characters", _SM + "API_StartPipelineExecution.html"),
    Rule("sagemaker", "StartPipelineExecution", "PipelineExecutionDisplayName", matches(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,81}"), "82 letters, digits and dashes", _SM + "API_StartPipelineExecution.html"),
    Rule("sagemaker", "StartPipelineExecution", "PipelineParameters.*.Value", at_most(1024), "1,024 characters", _SM + "API_Parameter.html"),
    Rule("sagemaker", "CreateModel", "PrimaryContainer.Environment.*", at_most(1024), "1,024 characters", _SM + "API_ContainerDefinition.html"),
    Rule("sagemaker", "CreateModel", "PrimaryContainer.Environment", lambda found: len("".join((*found, *found.values())).encode()) <= 32 * 1024, "32 KB of names and values", _SM + "API_ContainerDefinition.html"),
    Rule("sagemaker", "CreateModelPackage", "InferenceSpecification.Containers.*.Environment", at_most(16), "16 variables", _SM + "API_ModelPackageContainerDefinition.html"),
    Rule("sagemaker", "CreateEndpointConfig", "ProductionVariants.*", _variant, "instances, or serverless", _SM + "API_ProductionVariant.html"),
    Rule("sagemaker", "CreateEndpointConfig", "ProductionVariants.*.ServerlessConfig.MemorySizeInMB", lambda size: size in range(1024, 6145, 1024), "whole GB, 1 to 6", _SM + "API_ProductionVariantServerlessConfig.html"),
    Rule("sagemaker", "Create(Model|Endpoint|EndpointConfig)", "(Model|Endpoint|EndpointConfig)Name", _NAME, "63 letters, digits and dashes", _SM + "API_CreateEndpoint.html"),
    Rule("sagemaker|cloudformation", ".*", "Tags", _own_tags, "50 tags, each once, none of AWS's own", "general/latest/gr/aws_tagging.html"),
    # -- S3
    Rule("s3", "(?!ListBuckets|.*(Policy|Notification|Block)).*", "Bucket", _is_bucket, "a bucket's name", _S3 + "bucketnamingrules.html"),
    Rule("s3", ".*Object", "Key", lambda key: 1 <= len(key.encode()) <= 1024, "1,024 bytes", _S3 + "object-keys.html"),
    Rule("s3", "DeleteObjects", "Delete.Objects", lambda found: 1 <= len(found) <= 1000, "1,000 keys", "AmazonS3/latest/API/API_DeleteObjects.html"),
    Rule("s3", "CreateBucket", "", _location, "us-east-1 takes no LocationConstraint", "AmazonS3/latest/API/API_CreateBucket.html"),
    Rule("s3", "List.*", "MaxKeys", within(1, 1000), "1,000 keys", "AmazonS3/latest/API/API_ListObjectsV2.html"),
    # -- SQS
    Rule("sqs", "SendMessage", "MessageBody", lambda body: 1 <= len(body.encode()) <= _MESSAGE_BYTES, "1 MiB", _SQS + "API_SendMessage.html"),
    Rule("sqs", "SendMessageBatch", "Entries", _batch, "10 messages with ids of their own, 1 MiB in all", _SQS + "API_SendMessageBatch.html"),
    Rule("sqs", ".*Batch", "Entries.*.Id", matches(r"[A-Za-z0-9_-]{1,80}"), "80 letters, digits, dashes and _", _SQS + "API_SendMessageBatchRequestEntry.html"),
    Rule("sqs", "ReceiveMessage", "MaxNumberOfMessages", within(1, 10), "10 messages", _SQS + "API_ReceiveMessage.html"),
    Rule("sqs", "ReceiveMessage", "WaitTimeSeconds", within(0, 20), "20 s", _SQS + "API_ReceiveMessage.html"),
    Rule("sqs", "ReceiveMessage|ChangeMessageVisibility", "VisibilityTimeout", within(0, 43200), "12 hours", _SQS + "API_ChangeMessageVisibility.html"),
    # -- CloudFormation, which sends API Gateway, Lambda, EventBridge and IAM their requests
    Rule("cloudformation", "CreateChangeSet", "TemplateBody", lambda body: len(body.encode()) <= 51_200, "51,200 bytes", _CF + "UserGuide/cloudformation-limits.html"),
    Rule("cloudformation", "CreateChangeSet", "StackName", matches(r"[a-zA-Z][-a-zA-Z0-9]{0,127}"), "128 letters, digits and dashes", _CF + "APIReference/API_CreateChangeSet.html"),
    Rule("cloudformation", "CreateChangeSet", "ChangeSetName", matches(r"[a-zA-Z][-a-zA-Z0-9]{0,127}"), "128 letters, digits and dashes", _CF + "APIReference/API_CreateChangeSet.html"),
    Rule("cloudformation", "CreateChangeSet", "Parameters", at_most(200), "200 parameters", _CF + "UserGuide/cloudformation-limits.html"),
    Rule("cloudformation", "CreateChangeSet", "Parameters.*.ParameterValue", lambda text: len(text.encode()) <= 4096, "4,096 bytes", _CF + "UserGuide/cloudformation-limits.html"),
    Rule("application-autoscaling", "RegisterScalableTarget", "", lambda one: 0 <= one["MinCapacity"] <= one["MaxCapacity"], "the least at most the most", "autoscaling/application/APIReference/API_RegisterScalableTarget.html"),
)  # fmt: skip

#: Of resources.
RESOURCES: Final = (
    Rule("AWS::Lambda::Function", "", "Timeout", within(1, 900), "15 minutes", "lambda/latest/api/API_CreateFunction.html"),
    Rule("AWS::Lambda::Function", "", "MemorySize", within(128, 10240), "128 MB to 10 GB", "lambda/latest/api/API_CreateFunction.html"),
    Rule("AWS::Lambda::Function", "", "Description", at_most(256), "256 characters", "lambda/latest/api/API_CreateFunction.html"),
    Rule("AWS::Lambda::Function", "", "Environment.Variables", lambda found: len(json.dumps(found)) <= 4096, "4 KB", "lambda/latest/dg/gettingstarted-limits.html"),
    Rule("AWS::Lambda::EventSourceMapping", "", "", lambda one: int(one.get("BatchSize", 10)) <= 10 or int(one.get("MaximumBatchingWindowInSeconds", 0)) >= 1, "more than 10 messages need a window", "lambda/latest/api/API_CreateEventSourceMapping.html"),
    Rule("AWS::Lambda::EventSourceMapping", "", "ScalingConfig.MaximumConcurrency", within(2, 1000), "2 to 1,000", "lambda/latest/api/API_ScalingConfig.html"),
    Rule("AWS::SQS::Queue", "", "VisibilityTimeout", within(0, 43200), "12 hours", _SQS + "API_SetQueueAttributes.html"),
    Rule("AWS::SQS::Queue", "", "MessageRetentionPeriod", within(60, 1209600), "a minute to 14 days", _SQS + "API_SetQueueAttributes.html"),
    Rule("AWS::SQS::Queue", "", "RedrivePolicy.maxReceiveCount", within(1, 1000), "1 to 1,000", _SQS + "API_SetQueueAttributes.html"),
    Rule("AWS::Events::Rule", "", "Description", at_most(512), "512 characters", "eventbridge/latest/APIReference/API_PutRule.html"),
    Rule("AWS::Events::Rule", "", "EventPattern", lambda pattern: len(json.dumps(pattern)) <= 2048, "2,048 characters", "eventbridge/latest/userguide/eb-quota.html"),
    Rule("AWS::Events::Rule", "", "ScheduleExpression", _rate, "rate(1 minute), rate(5 minutes)", "eventbridge/latest/userguide/eb-scheduled-rule-pattern.html"),
    Rule("AWS::Events::Rule", "", "Targets", lambda found: 1 <= len(found) <= 5, "5 targets", "eventbridge/latest/userguide/eb-quota.html"),
    Rule("AWS::Events::Rule", "", "Targets.*.Id", matches(r"[.\-_A-Za-z0-9]{1,64}"), "64 characters", "eventbridge/latest/APIReference/API_Target.html"),
    Rule("AWS::IAM::Role", "", "", _inline_bytes, "10,240 characters of inline policies", "IAM/latest/UserGuide/reference_iam-quotas.html"),
    Rule("AWS::IAM::Role", "", "AssumeRolePolicyDocument", lambda found: len(re.sub(r"\s", "", json.dumps(found))) <= 2048, "2,048 characters", "IAM/latest/UserGuide/reference_iam-quotas.html"),
    Rule("AWS::IAM::Role", "", "Description", at_most(1000), "1,000 characters", "IAM/latest/APIReference/API_CreateRole.html"),
    Rule("AWS::IAM::Role", "", "Policies.*.PolicyName", matches(r"[\w+=,.@-]{1,128}"), "128 characters", "IAM/latest/APIReference/API_PutRolePolicy.html"),
    Rule("AWS::IAM::ManagedPolicy", "", "PolicyDocument", lambda found: len(re.sub(r"\s", "", json.dumps(found))) <= 6144, "6,144 characters", "IAM/latest/UserGuide/reference_iam-quotas.html"),
    Rule("AWS::ApiGatewayV2::Integration", "", "TimeoutInMillis", within(50, 30_000), "30 s", "apigateway/latest/developerguide/http-api-quotas.html"),
    Rule("AWS::ApiGatewayV2::Route", "", "RouteKey", matches(r"\$default|(ANY|GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS) /\S*"), "a method and a path", "apigateway/latest/developerguide/http-api-develop-routes.html"),
    Rule("AWS::ApiGatewayV2::Stage", "", "StageName", matches(r"\$default|[A-Za-z0-9_-]{1,128}"), "128 letters, digits, dashes and _", "apigatewayv2/latest/api-reference/apis-apiid-stages.html"),
)  # fmt: skip


def problems_of(service: str, model: OperationModel, request: Mapping[str, Any]) -> Iterator[str]:
    """What a request breaks."""
    if (
        model.input_shape is not None and service != "s3"
    ):  # whose model has neither patterns nor sizes, and whose bodies are streams
        yield from (f"{path}: {problem}" for path, problem in problems(model.input_shape, request))
    for rule in RULES:
        if re.fullmatch(rule.of, service) and re.fullmatch(rule.operations, model.name):
            yield from _broken(rule, request)


def resource_problems(kind: str, properties: Mapping[str, Any]) -> Iterator[str]:
    """What a resource of a rendered template breaks."""
    for rule in RESOURCES:
        if rule.of == kind:
            yield from _broken(rule, properties)


@contextmanager
def watched(seen: Callable[[str, str], None] = lambda service, operation: None) -> Iterator[None]:
    """Have every request of a client that is made within fail with what it breaks, before it is sent."""

    def check(params: Mapping[str, Any], model: OperationModel, **_: Any) -> None:
        service = str(model.service_model.service_name)
        seen(service, model.name)
        found = list(problems_of(service, model, params))
        assert not found, f"{service} {model.name}: {found}"

    entry = ("provide-client-params", check)
    handlers.BUILTIN_HANDLERS.append(entry)
    try:
        yield
    finally:
        handlers.BUILTIN_HANDLERS.remove(entry)


def _broken(rule: Rule, request: Any) -> Iterator[str]:
    for place, value in _values(request, rule.path.split(".") if rule.path else [], ""):
        if not rule.holds(value):
            yield f"{place or 'the request'} is {str(value)[:200]!r}; {rule.says} ({rule.page})"


def _values(value: Any, path: list[str], place: str) -> Iterator[tuple[str, Any]]:
    if not path:
        yield place, value
    elif path[0] == "*":
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, item in items:
            yield from _values(item, path[1:], f"{place}.{name}".lstrip("."))
    elif isinstance(value, Mapping):
        for name in value:
            if re.fullmatch(path[0], str(name)):
                yield from _values(value[name], path[1:], f"{place}.{name}".lstrip("."))

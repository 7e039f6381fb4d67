"""A real ministack on loopback (S3, SQS, DynamoDB, Lambda, API Gateway, IAM, CloudFormation), and stacks deployed to it.

Functions run in processes of ministack's own interpreter; `Stack` deploys aws/template.yaml as an account would.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import boto3
import httpx
from botocore.config import Config

from demo import programs

VERSION: Final = "1.5.33"
ROOT: Final = Path(__file__).parents[2]
LOCK: Final = ROOT / "requirements-ministack.lock"
TEMPLATE: Final = ROOT / "aws" / "template.yaml"
WEBHOOK: Final = ROOT / "aws" / "webhook"
SAGEMAKER: Final = Path(__file__).with_name("ministack_sagemaker.py")
ACCOUNT: Final = "000000000000"
REGION: Final = "us-east-1"
CODE_BUCKET: Final = "segloop-code"
START_TIMEOUT_S: Final = 60.0


def installed() -> Path:
    """The virtual environment of ministack, made on demand from `requirements-ministack.lock`."""
    return programs.installed(programs.cache_folder(f"ministack-{VERSION}"), LOCK)


class Ministack:
    """A ministack of one's own on a free loopback port, within a `with`.

    Args:
        auth: whether IAM is enforced; the clients here are then the account's root.
        environment: variables that its functions inherit, such as AWS_ENDPOINT_URL_SAGEMAKER.
        sagemaker: whether CloudFormation makes pipelines, in the SageMaker at that address (ministack_sagemaker.py).

    Attributes:
        url: its address, of all services.
        environment: may be added to until it is started.
    """

    def __init__(
        self, *, auth: bool = False, environment: dict[str, str] | None = None, sagemaker: bool = False
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="segloop-ministack-")
        self._port = programs.free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.log = Path(self._folder.name) / "ministack.log"
        self._auth = auth
        self.environment = dict(environment or {})
        # -P: beside that file lies this one, of the same name as the package
        self._arguments = ["-P", str(SAGEMAKER)] if sagemaker else ["-m", "ministack"]

    def __enter__(self) -> Self:
        self._program = programs.Program(
            "ministack",
            [str(installed() / "bin" / "python"), *self._arguments],
            environment=self._environment(),
            folder=Path(self._folder.name),
            log=self.log,
        )
        try:
            self._program.start(f"{self.url}/_ministack/health", START_TIMEOUT_S, poll_s=0.05)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._program.stop()
        self._folder.cleanup()

    def client(self, service: str, credentials: dict[str, str] | None = None) -> Any:
        """A client of boto3, as the account's root or with other credentials."""
        return boto3.client(
            service,
            REGION,
            endpoint_url=self.url,
            config=Config(retries={"total_max_attempts": 1}, max_pool_connections=32),
            **(credentials or {"aws_access_key_id": "test", "aws_secret_access_key": "test"}),
        )

    def deploy(self, name: str, parameters: dict[str, str] | None = None, template: str = "") -> Stack:
        """Deploy aws/template.yaml, or a template given as text, with the code of aws/webhook."""
        s3 = self.client("s3")
        s3.create_bucket(Bucket=CODE_BUCKET)
        s3.put_object(Bucket=CODE_BUCKET, Key="webhook.zip", Body=webhook_zip())
        # a MaximumConcurrency that comes from a parameter is text to this ministack, and its poller then fails
        given = {"CodeBucket": CODE_BUCKET, "CodeKey": "webhook.zip", "WorkerConcurrency": "0", **(parameters or {})}
        cloudformation = self.client("cloudformation")
        cloudformation.create_stack(
            StackName=name,
            TemplateBody=template or TEMPLATE.read_text("utf-8"),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        cloudformation.get_waiter("stack_create_complete").wait(
            StackName=name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 300}
        )
        stack = Stack(self, name)
        # the one property of the template's buckets that this ministack's CloudFormation leaves out
        if target := stack.outputs.get("TargetBucketName"):
            s3.put_bucket_notification_configuration(
                Bucket=target, NotificationConfiguration={"EventBridgeConfiguration": {}}
            )
        return stack

    def _environment(self) -> dict[str, str]:
        # Nothing is inherited but the search path: neither proxies, nor AWS_* of the caller.
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": self._folder.name,
            "TMPDIR": self._folder.name,
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self._port),
            "AUTH": "true" if self._auth else "false",
            "MINISTACK_REGION": REGION,
            "MINISTACK_ACCOUNT_ID": ACCOUNT,
            **self.environment,
        }


class Stack:
    """A deployed stack."""

    def __init__(self, ministack: Ministack, name: str) -> None:
        self.ministack, self.name = ministack, name

    @cached_property
    def outputs(self) -> dict[str, str]:
        """By key."""
        described = self.ministack.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"][0]
        return {item["OutputKey"]: item["OutputValue"] for item in described["Outputs"]}

    @cached_property
    def resources(self) -> dict[str, str]:
        """Physical ids by logical ids."""
        found = self.ministack.client("cloudformation").describe_stack_resources(StackName=self.name)
        return {item["LogicalResourceId"]: item["PhysicalResourceId"] for item in found["StackResources"]}

    @cached_property
    def secret(self) -> str:
        """What the webhook has to send."""
        arn = self.outputs["WebhookSecretArn"]
        return str(self.ministack.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"])

    @property
    def webhook_url(self) -> str:
        """WebhookUrl as it is reached here: the emulator serves every API at one address."""
        url = httpx.URL(self.outputs["WebhookUrl"])
        return f"{self.ministack.url}/_aws/execute-api/{url.host.partition('.')[0]}/$default{url.path}"

    def post(self, event: object, **headers: str) -> httpx.Response:
        """POST an event to the webhook's route of API Gateway, with its secret unless other headers are given."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        sent = {"content-type": "application/json", **(headers or {"X-Segloop-Secret": self.secret})}
        return httpx.post(self.webhook_url, content=body, headers=sent, timeout=30, trust_env=False)

    def invoke(self, logical_id: str, event: object) -> Any:
        """What a function answers, or raises (`FunctionError`)."""
        answer = self.ministack.client("lambda").invoke(
            FunctionName=self.resources[logical_id], Payload=json.dumps(event).encode()
        )
        return {"error": answer.get("FunctionError"), "answer": json.loads(answer["Payload"].read() or b"null")}

    def log(self, logical_id: str) -> list[str]:
        """What a function wrote."""
        logs = self.ministack.client("logs")
        group = self.resources[f"{logical_id}Logs"]
        return [event["message"] for event in logs.filter_log_events(logGroupName=group)["events"]]


def webhook_zip() -> bytes:
    """aws/webhook as Lambda takes it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(WEBHOOK.glob("*.py")):
            archive.write(path, path.name)
    return packed.getvalue()

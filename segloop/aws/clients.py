"""The one maker of AWS clients, and what AWS's errors mean. boto3 is imported when the first client is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from segloop.errors import SegloopError, SettingsError, TrainerRefused, TrainerUnavailable, TrainingError
from segloop.installation import missing_extra, require_extra
from segloop.settings import Settings

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

_Request = ParamSpec("_Request")
_Answer = TypeVar("_Answer")

#: Times that a call is tried in all where AWS throttles or errs, with botocore's growing pauses between.
ATTEMPTS: Final = 8
#: Uploads at a time.
CONNECTIONS: Final = 16

_THROTTLED = {
    "RequestLimitExceeded",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "RequestTimeout",
}
#: Refusals of S3 that say that an object or a bucket is not there, for `none_if`.
MISSING: Final = r"\((404|NoSuchKey|NoSuchBucket|NotFound)\)"
#: Codes of "no instance of this type is free now".
_NO_CAPACITY = {"CapacityError", "InsufficientCapacity", "InsufficientInstanceCapacity"}
_DENIED = {"403", "AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
#: Codes of credentials that were good: whoever gave them can give new ones.
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_QUOTA_OF_NONE = re.compile(r"limit\b.{0,200}? is 0 ", re.DOTALL)
_CREDENTIALS = {
    *_EXPIRED,
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}


@dataclass(frozen=True)
class ClientOptions:
    """How a client finds its service, waits and tries again.

    Args:
        region: AWS region; empty for that of the AWS configuration.
        endpoint: address of a service that is not AWS's; empty for AWS's, or for AWS_ENDPOINT_URL.
        anonymous: whether requests are sent without credentials.
        connect_timeout_s: longest wait for a connection.
        read_timeout_s: longest wait for the next bytes.
        attempts: times that a call is tried in all.
        connections: connections that are kept, for as many threads at a time.
    """

    region: str = ""
    endpoint: str = ""
    anonymous: bool = False
    connect_timeout_s: float = 5
    read_timeout_s: float = 60
    attempts: int = 4
    connections: int = 10


_DEFAULTS: Final = ClientOptions()


def aws_client(service: str, options: ClientOptions = _DEFAULTS) -> Any:
    """A client of a service, by boto3's default chain of credentials. Thread-safe.

    Raises:
        SettingsError: boto3 is not installed.
        BotoCoreError: no region is known, or the AWS configuration is damaged.
    """
    require_extra("aws")
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(
        connect_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": options.attempts},
        max_pool_connections=options.connections,
        signature_version=UNSIGNED if options.anonymous else None,
        # A server that is not AWS's need not have a name for each bucket.
        s3={"addressing_style": "path"} if options.endpoint else None,
    )
    # A session of its own: boto3's default session is not thread-safe. Any: the stubs of boto3 come with S3's alone.
    make: Any = boto3.session.Session(region_name=options.region or None).client
    return make(service, config=config, endpoint_url=options.endpoint or None)


def s3_client(options: ClientOptions = _DEFAULTS) -> S3Client:
    """A client of S3; errors as of `aws_client`."""
    client: S3Client = aws_client("s3", options)
    return client


def default_region() -> str:
    """The region of the AWS configuration; empty where it has none."""
    require_extra("aws")
    import boto3

    return boto3.session.Session().region_name or ""


def bucket_region(bucket: str, endpoint: str = "") -> str:
    """The region of a bucket, as S3 tells everybody, with or without the right to read it; empty where it does not.

    Label Studio has to know it, to sign addresses that work.

    Args:
        endpoint: address of an S3 that is not AWS's; empty for AWS.
    """
    options = ClientOptions("us-east-1", endpoint, anonymous=True, read_timeout_s=5, attempts=1)
    try:
        with closing(aws_client("s3", options)) as client:
            answer = client.head_bucket(Bucket=bucket)
    except (SettingsError, ValueError):
        return ""  # no boto3 here, or an endpoint that is no address
    except aws_errors() as error:
        answer = response_of(error)
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region", ""))


class Clients:
    """Clients of one region, for SageMaker, the managed route and what they need.

    Args:
        attempts: times that a call is tried in all.
        region: AWS region. Empty: that of the settings, else of the AWS configuration.

    Raises:
        SettingsError: no region is known, or boto3 is not installed.
    """

    def __init__(self, settings: Settings, attempts: int = ATTEMPTS, region: str = "") -> None:
        self.region = region or settings.sagemaker_region or default_region()
        if not self.region:
            raise SettingsError("SEGLOOP_SAGEMAKER_REGION is empty and AWS_DEFAULT_REGION too: set one, as us-east-1.")
        self._options = ClientOptions(self.region, attempts=attempts, connections=CONNECTIONS)

    def client(self, service: str) -> Any:
        """A new client of a service."""
        return aws_client(service, self._options)

    @cached_property
    def s3(self) -> S3Client:
        """S3."""
        return s3_client(self._options)

    @cached_property
    def sagemaker(self) -> Any:
        """SageMaker, whose client takes half a second to make."""
        return self.client("sagemaker")

    @cached_property
    def cloudformation(self) -> Any:
        """CloudFormation."""
        return self.client("cloudformation")


def aws_errors() -> tuple[type[Exception], ...]:
    """What the calls of a client raise, for an `except`: AWS's refusals, and whatever kept AWS from being asked."""
    if missing_extra("aws"):
        return (OSError,)
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return (ClientError, BotoCoreError, Boto3Error, OSError)


@contextmanager
def explained(action: str) -> Iterator[None]:
    """Errors of AWS within, in words; `action` is the IAM action that is used, such as `s3:PutObject`.

    Raises:
        TrainingError: AWS refused; to ask again would not help.
        TrainerRefused: it does not accept the credentials, or they lack a permission; to ask again helps who mends that.
        TrainerUnavailable: it throttles, errs, has no room or cannot be reached; to ask later may help.
    """
    from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

    try:
        yield
    except ClientError as error:
        raise meaning(action, error) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise TrainerRefused(f"There are no AWS credentials for {action}: {error}. See docs/sagemaker.md.") from error
    except aws_errors() as error:
        # boto3's transfers hide the answer of S3.
        if isinstance(error.__context__, ClientError):
            raise meaning(action, error.__context__) from error
        raise TrainerUnavailable(f"AWS cannot be reached for {action}: {error}") from error


def none_if(
    refusal: str, call: Callable[_Request, _Answer], *args: _Request.args, **request: _Request.kwargs
) -> _Answer | None:
    """The answer to a call of a client; None where AWS refuses it with a text that the expression `refusal` is found in.

    Such a text is "An error occurred (CODE) when calling the ... operation: MESSAGE".
    """
    from botocore.exceptions import ClientError

    try:
        return call(*args, **request)
    except ClientError as error:
        if re.search(refusal, str(error), re.IGNORECASE | re.DOTALL):
            return None
        raise


def meaning(action: str, error: ClientError) -> SegloopError:
    """What an answer of AWS means for a run."""
    code, message = code_of(error), str(response_of(error).get("Error", {}).get("Message", ""))
    status = response_of(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
    if code in _THROTTLED | _NO_CAPACITY or status >= 500:
        return TrainerUnavailable(f"AWS answers {action} with {code} ({message}).")
    if code == "ResourceLimitExceeded":
        # A quota of 0 has no room at any time; of another one there is room once something else has ended.
        kind = TrainingError if _QUOTA_OF_NONE.search(message) else TrainerUnavailable
        return kind(
            f"A quota of the AWS account is used up: {message} Ask for more in the console of Service Quotas, "
            "or take an instance type that the account has (SEGLOOP_SAGEMAKER_INSTANCE; of an endpoint, --instance)."
        )
    if code in _DENIED:
        return TrainerRefused(
            f"AWS does not allow {action}: {message or 'no reason given'}. "
            "Give segloop's credentials that permission; docs/sagemaker.md lists those it needs."
        )
    if code in _CREDENTIALS:
        return TrainerRefused(f"AWS does not accept the credentials for {action}: {code}: {message}")
    return TrainingError(f"AWS refused {action}: {code}: {message}")


def code_of(error: Exception) -> str:
    """The code of AWS's refusal, such as `NoSuchKey`; empty for an error that is none of AWS's own."""
    return str(response_of(error).get("Error", {}).get("Code", ""))


def response_of(error: Exception) -> Any:
    """AWS's answer, as botocore has it; {} for an error that is none of AWS's own."""
    # botocore gives some errors of the connection a response that is None
    return getattr(error, "response", None) or {}


def is_passing(error: Exception) -> bool:
    """Whether an error of AWS may pass by itself: the service throttles, errs or cannot be reached."""
    from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
    from botocore.exceptions import ConnectionError as NotConnected

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
        return code_of(error) in _THROTTLED or status >= 500
    return isinstance(error, (HTTPClientError, NotConnected, IncompleteReadError, OSError))


def has_expired(error: Exception) -> bool:
    """Whether AWS refused credentials for their age alone."""
    return code_of(error) in _EXPIRED

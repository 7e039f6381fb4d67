"""Clients of AWS, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from segloop.errors import SegloopError, SettingsError, TrainerUnavailable, TrainingError
from segloop.settings import Settings

_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 60
#: Times that a call is tried in all where AWS throttles or errs, with botocore's growing pauses between.
ATTEMPTS = 8
#: Uploads at a time.
CONNECTIONS = 16

_THROTTLED = {
    "RequestLimitExceeded",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "RequestTimeout",
}
_DENIED = {"403", "AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}


class Clients:
    """Clients of one region; boto3's default chain of credentials.

    Args:
        attempts: times that a call is tried in all.

    Raises:
        SettingsError: no region is known.
    """

    def __init__(self, settings: Settings, attempts: int = ATTEMPTS) -> None:
        self._session = boto3.session.Session(region_name=settings.sagemaker_region or None)
        if not self._session.region_name:
            raise SettingsError("SEGLOOP_SAGEMAKER_REGION is empty and AWS_DEFAULT_REGION too: set one, as us-east-1.")
        self.region: str = self._session.region_name
        self._config = Config(
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=CONNECTIONS,
        )

    def client(self, service: str) -> Any:
        """A new client of a service."""
        # Any: the stubs of boto3 come with S3's alone.
        make: Any = self._session.client
        return make(service, config=self._config)

    @cached_property
    def s3(self) -> Any:
        """S3."""
        return self.client("s3")

    @cached_property
    def sagemaker(self) -> Any:
        """SageMaker, whose client takes half a second to make."""
        return self.client("sagemaker")


@contextmanager
def explained(action: str) -> Iterator[None]:
    """Errors of AWS within, in words; `action` is the IAM action that is used, such as `s3:PutObject`.

    Raises:
        TrainingError: AWS refused; to ask again would not help.
        TrainerUnavailable: it throttles, errs or cannot be reached; to ask later may help.
    """
    try:
        yield
    except ClientError as error:
        raise meaning(action, error) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise TrainingError(f"There are no AWS credentials for {action}: {error}. See docs/sagemaker.md.") from error
    except (BotoCoreError, Boto3Error, OSError) as error:
        # boto3's transfers hide the answer of S3.
        if isinstance(error.__context__, ClientError):
            raise meaning(action, error.__context__) from error
        raise TrainerUnavailable(f"AWS cannot be reached for {action}: {error}") from error


def meaning(action: str, error: ClientError) -> SegloopError:
    """What an answer of AWS means for a run."""
    code, message = code_of(error), str(error.response.get("Error", {}).get("Message", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
    if code in _THROTTLED or status >= 500:
        return TrainerUnavailable(f"AWS answers {action} with {code} ({message}).")
    if code == "ResourceLimitExceeded":
        return TrainingError(
            f"A quota of the AWS account is used up: {message} Ask for more in the console of Service Quotas, "
            "or take an instance type that the account has (SEGLOOP_SAGEMAKER_INSTANCE; of an endpoint, --instance)."
        )
    if code in _DENIED:
        return TrainingError(
            f"AWS does not allow {action}: {message or 'no reason given'}. "
            "Give segloop's credentials that permission; docs/sagemaker.md lists those it needs."
        )
    if code in _CREDENTIALS:
        return TrainingError(f"AWS does not accept the credentials for {action}: {code}: {message}")
    return TrainingError(f"AWS refused {action}: {code}: {message}")


def code_of(error: ClientError) -> str:
    """The code of an error of AWS."""
    return str(error.response.get("Error", {}).get("Code", ""))

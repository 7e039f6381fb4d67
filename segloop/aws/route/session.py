"""Clients of AWS for the services that the route is made of."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from segloop.aws.clients import ATTEMPTS, Clients, explained
from segloop.settings import Settings


class Aws(Clients):
    """Clients of one region and account; boto3's default chain of credentials.

    Args:
        region: AWS region. Empty: that of the settings, else of the AWS configuration.
        attempts: times that a call is tried in all.

    Raises:
        SettingsError: no region is known.
    """

    def __init__(self, settings: Settings, region: str = "", attempts: int = ATTEMPTS) -> None:
        super().__init__(settings.model_copy(update={"sagemaker_region": region}) if region else settings, attempts)

    @cached_property
    def cloudformation(self) -> Any:
        """CloudFormation."""
        return self.client("cloudformation")

    @cached_property
    def account(self) -> str:
        """The account's number.

        Raises:
            TrainingError: there are no credentials, or AWS refuses them.
            TrainerUnavailable: AWS cannot be reached now.
        """
        with explained("sts:GetCallerIdentity"):
            return str(self.client("sts").get_caller_identity()["Account"])

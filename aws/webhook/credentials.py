"""Secrets of AWS Secrets Manager, kept for a while, and exchanged when they are rotated."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from logs import fields, get_logger

logger = get_logger("credentials")

#: How long a value is used before Secrets Manager is asked again, in seconds.
FRESH_S = 300.0
#: A wrong value makes it ask again, but not more often than this, in seconds.
RETRY_S = 10.0
#: How long after a rotation the value before it still opens, in seconds: Label Studio has to be told the new one.
GRACE_S = 3600.0


class SharedSecret:
    """A secret that callers have to know.

    Args:
        client: of Secrets Manager.
        clock: seconds since 1970.
    """

    def __init__(self, client: Any, arn: str, *, clock: Callable[[], float] = time.time) -> None:
        self._client, self._arn, self._clock = client, arn, clock
        self._values: tuple[str, ...] = ()
        self._read_at = float("-inf")

    def matches(self, given: str) -> bool:
        """Whether this is the secret's value, or was until a rotation within the last hour. In constant time.

        Raises:
            ClientError, BotoCoreError: Secrets Manager does not tell, and never did.
        """
        if self._age_s() >= FRESH_S:
            self._refresh()
        if self._is_one(given):
            return True
        if not given or self._age_s() < RETRY_S:
            return False
        self._refresh()
        return self._is_one(given)

    def value(self) -> str:
        """The value, for a service that wants to know it; errors as of `matches`."""
        if self._age_s() >= FRESH_S:
            self._refresh()
        return self._values[0]

    def _age_s(self) -> float:
        return self._clock() - self._read_at

    def _is_one(self, given: str) -> bool:
        # each is compared, whatever the first says, so that the time taken tells nothing
        same = [hmac.compare_digest(given.encode("utf-8", "replace"), value.encode()) for value in self._values]
        return any(same)

    def _refresh(self) -> None:
        try:
            current = self._client.get_secret_value(SecretId=self._arn)
        except (ClientError, BotoCoreError):
            if not self._values:
                raise
            logger.exception("the secret cannot be read again; its last value stays", extra=fields(secret=self._arn))
            self._read_at = self._clock()
            return
        values = [current["SecretString"]]
        if self._clock() - current["CreatedDate"].timestamp() < GRACE_S:
            values += self._previous()
        self._values, self._read_at = tuple(values), self._clock()

    def _previous(self) -> list[str]:
        try:
            return [self._client.get_secret_value(SecretId=self._arn, VersionStage="AWSPREVIOUS")["SecretString"]]
        except self._client.exceptions.ResourceNotFoundException:
            return []

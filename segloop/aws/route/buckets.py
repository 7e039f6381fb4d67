"""Buckets: the one that deployments keep code in, and what is left in the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from botocore.exceptions import ClientError

from segloop.aws.clients import MISSING, Clients, code_of, explained, none_if
from segloop.errors import StackError

_PAGE = 1000


class Buckets:
    """Buckets of one's own account.

    Raises (every method):
        TrainingError: AWS refused.
        TrainerUnavailable: S3 cannot be reached now.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._s3: Any = clients.s3

    @cached_property
    def account(self) -> str:
        """The number of the account."""
        with explained("sts:GetCallerIdentity"):
            return str(self._clients.client("sts").get_caller_identity()["Account"])

    def code_bucket(self, name: str) -> str:
        """The name of the bucket with the code of the stack `name`: CloudFormation reads it before there is a stack."""
        return f"{name}-code-{self.account}-{self._clients.region}"

    def own(self) -> set[str]:
        """The names of the account's buckets."""
        with explained("s3:ListAllMyBuckets"):
            pages = self._s3.get_paginator("list_buckets").paginate()
            return {item["Name"] for page in pages for item in page["Buckets"]}

    def exists(self, bucket: str) -> bool:
        """Whether a bucket is there, in this account.

        Raises:
            StackError: it is somebody else's.
        """
        with explained("s3:ListBucket"):
            try:
                return (
                    none_if(MISSING, self._s3.head_bucket, Bucket=bucket, ExpectedBucketOwner=self.account) is not None
                )
            except ClientError as error:
                if code_of(error) == "403":
                    raise StackError(
                        f"the bucket {bucket} is not this account's, or it may not look into it"
                    ) from error
                raise

    def ensure_private(self, bucket: str) -> bool:
        """Have a bucket that only this account reads, over TLS alone; False if it is there already."""
        if self.exists(bucket):
            return False
        region = self._clients.region
        # us-east-1 takes no location
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        with explained("s3:CreateBucket"):
            self._s3.create_bucket(Bucket=bucket, **place)
        block = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        with explained("s3:PutBucketPublicAccessBlock"):
            self._s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(block, True))
        arn = f"arn:{self._s3.meta.partition}:s3:::{bucket}"
        statement = {
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [arn, f"{arn}/*"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
        with explained("s3:PutBucketPolicy"):
            self._s3.put_bucket_policy(
                Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            )
        return True

    def tell_eventbridge(self, bucket: str) -> bool:
        """Have a bucket tell EventBridge of its objects beside whomever it tells already; False if it does so already."""
        with explained("s3:GetBucketNotification"):
            told = self._s3.get_bucket_notification_configuration(Bucket=bucket, ExpectedBucketOwner=self.account)
        told.pop("ResponseMetadata")
        if "EventBridgeConfiguration" in told:
            return False
        with explained("s3:PutBucketNotification"):
            self._s3.put_bucket_notification_configuration(
                Bucket=bucket,
                ExpectedBucketOwner=self.account,
                NotificationConfiguration={**told, "EventBridgeConfiguration": {}},
                # those whom it tells already are not tried anew: one of them may be somebody else's
                SkipDestinationValidation=True,
            )
        return True

    def put_once(self, bucket: str, key: str, data: bytes) -> bool:
        """Write an object whose name tells its content, into this account's bucket alone; False if it is there already."""
        place = {"Bucket": bucket, "Key": key, "ExpectedBucketOwner": self.account}
        with explained("s3:GetObject"):
            if none_if(MISSING, self._s3.head_object, **place) is not None:
                return False
        with explained("s3:PutObject"):
            self._s3.put_object(**place, Body=data)
        return True

    def is_empty(self, bucket: str) -> bool:
        """Whether a bucket holds no object, no older version of one either."""
        return next(self._versions(bucket), None) is None

    def remove(self, bucket: str) -> int:
        """Remove a bucket with all that is in it; how many objects and versions that was."""
        count = 0
        for page in self._versions(bucket):
            with explained("s3:DeleteObject"):
                reply = self._s3.delete_objects(Bucket=bucket, Delete={"Objects": page, "Quiet": True})
            for error in reply.get("Errors", []):
                raise StackError(
                    f"s3://{bucket}/{error['Key']} cannot be deleted: {error.get('Message', error['Code'])}"
                )
            count += len(page)
        with explained("s3:DeleteBucket"):
            self._s3.delete_bucket(Bucket=bucket)
        return count

    def _versions(self, bucket: str) -> Iterator[list[dict[str, str]]]:
        """Pages of every version of every object."""
        with explained("s3:ListBucketVersions"):
            pages = self._s3.get_paginator("list_object_versions").paginate(Bucket=bucket, MaxKeys=_PAGE)
            for page in pages:
                found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
                if found:
                    yield [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in found]

"""What is written to the account's own buckets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import boto3
from botocore.stub import Stubber

from segloop.aws.clients import Clients
from segloop.aws.route.buckets import Buckets

ACCOUNT = "123456789012"
PLACE = {"Bucket": "code", "Key": "functions.zip", "ExpectedBucketOwner": ACCOUNT}


def test_code_is_written_once_and_into_the_accounts_own_bucket_alone() -> None:
    """The functions run what lies there: a bucket of that name that somebody else has made is not written to."""
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "eu-west-1"}
    s3: Any = boto3.client("s3", **keys)
    sts = SimpleNamespace(get_caller_identity=lambda: {"Account": ACCOUNT})
    buckets = Buckets(cast(Clients, SimpleNamespace(s3=s3, client=lambda _: sts)))
    with Stubber(s3) as stub:
        stub.add_client_error("head_object", "404", http_status_code=404, expected_params=PLACE)
        stub.add_response("put_object", {}, {**PLACE, "Body": b"code"})
        stub.add_response("head_object", {}, PLACE)
        assert buckets.put_once("code", "functions.zip", b"code")
        assert not buckets.put_once("code", "functions.zip", b"code")
        stub.assert_no_pending_responses()

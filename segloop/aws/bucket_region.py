"""Where S3 keeps a bucket: what Label Studio has to know to sign addresses that work."""

from __future__ import annotations

from typing import Any, Final

_TIMEOUT_S: Final = 5


def bucket_region(bucket: str, endpoint: str = "") -> str:
    """The region of a bucket, as S3 tells everybody, with or without the right to read it; empty where it does not.

    Args:
        endpoint: address of an S3 that is not AWS's; empty for AWS.
    """
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    config = Config(
        signature_version=UNSIGNED,
        connect_timeout=_TIMEOUT_S,
        read_timeout=_TIMEOUT_S,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"} if endpoint else {},
    )
    client = boto3.session.Session().client("s3", config=config, region_name="us-east-1", endpoint_url=endpoint or None)
    try:
        answer: Any = client.head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
    except (BotoCoreError, ValueError):
        return ""
    finally:
        client.close()
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region", ""))

"""Images in S3, read with this machine's own credentials."""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING

from segloop.aws.clients import ClientOptions, aws_errors, code_of, has_expired, is_passing, s3_client
from segloop.errors import ImageError, ImageUnavailable, SettingsError
from segloop.images.addresses import describe, too_large
from segloop.images.fetch import Response, Validators

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectRequestTypeDef

# No ARN: it could name an access point of another account.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
#: Bytes after which the time is looked at: of a slow line they must not take long.
_CHUNK_BYTES = 2**14
#: Tries of an object, which share the time that it has.
_ATTEMPTS = 2
_CONNECT_TIMEOUT_S = 5.0


class StorageError(ImageError):
    """S3 gave no file, for want of credentials or of rights or of the file; Label Studio may.

    `passes` says that S3 is away or overloaded, so that a later try may do; `expired`, that the credentials have expired.
    """

    def __init__(self, text: str, passes: bool = False, expired: bool = False) -> None:
        super().__init__(text)
        self.passes, self.expired = passes, expired


class S3Reader:
    """GET of S3 objects, through boto3's default chain of credentials. Thread-safe.

    Args:
        timeout_s: longest time of all tries to get an answer.
        requester_pays: whether to accept that this account pays for reading buckets whose owner asks for that.
    """

    def __init__(self, timeout_s: float, requester_pays: bool = False) -> None:
        self._timeout_s = timeout_s
        self._requester_pays = requester_pays
        self._lock = threading.Lock()
        self._client: S3Client | None = None

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def get(self, uri: str, *, deadline: float, max_bytes: int, known: Validators | None = None) -> Response:
        """The object at s3://bucket/key; with `known`, only if it changed since.

        Args:
            deadline: time of `time.monotonic()`, in seconds, at which reading is given up.

        Raises:
            StorageError: S3 gave no object.
            ImageTooLarge: the object has more than `max_bytes` bytes.
            ImageError: the address is malformed, or the time is up.
        """
        bucket, _, key = uri.partition("://")[2].partition("/")
        if not _BUCKET.fullmatch(bucket) or not key:
            raise ImageError(f"{describe(uri)} is not s3://bucket/key")
        try:
            client = self._connected()
            wanted: GetObjectRequestTypeDef = {"Bucket": bucket, "Key": key}
            if known and known.etag:
                wanted["IfNoneMatch"] = known.etag
            if self._requester_pays:
                wanted["RequestPayer"] = "requester"
            found = client.get_object(**wanted)
            data = bytearray()
            with found["Body"] as body:
                while len(data) <= max_bytes and (chunk := body.read(_CHUNK_BYTES)):
                    data += chunk
                    if time.monotonic() > deadline:
                        raise ImageUnavailable(f"{describe(uri)} took longer than SEGLOOP_IMAGE_TIMEOUT_S to arrive")
        except SettingsError as error:
            raise StorageError(str(error)) from error
        except aws_errors() as error:
            code = code_of(error)
            if code in ("304", "NotModified"):
                return Response(None, Validators())
            text = f"S3 answered {code}" if code else f"S3: {error}"
            raise StorageError(text, is_passing(error), has_expired(error)) from error
        if len(data) > max_bytes:
            raise too_large(describe(uri), max_bytes)
        return Response(bytes(data), Validators(found.get("ETag", "")))

    def _connected(self) -> S3Client:
        with self._lock:
            if self._client is None:
                each_s = self._timeout_s / _ATTEMPTS
                options = ClientOptions(
                    connect_timeout_s=min(_CONNECT_TIMEOUT_S, each_s), read_timeout_s=each_s, attempts=_ATTEMPTS
                )
                self._client = s3_client(options)
            return self._client

"""An engine that runs the network on a SageMaker endpoint."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segloop.aws.clients import ClientOptions, aws_client, aws_errors, default_region
from segloop.errors import EngineError, SettingsError

_NPY: Final = "application/x-npy"
_CONNECT_TIMEOUT_S: Final = 3.0
#: Requests at a time that keep their connections.
_CONNECTIONS: Final = 64
#: The largest answer that is read, in bytes; SageMaker's own limit is below it.
_ANSWER_BYTES: Final = 64 * 2**20


class SageMakerEngine:
    """Sends batches to an endpoint as .npy (float32 (B, 3, h, w)) and takes logits float32 (B, C, h', w') as .npy back.

    The version is in the header of custom attributes (`version=v3-...`) and in a parameter of the content type, which
    AWS's image passes on where it may lose the header; an endpoint that serves another version answers with an error. Thread-safe; boto3's default chain of credentials.

    Args:
        timeout_s: longest wait for an answer, of each try.
        attempts: tries in all where the endpoint throttles, errs (HTTP 5xx) or cannot be reached.

    Raises:
        SettingsError: no region is known.
    """

    max_batch = 1

    def __init__(
        self, endpoint: str, version: str, *, region: str = "", timeout_s: float = 20.0, attempts: int = 3
    ) -> None:
        region = region or default_region()
        if not region:
            raise SettingsError(f"engine=sagemaker:{endpoint} needs a region: set SEGLOOP_SAGEMAKER_REGION.")
        options = ClientOptions(
            region,
            connect_timeout_s=_CONNECT_TIMEOUT_S,
            read_timeout_s=timeout_s,
            attempts=attempts,
            connections=_CONNECTIONS,
        )
        self._client = aws_client("sagemaker-runtime", options)
        self._endpoint = endpoint
        self._version = version

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of a batch.

        Raises:
            EngineError: the endpoint does not answer, or not with logits of this batch.
        """
        body = io.BytesIO()
        np.save(body, np.ascontiguousarray(batch, np.float32), allow_pickle=False)
        try:
            reply = self._client.invoke_endpoint(
                EndpointName=self._endpoint,
                ContentType=f"{_NPY}; version={self._version}",
                Accept=_NPY,
                CustomAttributes=f"version={self._version}",
                Body=body.getvalue(),
            )
            with reply["Body"] as stream:
                answer: bytes = stream.read(_ANSWER_BYTES + 1)
        except aws_errors() as error:
            raise EngineError(f"the SageMaker endpoint {self._endpoint} does not answer: {error}") from error
        return self._checked(answer, len(batch))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _checked(self, answer: bytes, images: int) -> NDArray[np.float32]:
        if len(answer) > _ANSWER_BYTES:
            raise EngineError(f"the SageMaker endpoint {self._endpoint} answers with more than {_ANSWER_BYTES} bytes")
        try:
            logits = np.load(io.BytesIO(answer), allow_pickle=False)
        except (ValueError, OSError, EOFError, MemoryError) as error:
            raise EngineError(f"the SageMaker endpoint {self._endpoint} answers with no .npy: {error}") from error
        if not isinstance(logits, np.ndarray) or logits.ndim != 4 or len(logits) != images or 0 in logits.shape:
            shape = getattr(logits, "shape", None)
            raise EngineError(f"the SageMaker endpoint {self._endpoint} answers with {shape}, not ({images}, C, h, w)")
        if logits.dtype.kind != "f":
            raise EngineError(f"the SageMaker endpoint {self._endpoint} answers with {logits.dtype}, not float32")
        return logits.astype(np.float32, copy=False)

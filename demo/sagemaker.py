"""Where the demo trains with DEMO_TRAINER=sagemaker: the tests' emulator of SageMaker, on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUCKET = "segloop-demo"


@contextmanager
def emulated(folder: Path) -> Iterator[dict[str, Any]]:
    """Settings that train in an emulator of SageMaker, which lives as long as this; its variables go to this process's
    environment, which segloop inherits."""
    # Nobody but whoever asks for it needs moto and the tests' folder, which a wheel has not.
    from tests.aws.sagemaker_emulator import ACCOUNT, emulated_aws

    # moto's server tells of every request otherwise
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with emulated_aws(folder / "sagemaker", BUCKET) as (_, environment):
        kept = dict(os.environ)
        os.environ.pop("AWS_PROFILE", None)
        os.environ.update(environment)
        try:
            yield {
                "trainer": "sagemaker",
                "sagemaker_s3": f"s3://{BUCKET}/demo",
                "sagemaker_role": f"arn:aws:iam::{ACCOUNT}:role/segloop-demo",
                "sagemaker_poll_s": 2,
            }
        finally:
            os.environ.clear()
            os.environ.update(kept)

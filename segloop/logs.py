"""Logging, set up once at each entry point."""

from __future__ import annotations

import logging

#: Libraries that log whole addresses, signed queries included, at INFO or DEBUG.
_TALKATIVE = ("httpx", "httpcore", "urllib3", "botocore", "boto3", "s3transfer", "PIL")


def configure_logging(level: str) -> None:
    """Log to stderr at `level`; libraries that would log addresses stay at WARNING."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)

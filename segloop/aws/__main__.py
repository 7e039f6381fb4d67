"""`python -m segloop.aws requirements.lock` writes requirements.txt of the training's and of the endpoint's container."""

from __future__ import annotations

import sys
from pathlib import Path

from segloop.aws.endpoints import packing
from segloop.aws.training import code

lock = Path(sys.argv[1]).read_text("utf-8")
code.REQUIREMENTS.write_text(code.requirements_of(lock), "utf-8")
packing.REQUIREMENTS.write_text(code.requirements_of(lock, packing.PACKAGES), "utf-8")

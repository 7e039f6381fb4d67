"""`python -m segloop.aws.endpoints requirements.lock` prints requirements.txt of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

from segloop.aws.endpoints.packing import PACKAGES
from segloop.aws.training.code import requirements_of

sys.stdout.write(requirements_of(Path(sys.argv[1]).read_text("utf-8"), PACKAGES))

"""Runs a training: see `segloop.training.command.main`."""

import sys

from segloop.training.command import main

sys.exit(main())

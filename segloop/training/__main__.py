"""Runs a training: see `segloop.training.recipe.main`."""

import sys

from segloop.training.recipe import main

sys.exit(main())

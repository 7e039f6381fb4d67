"""Training: `python -m segloop.training --base DIR`, the same here and on SageMaker."""

from segloop.training.adaptation import adapt
from segloop.training.command import main
from segloop.training.container import Container
from segloop.training.evaluation import Evaluation, Network, compare, evaluate
from segloop.training.examples import read_example
from segloop.training.recipe import train

__all__ = ["Container", "Evaluation", "Network", "adapt", "compare", "evaluate", "main", "read_example", "train"]

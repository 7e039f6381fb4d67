"""The command `python -m segloop.training`: what a run is told, and how it ends."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from segloop.settings import load_settings, torchrun_place
from segloop.telemetry.logs import configure_logging
from segloop.training.adaptation import adapt
from segloop.training.container import Container
from segloop.training.recipe import TerminatedError, train

#: Exit status after SIGTERM, as shells give it.
TERMINATED = 128 + signal.SIGTERM


@contextmanager
def terminable() -> Iterator[Callable[[], bool]]:
    """Within it, SIGTERM only sets the flag that the function given tells."""
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    previous = signal.signal(signal.SIGTERM, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, previous)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m segloop.training --base DIR`, alone or by torchrun: 0 with a bundle in DIR/model; 1 with the reason
    in DIR/output/failure; 143 after SIGTERM, with a checkpoint that the next start goes on from. The hyperparameter
    `recipe` is `full`, or `quick` for a quick adaptation, which has no checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m segloop.training", description=train.__doc__)
    parser.add_argument("--base", type=Path, default=Path("/opt/ml"), help="folder of the training contract")
    parser.add_argument("--data", type=Path, help="folder of what was gathered, in place of the container's channels")
    options = parser.parse_args(arguments)
    container = Container(options.base, options.data)
    configure_logging("INFO")
    is_main = torchrun_place().rank == 0
    if is_main:
        container.begin()
    with terminable() as stop_asked:

        def work() -> int:
            settings = load_settings(None)
            configure_logging(settings.log_level, settings.log_format, settings.secrets)
            try:
                if container.recipe() == "full":
                    train(container, stop_asked)
                elif is_main:  # a head is trained by one process
                    adapt(container, stop_asked)
            except TerminatedError:
                return TERMINATED
            return 0

        return container.status_of(work, "the training failed")

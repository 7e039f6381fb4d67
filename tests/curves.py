"""TensorBoard's event files, read back."""

from __future__ import annotations

from pathlib import Path

from tensorboardX.proto.event_pb2 import Event


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars of every event file below a folder, as (step, value) by tag."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in _events(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def plugins(folder: Path) -> str:
    """What TensorBoard's plugins were told, as text."""
    return "".join(str(value.metadata) for event in _events(folder) for value in event.summary.value)


def _events(folder: Path) -> list[Event]:
    events = []
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):  # TFRecord: length, its checksum, the record, its checksum
            size = int.from_bytes(data[at : at + 8], "little")
            events.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += 16 + size
    return events

"""Annotations and ledgers as tests of figures and reports need them."""

from __future__ import annotations

from segloop.ledger import ClassEffort, Effort, Entry, Ledger, TimeSaved, version_figures


def entry(number: int, changed: int | None = None, **known: object) -> Entry:
    effort = None
    if changed is not None:
        sky = ClassEffort(
            pixels=50, changed_px=changed, boundary_px=10, moved_px=changed and 5, regions_added=changed and 1
        )
        effort = Effort(pixels=100, changed_px=changed, classes={"Sky": sky})
    given = {"annotator": 1, "kind": "scratch" if changed is None else "pre-labelled", "version": "v1", **known}
    return Entry(number, number, effort=effort, **given)  # type: ignore[arg-type]


def ledger(entries: list[Entry], labels: dict[str, int] | None = None, saved: TimeSaved | None = None) -> Ledger:
    return Ledger(
        made_at="2026-11-22T12:00:00+00:00",
        annotations=len(entries),
        pre_labelled=len(entries),
        scratch=0,
        blind=0,
        unreadable=0,
        pending=0,
        labels=labels or {},
        versions=tuple(version_figures(entries)),
        time_saved=saved or TimeSaved(),
    )

"""A check of what people drew: does it say what the label config can say."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

from segloop.dataset import Annotators, Note, counting_annotations, warnings_of
from segloop.doctor.findings import Finding, ok, skipped, warning
from segloop.errors import LabelConfigError
from segloop.label_config import parse_label_config
from segloop.results import misnamed_regions

#: What is not looked at by then is not: every page takes Label Studio some tenths of a second.
_LOOK_S: Final = 15.0
_TOLD: Final = 5

Pages = Iterable[list[dict[str, Any]]]


def known(label_config: str, pages: Pages, annotators: Annotators) -> Finding:
    """Whether the regions of annotated tasks have labels and object tags of the label config.

    Args:
        pages: of annotated tasks, as Label Studio serves them; as many are looked at as there is time for.
    """
    try:
        config = parse_label_config(label_config)
    except LabelConfigError:
        return skipped("nothing can be said of labels: see label-config")
    notes: list[Note] = []
    tasks = 0
    until = time.monotonic() + _LOOK_S
    for page in pages:
        for task in page:
            tasks += 1
            for annotation in counting_annotations(task["annotations"], annotators):
                problems = misnamed_regions(annotation.get("result"), config)
                notes += (Note.of(task["id"], problem) for problem in problems)
        if time.monotonic() > until:
            break
    if not tasks:
        return skipped("no task is annotated yet")
    looked_at = f"{tasks} annotated task{'' if tasks == 1 else 's'}"
    if not notes:
        return ok(f"the regions of {looked_at} have labels of the labeling setup")
    found = warnings_of(notes)
    more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    return warning(
        f"of {looked_at}: {'; '.join(found[:_TOLD])}{more}",
        "add what is missing under Settings > Labeling Interface, or correct those annotations; docs/labels.md says what "
        "is learnt",
    )

"""The order of a pool in a real Label Studio: scores, the label stream that follows them, and the tab that shows it; and the
tab of suspected labels."""

from __future__ import annotations

import pytest

from demo.label_studio import RunningLabelStudio
from segloop.formats import SUSPECT_MODEL
from segloop.labelstudio import UNCERTAINTY_SAMPLING, LabelStudio
from segloop.labelstudio.views import ORDERED_VIEW, SUSPECTS_VIEW
from segloop.metrics.uncertainty import ORDER_STEP

pytestmark = pytest.mark.label_studio

CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="Sky"/><Label value="Road"/></BrushLabels></View>"""
OLD, NEW = "v1-0011aabb", "v2-ccdd2233"
SCORES = (0.5, 0.2, 0.9, 0.4, 0.1)


@pytest.fixture
def project(running: RunningLabelStudio) -> int:
    return int(running.create_project("a pool", CONFIG)["id"])


@pytest.fixture
def tasks(running: RunningLabelStudio, studio: LabelStudio, project: int) -> list[int]:
    """Seven tasks: five with a prediction of NEW by SCORES and of OLD the other way round, one of OLD alone, one of none."""
    with running.client() as client:
        images = [{"image": f"https://example.com/{number}.png"} for number in range(7)]
        client.post(f"/api/projects/{project}/import", json=images).raise_for_status()
        ids = sorted(task["id"] for task in client.get("/api/tasks/", params={"project": project}).json()["tasks"])
    rows = [prediction(task, NEW, score) for task, score in zip(ids, SCORES, strict=False)]
    rows += [prediction(task, OLD, 1 - score) for task, score in zip(ids, SCORES, strict=False)]
    studio.predictions.create(project, [*rows, prediction(ids[5], OLD, 0.05)])
    configure(running, project, sampling=UNCERTAINTY_SAMPLING, model_version=NEW)
    return ids


def configure(running: RunningLabelStudio, project: int, **changes: str) -> None:
    with running.client() as client:
        client.patch(f"/api/projects/{project}/", json=changes).raise_for_status()


def prediction(task: int, version: str, score: float) -> dict[str, object]:
    return {"task": task, "result": [], "score": score, "model_version": version}


def stored(studio: LabelStudio, task: int) -> list[tuple[str, float]]:
    """Version and score of each prediction of a task."""
    rows = studio.api.request("GET", "/api/predictions/", params={"task": task})
    return sorted((row["model_version"], row["score"]) for row in rows)


def shown(running: RunningLabelStudio, view: int) -> list[int]:
    """The tasks of a tab, in its order."""
    with running.client() as client:
        found = client.get("/api/tasks/", params={"view": view, "page_size": 100})
        return [task["id"] for task in found.raise_for_status().json()["tasks"]]


def test_the_least_sure_tasks_by_the_scores_of_the_current_version(
    running: RunningLabelStudio, studio: LabelStudio, project: int, tasks: list[int]
) -> None:
    zero, one, two, three, four, only_old, _ = tasks
    found = studio.tasks.least_sure(project, 100, predicted_by=NEW)
    assert [task["id"] for task in found] == [four, one, three, zero, two]
    assert [task["score"] for task in found] == pytest.approx(sorted(SCORES))
    assert found[0]["data"]["image"] == "https://example.com/4.png"
    assert [task["id"] for task in studio.tasks.least_sure(project, 2, predicted_by=NEW)] == [four, one]
    running.submit_annotation(four, [])
    running.submit_annotation(one, [], was_cancelled=True)
    assert [task["id"] for task in studio.tasks.least_sure(project, 100, predicted_by=NEW)] == [three, zero, two]
    configure(running, project, model_version=OLD)
    assert [task["id"] for task in studio.tasks.least_sure(project, 100, not_predicted_by=NEW)] == [only_old]


def test_a_score_is_changed_in_place(studio: LabelStudio, project: int, tasks: list[int]) -> None:
    first = tasks[0]
    for _ in range(2):
        studio.predictions.set_score(first, NEW, ORDER_STEP)
        assert stored(studio, first) == [(OLD, 0.5), (NEW, ORDER_STEP)]
    studio.predictions.create(project, [prediction(first, NEW, 0.7)])
    studio.predictions.set_score(first, NEW, 2 * ORDER_STEP)
    assert stored(studio, first) == [(OLD, 0.5), (NEW, 2 * ORDER_STEP), (NEW, 2 * ORDER_STEP)]
    studio.predictions.set_score(10**6, NEW, ORDER_STEP)


def test_the_label_stream_follows_the_scores_and_a_new_order_of_them(
    running: RunningLabelStudio, studio: LabelStudio, project: int, tasks: list[int]
) -> None:
    zero, one, two, three, four, *_ = tasks
    for place, task in enumerate((two, zero), start=1):
        studio.predictions.set_score(task, NEW, place * ORDER_STEP)
    served = []
    with running.client() as client:
        for _ in range(5):
            answer = client.post(f"/api/dm/actions?id=next_task&project={project}", json={})
            served.append(answer.raise_for_status().json()["id"])
            running.submit_annotation(served[-1], [])
    assert served == [two, zero, four, one, three]


def test_the_tab_shows_the_tasks_to_label_in_their_order(
    running: RunningLabelStudio, studio: LabelStudio, project: int, tasks: list[int]
) -> None:
    zero, one, two, three, four, *unscored = tasks
    view = studio.views.keep_ordered(project)
    assert view["data"]["title"] == ORDERED_VIEW
    assert shown(running, view["id"])[:5] == [four, one, three, zero, two]
    assert sorted(shown(running, view["id"])[5:]) == unscored
    running.submit_annotation(four, [])
    studio.predictions.set_score(two, NEW, ORDER_STEP)
    assert shown(running, view["id"])[:4] == [two, one, three, zero]


def test_the_tab_is_kept_and_so_is_what_people_changed_of_it(
    running: RunningLabelStudio, studio: LabelStudio, project: int
) -> None:
    view = studio.views.keep_ordered(project)
    assert studio.views.keep_ordered(project) == view
    widths = {"tasks:id": 80}
    with running.client() as client:
        changed = {"project": project, "data": {**view["data"], "columnsWidth": widths, "ordering": ["-tasks:id"]}}
        client.patch(f"/api/dm/views/{view['id']}/", json=changed).raise_for_status()
    kept = studio.views.keep_ordered(project)
    assert kept["id"] == view["id"]
    assert kept["data"] == {**view["data"], "columnsWidth": widths}
    with running.client() as client:
        assert len(client.get("/api/dm/views/", params={"project": project}).json()) == 1


def suspect(task: int, label: str = "Sky") -> dict[str, object]:
    value = {"points": [[0, 0], [50, 0], [50, 50]], "closed": True, "polygonlabels": [label]}
    region = {"id": "abc", "from_name": "polygon", "to_name": "image", "type": "polygonlabels", "value": value}
    region |= {"original_width": 8, "original_height": 8, "image_rotation": 0, "meta": {"text": ["Labelled Road."]}}
    return {"task": task, "result": [region], "score": None, "model_version": SUSPECT_MODEL}


def test_suspects_are_a_tab_and_predictions_beside_annotations_and_touch_nothing_else(
    running: RunningLabelStudio, studio: LabelStudio, project: int, tasks: list[int]
) -> None:
    zero, one, *_ = tasks
    polygons = '<PolygonLabels name="polygon" toName="image"><Label value="Sky"/><Label value="Road"/></PolygonLabels>'
    studio.projects.change(project, label_config=CONFIG.replace("</View>", f"{polygons}</View>"))
    for task in (zero, one):
        running.submit_annotation(task, [])
    least_sure = studio.tasks.least_sure(project, 100)
    with running.client() as client:
        annotations = client.get(f"/api/tasks/{zero}/").json()["annotations"]
    assert studio.predictions.create(project, [suspect(zero), suspect(one, "Road")]) == 2
    view = studio.views.keep_suspects(project)
    assert view["data"]["title"] == SUSPECTS_VIEW
    assert sorted(shown(running, view["id"])) == [zero, one]
    with running.client() as client:
        opened = client.get(f"/api/tasks/{zero}/").json()
    [mine] = [row for row in opened["predictions"] if row["model_version"] == SUSPECT_MODEL]
    assert mine["result"][0]["meta"] == {"text": ["Labelled Road."]}
    assert opened["annotations"] == annotations
    described = studio.projects.get(project)
    assert described["model_version"] == NEW, "people are shown the champion's predictions as before"
    assert studio.tasks.least_sure(project, 100) == least_sure
    assert zero not in [task["id"] for task in studio.tasks.unlabelled(project, NEW)]
    assert (studio.predictions.remove(zero, SUSPECT_MODEL), studio.predictions.remove(zero, SUSPECT_MODEL)) == (1, 0)
    assert studio.predictions.remove(10**6, SUSPECT_MODEL) == 0
    assert shown(running, view["id"]) == [one]
    assert stored(studio, zero) == [(OLD, 0.5), (NEW, 0.5)]
    assert studio.views.keep_suspects(project) == view
    assert studio.projects.get(project)["model_version"] == NEW

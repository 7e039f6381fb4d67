"""The training set that a container of the managed route gathers from S3, against segloop's own snapshot of the same tasks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError
from botocore.httpsession import URLLib3Session

from segloop.dataset import (
    MANIFEST,
    Mirror,
    ProjectSplits,
    SnapshotInputs,
    load_manifest,
    snapshot,
    sync_target,
)
from segloop.errors import ImageUnavailable, NothingToTrain, SegloopError, TrainingError
from segloop.images import ImageSource
from segloop.labelstudio import Credentials, TargetStorage
from segloop.registry import Registry, open_registry
from segloop.settings import Settings
from segloop.training.container import Container
from segloop.training.gathering import gather, main
from tests.aws.moto_server import running_moto
from tests.aws.route_world import ARTIFACTS, KEY, PROJECT_ID, SOURCE, TARGET, RouteBuckets
from tests.labelling import CONFIG, LATER, half
from tests.snapshots import write_base
from tests.toys import toy_info

pytestmark = pytest.mark.slow

STORE = f"s3://{ARTIFACTS}/store"
GIVEN = {
    "segloop_route": "segloop",
    "segloop_project": PROJECT_ID,
    "segloop_generation": 1,
    "segloop_annotations": f"s3://{TARGET}/projects/{{project}}",
    "segloop_artifacts": f"s3://{ARTIFACTS}",
    "segloop_images": SOURCE,
    "segloop_store": STORE,
}


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    with running_moto() as url:
        yield url


@pytest.fixture(scope="module")
def filled(s3_server: str) -> Iterator[tuple[RouteBuckets, Callable[[], None]]]:
    """Ten annotated tasks, once for all tests."""
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("s3", "us-east-1", endpoint_url=s3_server, **keys)
    made = RouteBuckets(client)
    made.make()
    made.connect()
    for task in range(1, 11):
        made.annotate(100 + task, task, [half("Sky"), half("Road", right=True)])
    yield made, made.restorer()
    client.close()


@pytest.fixture
def buckets(
    filled: tuple[RouteBuckets, Callable[[], None]], s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RouteBuckets]:
    """The same buckets for each test, which may do with them what it wants."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    made, restore = filled
    yield made
    restore()


@pytest.fixture
def registry(buckets: RouteBuckets, tmp_path: Path) -> Registry:
    """segloop's own, in the route's store."""
    return open_registry(Settings(store=STORE, data_dir=tmp_path / "segloop"))


def container_of(tmp_path: Path, name: str = "job", **given: Any) -> Container:
    base = write_base(tmp_path / name, **{"weights": "none", **GIVEN, **given})
    return Container(base, base / "gathered")


def gathered(tmp_path: Path, name: str = "job", **given: Any) -> Container:
    container = container_of(tmp_path, name, **given)
    gather(container, tmp_path / name / "scratch")
    return container


def own_snapshot(tmp_path: Path, splits: Any, **own: Any) -> Any:
    """What segloop makes of the same target storage."""
    settings = Settings(data_dir=tmp_path / "own", **own)
    images = ImageSource(
        settings, Credentials(settings.label_studio_url, settings.label_studio_api_key), tmp_path / "c"
    )
    try:
        with Mirror(tmp_path / "own" / "mirror") as mirror:
            sync_target(mirror, TargetStorage(GIVEN["segloop_annotations"], PROJECT_ID))
            inputs = SnapshotInputs(KEY, CONFIG, images, splits, settings)
            return snapshot(inputs, mirror.tasks(), tmp_path / "own" / "s")
    finally:
        images.close()


@pytest.mark.parametrize("annotators", ["ground-truth", "majority"])
def test_it_is_segloops_own_snapshot(
    buckets: RouteBuckets, registry: Registry, tmp_path: Path, annotators: str
) -> None:
    buckets.connect(settings={"annotators": annotators, "input_size": 64})
    for number, label, fields in ((201, "Road", {"ground_truth": True}), (202, "Sky", {"updated_at": LATER})):
        buckets.annotate(number, 1, [half(label)], **fields)
    buckets.annotate(203, 11, [half("Sky")], was_cancelled=True)
    container = gathered(tmp_path)
    manifest = load_manifest(container.snapshot)
    assert manifest.hash == own_snapshot(tmp_path, ProjectSplits(registry, KEY), annotators=annotators).hash
    assert (len(manifest.items), manifest.tasks("val")) == (10, 2)
    assert manifest.warnings
    assert container.settings().input_size == 64
    assert load_manifest(container.snapshot).text() == (container.model / MANIFEST).read_text("utf-8")


def test_the_split_never_moves_a_task(buckets: RouteBuckets, registry: Registry, tmp_path: Path) -> None:
    first = load_manifest(gathered(tmp_path, "first").snapshot)
    for task in range(11, 21):
        buckets.annotate(100 + task, task, [half("Sky")])
    second = load_manifest(gathered(tmp_path, "second").snapshot)
    sides = {item.task: item.split for item in second.items}
    assert {item.task: item.split for item in first.items}.items() <= sides.items()
    assert second.tasks("val") == 4
    # segloop's own split goes before the route's
    turned = {task: "train" if side == "val" else "val" for task, side in sides.items()}
    registry.write_json(KEY, "split.json", {"format": 1, "splits": {str(task): turned[task] for task in turned}})
    third = load_manifest(gathered(tmp_path, "third").snapshot)
    assert {item.task: item.split for item in third.items} == turned
    assert buckets.read(ARTIFACTS, f"projects/{PROJECT_ID}/split.json")["splits"].keys() == {str(t) for t in turned}


def test_images_come_from_the_source_bucket_alone(buckets: RouteBuckets, tmp_path: Path) -> None:
    buckets.annotate(111, 11, [half("Sky")], image=f"s3://{TARGET}/projects/{PROJECT_ID}/101")
    buckets.annotate(112, 12, [half("Sky")], image="http://127.0.0.1:9/12.png")
    buckets.annotate(113, 13, [half("Sky")], image=f"s3://{SOURCE}/projects/{PROJECT_ID}/nothing.png")
    manifest = load_manifest(gathered(tmp_path).snapshot)
    reasons = {one.task: one.reason for one in manifest.skipped}
    assert reasons.keys() == {11, 12, 13}
    assert f"is not in the route's source bucket ({SOURCE})" in reasons[11]
    assert "http://127.0.0.1:9/12.png is not in the route's" in reasons[12]
    assert "S3 answered NoSuchKey" in reasons[13]


def test_it_begins_with_the_served_version(buckets: RouteBuckets, registry: Registry, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "model.safetensors").write_bytes(b"weights")
    version = registry.add(KEY, bundle, toy_info(("Sky", "Road"), arch="fcn_resnet50"))
    assert gathered(tmp_path, "before").served() is None
    registry.promote(KEY, version, "by hand")
    container = gathered(tmp_path, "after")
    assert (container.champion / "model.safetensors").read_bytes() == b"weights"
    served = container.served()
    assert served is not None
    assert served.version == version
    elsewhere = gathered(tmp_path, "elsewhere", segloop_store="s3://route-no-such-bucket/store")
    assert elsewhere.served() is None


def test_objects_of_another_project_are_none_of_it(buckets: RouteBuckets, tmp_path: Path) -> None:
    stray = {"id": 900, "updated_at": LATER, "result": [], "task": {"id": 900, "data": {}, "project": 30}}
    buckets.put(TARGET, f"projects/{PROJECT_ID}/900", stray)
    buckets.put(TARGET, "projects/30/901", {**stray, "id": 901})
    assert {item.task for item in load_manifest(gathered(tmp_path).snapshot).items} == set(range(1, 11))


@pytest.mark.parametrize(
    ("given", "project", "expected"),
    [
        ({"segloop_project": "x"}, None, "ProjectId is 'x'"),
        ({"segloop_project": 30}, None, "There is no s3://route-artifacts/projects/30/project.json: run `segloop aws connect"),
        ({}, {"label_config": ""}, r"project\.json: label_config.*run `segloop aws connect` again"),
        ({}, {"label_config": "<View/>"}, "label config|segment"),
        ({}, {"settings": {"input_size": 7}}, "input_size"),
        ({"segloop_annotations": f"s3://{TARGET}/elsewhere/{{project}}"}, None, "has 0 tasks with usable annotations"),
        ({"segloop_annotations": "s3://route-no-such-bucket/x"}, None, "NoSuchBucket"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told(
    buckets: RouteBuckets, tmp_path: Path, given: dict[str, Any], project: dict[str, Any] | None, expected: str
) -> None:
    if project is not None:
        buckets.connect(**project)
    with pytest.raises(SegloopError, match=expected):
        gathered(tmp_path, **given)


def test_a_missing_hyperparameter_is_told(buckets: RouteBuckets, tmp_path: Path) -> None:
    base = write_base(tmp_path / "job", segloop_project=PROJECT_ID)
    with pytest.raises(TrainingError, match="segloop_images"):
        gather(Container(base, base / "data"), tmp_path / "scratch")


def test_the_command_leaves_the_reason(buckets: RouteBuckets, tmp_path: Path) -> None:
    container_of(tmp_path, segloop_project=31)
    base = tmp_path / "job"
    assert main(["--base", str(base), "--data", str(base / "gathered")]) == 1
    assert "segloop aws connect --project 31" in (base / "output" / "failure").read_text("utf-8")
    write_base(base, **{"weights": "none", **GIVEN})
    assert main(["--base", str(base), "--data", str(base / "gathered")]) == 0
    assert json.loads((base / "model" / MANIFEST).read_bytes())["project"] == KEY


def test_nothing_to_hold_out(buckets: RouteBuckets, tmp_path: Path) -> None:
    for task in range(2, 11):
        buckets.s3.delete_object(Bucket=TARGET, Key=f"projects/{PROJECT_ID}/{100 + task}")
    with pytest.raises(NothingToTrain, match="has 1 tasks"):
        gathered(tmp_path)


# -- the mirror that is kept between trainings

MIRROR = f"projects/{PROJECT_ID}/mirror/"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the objects that were read from S3, as requests go out."""
    paths: list[str] = []
    send = URLLib3Session.send

    def noting(self: URLLib3Session, request: Any) -> Any:
        path = urlsplit(request.url)
        if request.method == "GET" and path.path.count("/") > 1 and "list-type" not in path.query:
            paths.append(path.path)
        return send(self, request)

    monkeypatch.setattr(URLLib3Session, "send", noting)
    return paths


def test_the_second_training_reads_what_is_new_and_the_packs_of_the_rest(
    buckets: RouteBuckets, tmp_path: Path, read: list[str]
) -> None:
    first = load_manifest(gathered(tmp_path, "first").snapshot)
    assert sum(f"/{TARGET}/" in path for path in read) == sum(f"/{SOURCE}/" in path for path in read) == 10
    read.clear()
    again = gathered(tmp_path, "again")
    assert load_manifest(again.snapshot).hash == first.hash
    assert all((again.snapshot / name).is_file() for item in first.items for name in (item.image, item.mask))
    assert not [path for path in read if f"/{TARGET}/" in path or f"/{SOURCE}/" in path]
    assert len([path for path in read if MIRROR in path]) == 3, "state.json, the mirror's file and a pack"
    read.clear()
    buckets.annotate(111, 11, [half("Sky")])
    buckets.annotate(101, 1, [half("Road")], image=f"s3://{SOURCE}/projects/{PROJECT_ID}/1.png", updated_at=LATER)
    buckets.s3.delete_object(Bucket=TARGET, Key=f"projects/{PROJECT_ID}/110")
    third = load_manifest(gathered(tmp_path, "third").snapshot)
    changed = {f"/{TARGET}/projects/{PROJECT_ID}/{number}" for number in (101, 111)}
    assert {path for path in read if f"/{TARGET}/" in path} == changed
    assert [path for path in read if f"/{SOURCE}/" in path] == [f"/{SOURCE}/projects/{PROJECT_ID}/11.png"]
    assert {item.task for item in third.items} == {*range(1, 10), 11}
    [before], [after] = ([one for one in manifest.items if one.task == 1] for manifest in (first, third))
    assert before.mask != after.mask


@pytest.mark.parametrize("tries", [1, 4])
def test_images_that_s3_does_not_give_now_are_waited_for(
    buckets: RouteBuckets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[str], tries: int
) -> None:
    """Without one of them the others would be trained on, and nobody would know."""
    send, waited, failing = URLLib3Session.send, list[float](), 2 * tries  # boto3 tries twice

    def throttled(self: URLLib3Session, request: Any) -> Any:
        nonlocal failing
        if failing and urlsplit(request.url).path.endswith("/3.png"):
            failing -= 1
            raise ReadTimeoutError(endpoint_url=request.url)
        return send(self, request)

    monkeypatch.setattr(URLLib3Session, "send", throttled)
    monkeypatch.setattr("segloop.training.gathering.time", SimpleNamespace(sleep=waited.append), raising=False)
    if tries == 4:
        with pytest.raises(ImageUnavailable, match=f"1 image of 1 task cannot be had since .*s3://{SOURCE}"):
            gathered(tmp_path)
        read.clear()
    manifest = load_manifest(gathered(tmp_path, "later").snapshot)
    assert {item.task for item in manifest.items} == set(range(1, 11))
    assert (len(waited), failing) == (tries - (tries == 4), 0)
    if tries == 4:
        images = [path for path in read if f"/{SOURCE}/" in path]
        assert images == [f"/{SOURCE}/projects/{PROJECT_ID}/3.png"], "the others were kept"

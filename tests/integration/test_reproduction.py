"""`segloop reproduce`: a version made by a real training, made again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segloop.dataset import MANIFEST, read_manifest
from segloop.errors import RegistryError, TrainingError
from segloop.masks import encode_rle
from segloop.settings import Settings
from segloop.trainers.local import LocalTrainer
from segloop.versions import RecipeInfo
from tests.job_context import PROJECT, begin, retrain
from tests.regions import item
from worker.jobs.context import JobContext, compare_bundles, export_models
from worker.jobs.reproduce import run_reproduce
from worker.jobs.retrain import run_retrain

Told = list[dict[str, Any]]


def small(context: JobContext, **values: object) -> JobContext:
    """The same, with trainings that are real and take two steps, on labels that can be read."""
    road = np.zeros((8, 12), np.uint8)
    road[4:] = 255
    drawn = item("brushlabels", {"format": "rle", "rle": encode_rle(road)}, original_width=12, original_height=8)
    for labelled in context.label_studio.labelled:  # type: ignore[attr-defined]
        labelled["annotations"][0]["result"] = [{**drawn, "from_name": "tag"}]
    few = {"input_size": 64, "train_epochs": 1, "train_min_steps": 2, "weights": "none", "arch": "fcn_resnet50"}
    settings = context.settings.model_copy(update={**few, "guided_steps": 0, **values})
    return replace(context, settings=settings, trainer=LocalTrainer(), compare=compare_bundles, poll_s=0.1)


def made_again(real: JobContext, settings: Settings, version: str) -> None:
    """The settings of today do not count, those of the version do."""
    told: Told = []
    result = run_reproduce(replace(real, settings=settings), PROJECT, version, told.append)
    assert result["difference"] == 0.0
    assert result["reproduced"] == result["metrics"]
    assert result["tasks"] == 10
    assert {progress.get("phase") for progress in told} >= {"snapshot", "training"}
    assert [info.version for info in real.registry.versions(PROJECT)] == [version]
    assert not list((settings.data_dir / "runs").glob("reproduce-*"))


@pytest.mark.slow
def test_a_real_training_is_exported_and_made_again(context: JobContext, settings: Settings) -> None:
    """The training's own process, its bundle, its evaluation, the search for suspected labels and the export fit into the
    retrain, and the version is reproduced."""
    real = replace(small(context), export=export_models)
    result = run_retrain(real, PROJECT, begin(real.jobs))
    assert result["metrics"]["tasks"] == 2
    info = real.registry.get(PROJECT, result["version"])
    assert (info.arch, info.classes, info.recipe.steps) == ("fcn_resnet50", ("Road", "Sky"), 2)
    assert {"openvino.xml", "openvino.bin", "openvino-int8.xml", "openvino-int8.bin"} < info.files.keys()
    assert info.engines.openvino.serves, info.engines
    assert info.engines.openvino.agreement > 0.999
    assert 0 <= info.engines.openvino_int8.agreement <= 1
    assert info.engines.images == 2
    assert read_manifest(real.registry.bundle(PROJECT, info.version, [MANIFEST]) / MANIFEST).unannotated in ((), None)
    made_again(real, settings, info.version)


@pytest.mark.slow
def test_a_version_that_learnt_from_images_without_annotations_is_made_again(
    context: JobContext, settings: Settings
) -> None:
    settings = settings.model_copy(update={"consistency_images": 2})
    context.label_studio.unlabelled_ids = [100, 101, 102, 103]  # type: ignore[attr-defined] # 100 has no image
    real = small(context, consistency_images=2, suspects="off")
    version = run_retrain(real, PROJECT, begin(real.jobs))["version"]
    bundle = real.registry.bundle(PROJECT, version, [MANIFEST])
    assert [item.task for item in read_manifest(bundle / MANIFEST).unannotated or ()] == [101]
    made_again(real, settings, version)


def test_what_changed_since_is_named(context: JobContext) -> None:
    version = retrain(context)["version"]
    label_studio: Any = context.label_studio
    del label_studio.labelled[3]
    # Another machine's mirror, which never saw the task.
    elsewhere = replace(
        context, settings=context.settings.model_copy(update={"data_dir": context.settings.data_dir / "b"})
    )
    with pytest.raises(TrainingError, match="task 4: it is gone"):
        run_reproduce(elsewhere, PROJECT, version, lambda _: None)


def test_a_version_from_before_is_refused(context: JobContext) -> None:
    version = retrain(context)["version"]
    info = context.registry.get(PROJECT, version)
    old: Any = context.registry

    class Older:
        def get(self, project: str, name: str) -> Any:
            return info.model_copy(update={"recipe": RecipeInfo()})

        def __getattr__(self, name: str) -> Any:
            return getattr(old, name)

    with pytest.raises(RegistryError, match="before versions kept"):
        run_reproduce(replace(context, registry=Older()), PROJECT, version, lambda _: None)  # type: ignore[arg-type]

"""`segloop reproduce`: a version made by a real training, made again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from segloop.errors import RegistryError, TrainingError
from segloop.settings import Settings
from segloop.trainers.local import LocalTrainer
from tests.workshop import PROJECT, begin, retrain
from worker.jobs.context import Workshop, compare_bundles
from worker.jobs.reproduce import run_reproduce
from worker.jobs.retrain import run_retrain

Told = list[dict[str, Any]]


@pytest.mark.slow
def test_a_version_is_made_again(shop: Workshop, settings: Settings) -> None:
    small = settings.model_copy(
        update={"input_size": 64, "train_epochs": 1, "train_min_steps": 2, "weights": "none", "arch": "fcn_resnet50"}
    )
    real = replace(shop, settings=small, trainer=LocalTrainer(), compare=compare_bundles, poll_s=0.1)
    version = run_retrain(real, PROJECT, begin(real.jobs))["version"]
    told: Told = []
    # The settings of today do not count, those of the version do.
    result = run_reproduce(replace(real, settings=settings), PROJECT, version, told.append)
    assert result["difference"] == 0.0
    assert {**result["reproduced"]} == {**result["metrics"]}
    assert result["tasks"] == 10
    assert {progress.get("phase") for progress in told} >= {"snapshot", "training"}
    assert [info.version for info in real.registry.versions(PROJECT)] == [version]
    assert not list((settings.data_dir / "runs").glob("reproduce-*"))


def test_what_changed_since_is_named(shop: Workshop) -> None:
    version = retrain(shop)["version"]
    label_studio: Any = shop.label_studio
    del label_studio.labelled[3]
    # Another machine's mirror, which never saw the task.
    elsewhere = replace(shop, settings=shop.settings.model_copy(update={"data_dir": shop.settings.data_dir / "b"}))
    with pytest.raises(TrainingError, match="task 4: it is gone"):
        run_reproduce(elsewhere, PROJECT, version, lambda _: None)


def test_a_version_from_before_is_refused(shop: Workshop) -> None:
    version = retrain(shop)["version"]
    info = shop.registry.get(PROJECT, version)
    old: Any = shop.registry

    class Older:
        def get(self, project: str, name: str) -> Any:
            return replace(info, recipe={})

        def __getattr__(self, name: str) -> Any:
            return getattr(old, name)

    with pytest.raises(RegistryError, match="before versions kept"):
        run_reproduce(replace(shop, registry=Older()), PROJECT, version, lambda _: None)  # type: ignore[arg-type]

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from segloop import __version__
from segloop.cli import cli_page, main
from segloop.queue import Jobs
from segloop.registry import Registry, open_registry
from segloop.settings import Settings
from tests.toys import toy_info

PROJECT = "29.1795383040"
#: What people are told of it.
ID = "29"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGLOOP_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("SEGLOOP_DATA_DIR", str(tmp_path / "data"))
    return open_registry(Settings())


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, list(arguments))


def add(
    registry: Registry, tmp_path: Path, weights: bytes, miou: float | None, project: str = PROJECT, **own: Any
) -> str:
    bundle = tmp_path / weights.decode()
    bundle.mkdir(exist_ok=True)
    (bundle / "model.safetensors").write_bytes(weights)
    metrics = {
        "miou": miou,
        "pixel_accuracy": 0.9,
        "iou": {"Sky": miou, "[red]Straße": None},
        "tasks": 4,
        "pixels": 9,
        **own,
    }
    decision = {"act": True, "reason": "The first version."}
    info = toy_info(("Sky", "[red]Straße"), metrics=metrics, decision=decision)
    return registry.add(project, bundle, info)


def test_version_and_help() -> None:
    assert run("--version").output == f"segloop, version {__version__}\n"
    result = run("--help")
    for command in ("up", "serve", "worker", "versions"):
        assert command in result.output
    assert "\n  settings" not in result.output


def test_list(registry: Registry, tmp_path: Path) -> None:
    one, two = add(registry, tmp_path, b"one", 0.5), add(registry, tmp_path, b"two", None)
    assert "No version is served." in run("versions", "list").output
    registry.promote(PROJECT, two, "better")
    result = run("versions", "list")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    own = next(line for line in lines if one in line)
    assert "0.5000 (only 4 held-out tasks)" in own
    assert "*" not in own
    assert "*" in next(line for line in lines if two in line)

    values = json.loads(run("versions", "list", "--json").output)
    assert [(value["version"], value["metrics"]["miou"], value["champion"]) for value in values] == [
        (one, 0.5, False),
        (two, None, True),
    ]


def test_show(registry: Registry, tmp_path: Path) -> None:
    one = add(registry, tmp_path, b"one", 0.25)
    assert "serves no version yet" in run("versions", "show").output
    registry.promote(PROJECT, one, "The first [bold]version.")
    result = run("versions", "show")
    assert result.exit_code == 0
    for text in (one, "0.2500", "[red]Straße", "The first [bold]version.", "deeplabv3_resnet50, output stride 16"):
        assert text in result.output
    value = json.loads(run("versions", "show", one, "--json").output)
    assert (value["version"], value["champion"], value["classes"]) == (one, True, ["Sky", "[red]Straße"])


def test_show_tells_of_false_positives_of_classes_that_the_held_out_tasks_lack(
    registry: Registry, tmp_path: Path
) -> None:
    iou = {"Sky": None, "[red]Straße": 0.25}
    one = add(registry, tmp_path, b"one", 0.25, iou=iou, absent_false_positives={"Sky": 3})
    lines = run("versions", "show", one).output.splitlines()
    assert "0.3333" in next(line for line in lines if "predicted as absent classes" in line)
    assert "0.3333" in next(line for line in lines if "Sky" in line)
    assert "0.3333" not in next(line for line in lines if "Straße" in line)


def test_promote_and_roll_back(registry: Registry, tmp_path: Path) -> None:
    one, two = add(registry, tmp_path, b"one", 0.5), add(registry, tmp_path, b"two", 0.6)
    assert run("versions", "promote", one).output == f"project {ID} serves {one} (generation 1)\n"
    value = json.loads(run("versions", "promote", two, "--reason", "looks better", "--json").output)
    assert (value["version"], value["reason"], value["previous"]) == (two, "looks better", [one])
    assert run("versions", "rollback").output == f"project {ID} serves {one} (generation 3)\n"
    champion = registry.champion(PROJECT)
    assert champion is not None
    assert (champion.version, champion.reason) == (one, "Rolled back by hand.")


def test_prune(registry: Registry, tmp_path: Path) -> None:
    one, two, three = (add(registry, tmp_path, weights, 0.5) for weights in (b"one", b"second", b"third"))
    registry.promote(PROJECT, three, "better")
    other = add(registry, tmp_path, b"other", 0.5, "30.2")
    would = run("versions", "prune", "--keep", "1", "--dry-run", "--project", "29").output
    assert [line.split(",")[0] for line in would.splitlines()] == [
        f"project {ID}: {one}",
        f"project {ID}: {two}",
        "2 models would be removed",
    ]
    assert registry.removed(PROJECT) == {}
    value = json.loads(run("versions", "prune", "--keep", "1", "--all-projects", "--json").output)
    assert value == {
        "dry_run": False,
        "removed": [
            {"project": PROJECT, "version": one, "bytes": 3},
            {"project": PROJECT, "version": two, "bytes": 6},
        ],
    }
    assert registry.removed("30.2") == {}
    assert (registry.bundle("30.2", other) / "model.safetensors").is_file()
    assert run("versions", "prune", "--keep", "1", "--all-projects").output == "0 models removed, 0.00 GB.\n"
    assert "Model removed on 20" in run("versions", "list", "--project", "29").output
    refused = run("versions", "promote", one, "--project", "29")
    assert refused.exit_code == 1
    assert f"Error: The model of version {one} was removed on 20" in refused.output


def test_prune_goes_on_after_a_damaged_project(registry: Registry, tmp_path: Path) -> None:
    older = [add(registry, tmp_path, weights, 0.5) for weights in (b"one", b"second")]
    damaged, last = "30.1", "31.1"
    add(registry, tmp_path, b"other", 0.5, damaged)
    (tmp_path / "store" / damaged / "champion.json").write_text("{")
    others = [add(registry, tmp_path, weights, 0.5, last) for weights in (b"three", b"four")]
    result = run("versions", "prune", "--keep", "1", "--all-projects")
    assert result.exit_code == 1
    assert f"Error: {damaged}/champion.json is not JSON" in result.output
    for name in (older[0], others[0]):
        assert f": {name}, 0 MB" in result.output
    assert "2 models removed" in result.output
    assert (registry.removed(PROJECT).keys(), registry.removed(last).keys()) == ({older[0]}, {others[0]})


@pytest.mark.parametrize("arguments", [["--keep", "0"], ["--all-projects", "--project", "29"]])
def test_prune_refuses_what_makes_no_sense(registry: Registry, arguments: list[str]) -> None:
    assert run("versions", "prune", *arguments).exit_code == 2


def test_several_projects(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path, b"one", 0.5)
    registry.write_json("30.2", "project.json", {})
    assert run("versions", "list").exit_code == 0
    two = add(registry, tmp_path, b"two", 0.5, "30.2")
    result = run("versions", "list")
    assert (result.exit_code, result.output) == (
        1,
        f"Error: the store has several projects ({ID}, 30); name one with --project\n",
    )
    assert two in run("versions", "list", "--project", "30").output


def test_a_project_is_called_by_its_id_unless_a_newer_one_has_it(registry: Registry, tmp_path: Path) -> None:
    older = "29.1695383040"
    for project, weights in ((PROJECT, b"one"), (older, b"two")):
        registry.promote(project, add(registry, tmp_path, weights, 0.5, project), "better")
    for named, shown in ((ID, ID), (PROJECT, ID), (older, older)):
        for command in ("list", "show", "repair"):
            told = run("versions", command, "--project", named).output.replace(":", " ").split()
            assert [word for word in told if word in (ID, PROJECT, older)] == [shown], command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list"], "has no version yet"),
        (["list", "--project", "31"], "project 31 is unknown here; known: none"),
        (["list", "--project", "../31"], "'../31' is not a project"),
        (["rollback", "--project", "29"], "nothing to roll back to"),
        (["promote", "v9-00000000", "-p", "29"], "has no version 'v9-00000000'"),
        (["show", "../../etc/passwd", "-p", "29"], "has no version '../../etc/passwd'"),
    ],
)
def test_a_mistake_is_one_line(registry: Registry, arguments: list[str], message: str) -> None:
    if "29" in arguments:
        registry.write_json(PROJECT, "project.json", {})
    result = run("versions", *arguments)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert message in result.output
    assert result.output.count("\n") == 1


def test_a_bad_setting_is_one_line(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "many")
    result = run("versions", "list")
    assert result.exit_code == 1
    assert result.output.startswith("Error: The setting PORT is 'many': Input should be a valid integer")
    assert result.output.count("\n") == 1


def test_the_settings_page_is_printed() -> None:
    result = run("settings")
    assert result.exit_code == 0
    assert result.output.startswith("# Settings\n")
    assert "| `SEGLOOP_RETRAIN_THRESHOLD`<br>*per project* (`retrain_threshold`) | `100` |" in result.output


def test_the_page_of_commands_is_current() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == cli_page(main), "docs/cli.md is stale: segloop reference > docs/cli.md"
    assert run("reference").output == page


# -- a training is stopped


def test_stop_asks_the_live_training(registry: Registry, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setenv("SEGLOOP_REDIS_URL", redis_url)
    registry.write_json(PROJECT, "project.json", {})
    assert run("stop").output == f"project {ID} has no training under way\n"
    jobs = Jobs.open(Settings(redis_url=redis_url))
    job_id = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    assert not jobs.stop_asked(PROJECT, job_id)
    result = run("stop", "--project", "29")
    assert (result.exit_code, job_id in result.output) == (0, True)
    assert jobs.stop_asked(PROJECT, job_id)
    assert json.loads(run("stop", "--json").output) == {"project": PROJECT, "job": job_id}
    registry.write_json("30.2", "project.json", {})
    assert "name one with --project" in run("stop").output
    jobs.close()


def test_stop_without_a_queue_is_one_line(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGLOOP_REDIS_URL", "redis://127.0.0.1:9/0")
    registry.write_json(PROJECT, "project.json", {})
    result = run("stop")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.startswith("Error: ")

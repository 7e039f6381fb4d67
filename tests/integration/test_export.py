"""Exported models end to end: made by the real command, kept in real stores, served by processes without torch."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import httpx
import numpy as np
import pytest

from demo.stack import RunningSegloop
from segloop.errors import EngineError
from segloop.network.network import save_bundle
from segloop.registry import open_registry
from segloop.serving import ServedModels, load_served_model
from segloop.serving.conversion import NOTHING_TO_EXPORT
from segloop.serving.engines import TorchEngine, pick_engine
from segloop.settings import Settings
from tests.aws.moto_server import running_moto
from tests.exports import CLASSES, EXACT, INT8, PROJECT, ROOT, Version, body_of, exported, fickle, run_export, steadfast
from tests.toys import ToyImage, half_red_half_blue, toy_bundle, toy_info, toy_model

# the fixtures export whole ResNet-50s, half a minute each on an idle machine of 2 cores
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LABELS = dict.fromkeys(CLASSES, ())


@pytest.fixture(scope="module")
def passed(tmp_path_factory) -> Version:
    return exported(steadfast(1, arch="fcn_resnet50"), "fcn_resnet50", tmp_path_factory.mktemp("passed"))


@pytest.fixture(scope="module")
def declined(tmp_path_factory) -> Version:
    return exported(fickle(), "deeplabv3_resnet50", tmp_path_factory.mktemp("declined"))


@pytest.fixture(scope="module")
def moto_server():
    with running_moto() as url:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        boto3.client("s3", "us-east-1", endpoint_url=url, **keys).create_bucket(Bucket="segloop-test")
        yield url


@pytest.fixture
def own(tmp_path) -> Settings:
    return Settings(_env_file=None, data_dir=tmp_path / "data", weights="none", input_size=64, device="cpu")


@pytest.fixture(params=["folder", "s3"])
def stored(request, own, tmp_path, monkeypatch) -> Settings:
    """Settings over a store of either kind."""
    if request.param == "folder":
        return own
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", request.getfixturevalue("moto_server"))
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    return own.model_copy(update={"store": f"s3://segloop-test/{tmp_path.name}"})


def add(settings: Settings, version: Version) -> str:
    name = open_registry(settings).add(PROJECT, version.folder, version.info)
    open_registry(settings).promote(PROJECT, name, "test")
    return name


def logits_of(model, image: np.ndarray) -> np.ndarray:
    return model.engine.logits(image)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((1, 3, 64, 96)).astype(np.float32)


# -- the command


def test_the_report_tells_what_each_engine_is_worth(passed, declined):
    for version in (passed, declined):
        assert version.report.images == 2
        assert 0 <= version.report.torch.miou <= 1
        exact = version.report.openvino
        assert exact.serves is True
        assert exact.agreement >= 0.999
        assert exact.miou == pytest.approx(version.report.torch.miou, abs=1e-3)
        assert "as good as torch" in exact.reason
    int8 = passed.report.openvino_int8
    assert (int8.serves, int8.agreement, int8.miou) == (True, 1.0, passed.report.torch.miou)
    int8 = declined.report.openvino_int8
    assert int8.serves is False
    assert int8.agreement < 0.98
    assert int8.reason.startswith(("It loses more", "It gives less"))


def test_what_cannot_be_exported_is_one_sentence(tmp_path):
    done = run_export("--bundle", tmp_path / "nothing", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f"{tmp_path / 'nothing' / 'version.json'} cannot be read: No such file or directory"
    )
    assert "Traceback" not in done.stderr
    done = run_export("--pretrained", "--out", tmp_path / "out", weights="none")
    assert done.returncode == NOTHING_TO_EXPORT
    assert not (tmp_path / "out").exists()


# -- versions that came with models


@pytest.mark.parametrize(("engine", "files"), [("auto", INT8), ("openvino", EXACT), ("torch", {"model.safetensors"})])
def test_a_version_is_served_from_what_its_engine_needs_alone(stored, passed, image, engine, files, tmp_path):
    settings = stored.model_copy(update={"engine": engine})
    version = add(settings, passed)
    if settings.store.startswith("s3://"):  # another host: this one has verified all of the files, and so has them
        settings = settings.model_copy(update={"data_dir": tmp_path / "elsewhere"})
    model = load_served_model(open_registry(settings), PROJECT, version, settings)
    assert logits_of(model, image).argmax(axis=1).tolist() == np.ones((1, 4, 6)).tolist()
    assert not (settings.data_dir / "cache" / "engines").exists(), "nothing had to be made"
    copy = settings.data_dir / "cache" / "versions" / PROJECT / version
    if settings.store.startswith("s3://"):
        assert {file.name for file in copy.iterdir()} == files | {"version.json"}
    else:
        assert not copy.exists(), "a folder store is read where it is"


def test_fp32_serves_where_int8_is_declined(own, declined, image, caplog):
    version = add(own, declined)
    registry = open_registry(own)
    expected = TorchEngine(declined.network, "cpu").logits(image)
    for engine in ("auto", "openvino-int8"):
        settings = own.model_copy(update={"engine": engine})
        assert pick_engine(settings, registry.get(PROJECT, version).engines) == "openvino"
        model = load_served_model(registry, PROJECT, version, settings)
        assert np.abs(logits_of(model, image) - expected).max() < 0.01 * expected.std()
    assert "fp32 serves instead of int8: It " in caplog.text


def test_a_model_that_was_changed_in_the_store_is_not_run(own, passed):
    version = add(own, passed)
    registry = open_registry(own)
    file = registry.bundle(PROJECT, version) / "openvino-int8.bin"
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    models = ServedModels(registry, own)
    with pytest.raises(Exception, match="do not trust this version"):
        models.current(PROJECT, LABELS)


# -- versions that came without


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """Python for exports: a script that notes each run and then does what is told."""

    def install(command: str) -> Path:
        log, script = tmp_path / "runs.log", tmp_path / "python"
        script.write_text(f'#!/bin/sh\necho "$@" >> {log}\n{command}\n')
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        return log

    return install


LOADER = """
import sys
from pathlib import Path
from segloop.registry import open_registry
from segloop.serving import load_served_model
from segloop.settings import Settings
sys.executable = sys.argv[1]
settings = Settings(_env_file=None, data_dir=Path(sys.argv[2]), weights="none", input_size=64, device="cpu")
model = load_served_model(open_registry(settings), sys.argv[3], sys.argv[4], settings)
print(type(model.engine).__name__, "torch" in sys.modules)
"""


def test_threads_and_processes_that_want_a_model_at_once_make_it_once(own, tmp_path, counted, image):
    network = steadfast(2, arch="fcn_resnet50")
    info = toy_info(CLASSES, arch="fcn_resnet50")
    save_bundle(tmp_path / "bundle", network, info)
    version = add(own, Version(network, tmp_path / "bundle", info))
    python = sys.executable
    log = counted(f'exec {python} "$@"')
    other = subprocess.Popen(
        [python, "-c", LOADER, sys.executable, str(own.data_dir), PROJECT, version],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    registry = open_registry(own)
    with ThreadPoolExecutor(2) as pool:
        loading = [pool.submit(load_served_model, registry, PROJECT, version, own) for _ in range(2)]
        models = [each.result(280) for each in loading]
    out, error = other.communicate(timeout=280)
    assert (other.returncode, out) == (0, "OpenVINOEngine False\n"), error[-2000:]
    assert len(log.read_text().splitlines()) == 1
    expected = TorchEngine(network, "cpu").logits(image)
    for model in models:
        np.testing.assert_allclose(logits_of(model, image), expected, atol=1e-3)

    again = load_served_model(open_registry(own), PROJECT, version, own)
    assert len(log.read_text().splitlines()) == 1, "it is found again"
    np.testing.assert_allclose(logits_of(again, image), expected, atol=1e-3)
    kept = own.data_dir / "cache" / "engines"
    [made] = [entry for entry in kept.iterdir() if not entry.name.startswith(".")]
    assert {file.name for file in made.iterdir()} == EXACT
    assert not [entry for entry in kept.iterdir() if entry.is_dir() and entry.name.startswith(".")], "no drafts"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo INFO something >&2; echo The network is odd. >&2; exit 1", "the export failed with status 1: The network is odd."),
        ("kill -9 $$", "the export failed with status -9"),
        ("exit 0", "the export wrote no model of "),
    ],
)  # fmt: skip
def test_a_failed_conversion_leaves_the_old_version_answering(own, tmp_path, caplog, counted, command, message):
    registry = open_registry(own)
    first, second = (toy_bundle(tmp_path / f"bundle-{seed}", seed) for seed in (1, 2))
    old = registry.add(PROJECT, *first)
    registry.promote(PROJECT, old, "test")

    def load(registry, project, version, settings):
        return (
            toy_model(version, project) if version == old else load_served_model(registry, project, version, settings)
        )

    models = ServedModels(registry, own, load)
    assert models.current(PROJECT, LABELS).version == old
    log = counted(command)
    new = registry.add(PROJECT, *second)
    registry.promote(PROJECT, new, "test")
    with pytest.raises(EngineError, match=message) as caught:
        load_served_model(registry, PROJECT, new, own)
    assert "\n" not in str(caught.value)
    for _ in range(3):
        models.refresh()
    assert models.current(PROJECT, LABELS).version == old
    assert models.current(PROJECT, LABELS).segment(ToyImage(half_red_half_blue())).class_map.any()
    assert f"project {PROJECT}: still serving {old}: {message}" in caplog.text
    assert "Traceback" not in caplog.text
    assert len(log.read_text().splitlines()) == 2, "once each, and not again at every poll"
    folder = own.data_dir / "cache" / "engines"
    assert [entry for entry in folder.iterdir() if not entry.name.endswith(".lock")] == []


def test_without_a_python_or_a_folder_a_conversion_fails_in_one_sentence(own, tmp_path, monkeypatch):
    registry = open_registry(own)
    version = registry.add(PROJECT, *toy_bundle(tmp_path / "bundle"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    with pytest.raises(EngineError, match="the export failed with status 127"):
        load_served_model(registry, PROJECT, version, own)
    blocked = own.model_copy(update={"store": own.store_url, "data_dir": tmp_path / "file"})
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "cache").write_text("in the way")
    with pytest.raises(EngineError, match=r"the folder .*cache/engines cannot be used"):
        load_served_model(registry, PROJECT, version, blocked)


def test_weights_that_are_none_say_so(own, tmp_path):
    registry = open_registry(own)
    version = registry.add(PROJECT, *toy_bundle(tmp_path / "bundle"))
    with pytest.raises(
        EngineError, match=r"status 1: .*model\.safetensors: not the weights that version\.json describes"
    ):
        load_served_model(registry, PROJECT, version, own)


def processes_below(pid: int) -> list[int]:
    """A process's descendants, from /proc."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found[1:]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_the_server_serves_a_trained_version_without_torch(tmp_path, passed):
    own = Settings(_env_file=None, data_dir=tmp_path / "data", weights="none")
    version = add(own, passed)
    body = body_of(CLASSES)
    values = {"weights": "none", "input_size": 64, "device": "cpu", "threads": 6, "prediction_cache_bytes": 0}
    with RunningSegloop(tmp_path, **values) as segloop:
        with segloop.client() as client:
            answer = client.post("/predict", json=body).json()
        assert answer["model_version"] == version
        assert [item["value"]["brushlabels"] for item in answer["results"][0]["result"]] == [["Road"]]

        # two predict requests at once are taken here: what is beyond is refused, and nothing else is
        responses: list[httpx.Response] = []

        def ask() -> None:
            with segloop.client() as client:
                for _ in range(5):
                    responses.append(client.post("/predict", json={**body, "tasks": body["tasks"] * 4}))
                    assert client.get("/health").status_code == 200

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(responses) == 30
        for response in responses:
            if response.status_code == 503:
                assert int(response.headers["Retry-After"]) >= 1
                assert set(response.json()) == {"error"}
            else:
                assert response.status_code == 200
                assert [len(result["result"]) for result in response.json()["results"]] == [1] * 4
        with segloop.client() as client:
            assert client.post("/predict", json=body).json()["results"][0]["result"]

        servers = [
            pid
            for pid in processes_below(segloop._process.pid)
            if b"segloop.server" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        maps = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in servers}
        assert any("libopenvino" in text for text in maps.values()), "one of them ran the network"
        assert not [pid for pid, text in maps.items() if "libtorch" in text or "onnxruntime" in text]

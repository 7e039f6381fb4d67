from __future__ import annotations

import json
import re
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from segloop.cli import settings_page
from segloop.errors import BadRequest, SettingsError
from segloop.settings import PROJECT_SETTINGS, Settings, environment, load_settings, misspelt_settings

ROOT = Path(__file__).parents[3]
SHARED_NAMES = {
    "LABEL_STUDIO_URL": "https://labels.example.org",
    "LABEL_STUDIO_API_KEY": "key",
    "BASIC_AUTH_USER": "user",
    "BASIC_AUTH_PASS": "pass",
    "REDIS_URL": "redis://127.0.0.1:6379/1",
    "PORT": "1234",
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        for variable in (name.upper(), f"SEGLOOP_{name.upper()}"):
            monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


def shown(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    return value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)


def test_defaults() -> None:
    settings = load_settings()
    assert settings.label_studio_url == "http://localhost:8080"
    assert settings.port == 9090
    assert settings.retrain_threshold == 100
    assert settings.arch == "fpn_resnet50"
    assert settings.store_url == str(settings.data_dir.absolute() / "store")
    assert settings.queue_url == f"unix://{settings.data_dir.absolute()}/valkey/valkey.sock"


@pytest.mark.parametrize("prefix", ["", "SEGLOOP_"])
@pytest.mark.parametrize("variable", SHARED_NAMES)
def test_shared_names_work_with_and_without_the_prefix(
    monkeypatch: pytest.MonkeyPatch, prefix: str, variable: str
) -> None:
    monkeypatch.setenv(prefix + variable, SHARED_NAMES[variable])
    assert shown(load_settings(), variable.lower()) == SHARED_NAMES[variable]


def test_the_prefixed_name_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1234")
    monkeypatch.setenv("SEGLOOP_PORT", "5678")
    assert load_settings().port == 5678
    assert load_settings(port=4321).port == 4321


def test_other_names_need_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "example.org")
    monkeypatch.setenv("DEVICE", "cuda")
    monkeypatch.setenv("SEGLOOP_ARCH", "fcn_resnet50")
    settings = load_settings()
    assert (settings.host, settings.device, settings.arch) == ("0.0.0.0", "auto", "fcn_resnet50")


def test_env_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("SEGLOOP_THREADS=3\nPORT=1111\nBASIC_AUTH_PASS=\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("PORT", "2222")
    settings = load_settings()
    assert (settings.threads, settings.port, settings.has_password) == (3, 2222, False)
    assert load_settings(env_file=None).threads == Settings.model_fields["threads"].default


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PORT", "many", r"^The setting PORT is 'many': .*integer"),
        ("SEGLOOP_PORT", "70000", r"^The setting SEGLOOP_PORT is '70000': .*65535"),
        ("SEGLOOP_ARCH", "unet", r"^The setting SEGLOOP_ARCH is 'unet': .*deeplabv3_resnet50"),
        ("LABEL_STUDIO_URL", "localhost:8080", r"^The setting LABEL_STUDIO_URL is 'localhost:8080': .*http://"),
        (
            "SEGLOOP_ENGINE",
            "onnx",
            r"^The setting SEGLOOP_ENGINE is 'onnx': .*auto, torch, openvino, openvino-int8, or sagem",
        ),
        (
            "SEGLOOP_ENGINE",
            "sagemaker:",
            r"^The setting SEGLOOP_ENGINE is 'sagemaker:': .*name of a SageMaker endpoint",
        ),
        ("SEGLOOP_ENGINE", "sagemaker:a_b", r"^The setting SEGLOOP_ENGINE is 'sagemaker:a_b': "),
        ("SEGLOOP_TRAIN_BATCH_SIZE", "1", r"^The setting SEGLOOP_TRAIN_BATCH_SIZE is '1': .*batch normalisation"),
        ("SEGLOOP_VAL_FRACTION", "1", r"^The setting SEGLOOP_VAL_FRACTION is '1': .*less than 1"),
    ],
)
def test_a_bad_value_is_one_sentence_with_the_setting(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    text = str(caught.value)
    assert re.search(message, text)
    assert "\n" not in text


def test_an_error_says_where_settings_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGLOOP_THREADS", "none")
    with pytest.raises(SettingsError, match=re.escape(f"there is no {Path('.env').absolute()}")):
        load_settings()
    Path(".env").write_text("label_studio_url=localhost\n")
    monkeypatch.delenv("SEGLOOP_THREADS")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith("The setting LABEL_STUDIO_URL is 'localhost'")
    assert f"and from {Path('.env').absolute()}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("SEGLOOP_RETRAIN_TRESHOLD", "SEGLOOP_RETRAIN_THRESHOLD"),
        ("SEGLOOP_LABEL_STUDIO_APIKEY", "SEGLOOP_LABEL_STUDIO_API_KEY"),
        ("segloop_enginee", "SEGLOOP_ENGINE"),
        ("LABEL_STUDIO_APIKEY", "LABEL_STUDIO_API_KEY"),
        ("BASIC_AUTH_PASSW", "BASIC_AUTH_PASS"),
    ],
)
@pytest.mark.parametrize("in_file", [False, True])
def test_a_misspelt_name_is_said_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, name: str, near: str, in_file: bool
) -> None:
    if in_file:
        Path(".env").write_text(f"{name}=secret-value\n")
    else:
        monkeypatch.setenv(name, "secret-value")
    [sentence] = misspelt_settings()
    assert name.upper() in sentence
    assert sentence.endswith(f"Did you mean {near}?")
    assert "secret-value" not in sentence
    assert (str(Path(".env").absolute()) in sentence) == in_file


def test_names_of_other_tools_are_no_slips(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "LABEL_STUDIO_HOST",
        "LABEL_STUDIO_USERNAME",
        "SEGLOOP_SERVICE_HOST",
        "SEGLOOP_QUEUE_SERVICE_PORT_REDIS",
        "SEGLOOP_PORT_9090_TCP_ADDR",
        "SEGLOOP_LABEL_STUDIO_URL",
        "seGloop_threads",
        "REDIS_PORT",
    ):
        monkeypatch.setenv(name, "1")
    Path(".env").write_text("COMPOSE_PROFILES=cpu\nAWS_DEFAULT_REGION=us-east-1\nPORT=9090\n")
    assert misspelt_settings() == []


def test_children_leave_the_slips_to_their_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGLOOP_THREAD", "1")
    assert misspelt_settings()
    for name, value in environment(Settings()).items():
        monkeypatch.setenv(name, value)
    assert misspelt_settings() == []


def test_the_example_of_an_env_file_has_only_settings() -> None:
    example = ROOT / ".env.example"
    assert misspelt_settings(example) == []
    assert "\nLABEL_STUDIO_URL=" in example.read_text(encoding="utf-8")


def test_hosts_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGLOOP_IMAGE_HOSTS", " a.example.org, *.example.net ,, ")
    assert load_settings().image_hosts == ("a.example.org", "*.example.net")


def test_addresses_lose_their_trailing_slash() -> None:
    settings = Settings(label_studio_url="http://ls:8080/", public_url="https://seg.example.org/")
    assert (settings.label_studio_url, settings.public_url) == ("http://ls:8080", "https://seg.example.org")


def test_without_a_password_only_loopback_is_bound() -> None:
    assert Settings().bind_host == "127.0.0.1"
    assert Settings(basic_auth_pass="secret").bind_host == "0.0.0.0"


def test_the_store_is_a_folder_or_s3() -> None:
    assert Settings(store="versions").store_url == str(Path("versions").absolute())
    assert Settings(store="s3://bucket/prefix/").store_url == "s3://bucket/prefix"


def test_an_engine_may_be_an_endpoint() -> None:
    assert Settings(engine="sagemaker:street-1").endpoint == "street-1"
    assert Settings(engine="openvino-int8").endpoint == ""


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize("field", ["label_studio_api_key", "basic_auth_pass", "webhook_secret"])
def test_secrets_are_never_shown(field: str) -> None:
    settings = Settings(**{field: "hunter2"})
    assert shown(settings, field) == "hunter2"
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert "hunter2" not in text
    with pytest.raises(SettingsError) as caught:
        load_settings(**{field: "hunter2", "port": -1})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(BadRequest) as refused:
        settings.for_project({"input_size": -1})
    assert "hunter2" not in str(refused.value)


# -- a project's own settings


@pytest.mark.parametrize("as_text", [False, True])
def test_extra_params_as_an_object_or_a_string(as_text: bool) -> None:
    params = {"retrain_threshold": "5", "arch": "fcn_resnet50", "toolset": {"x": 1}, "train_minutes": None}
    settings = Settings(retrain_threshold=7, train_minutes=3, basic_auth_pass="secret", port=1)
    own = settings.for_project(json.dumps(params) if as_text else params)
    assert (own.retrain_threshold, own.arch, own.train_minutes) == (5, "fcn_resnet50", 3)
    assert (own.port, own.basic_auth_pass) == (1, settings.basic_auth_pass)
    assert settings.retrain_threshold == 7


@pytest.mark.parametrize("nothing", [None, "", "null", "{", "[1]", "{}", "[" * 10**5, [], {}, 3, {"toolset": 1}])
def test_without_params_of_ours_nothing_changes(nothing: object) -> None:
    settings = Settings()
    assert settings.for_project(nothing) is settings


def test_a_project_cannot_override_what_is_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    others = {name: "/etc" for name in Settings.model_fields if name not in PROJECT_SETTINGS}
    assert settings.for_project(others) is settings
    monkeypatch.setenv("PORT", "1234")
    assert settings.for_project({"min_area_px": 4, "PORT": 99}).port == settings.port


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"retrain_threshold": -1}, r"extra_params: retrain_threshold=-1: "),
        ({"arch": "unet"}, r"extra_params: arch='unet': "),
        ('{"input_size": "wide"}', r"extra_params: input_size='wide': "),
        ({"min_area_px": {"a": 1}}, r"extra_params: min_area_px=\{'a': 1\}: "),
    ],
)
def test_bad_values_are_one_sentence(params: object, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        Settings().for_project(params)


# -- documentation


def test_every_setting_has_help_and_its_page_is_fresh() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_page(), "docs/settings.md is stale: segloop settings > docs/settings.md"
    for name in Settings.model_fields:
        assert re.search(rf"^\| `(SEGLOOP_)?{name.upper()}`.* \| .* \| \S.* \|$", page, re.MULTILINE), name


def test_settings_alone_reads_the_environment() -> None:
    sources = [*(ROOT / "segloop").rglob("*.py"), *(ROOT / "worker").rglob("*.py"), *ROOT.glob("*.py")]
    readers = {
        path.name for path in sources if re.search(r"\bos\.(environ|getenv)\b", path.read_text(encoding="utf-8"))
    }
    # entry.py and inference.py are the first processes of containers: segloop is not there yet.
    assert readers <= {"process.py", "settings.py", "sources.py", "entry.py", "inference.py"}


@pytest.mark.parametrize(
    "url",
    [
        "redis://:zzy/zzy@queue:6379/0",
        "redis://:12/zzy@queue:6379/0",
        "redis://:1?zzy@queue:6379/0",
        "redis://:zzy#zzy@queue:6379/0",
        "redis://:zzy[zzy@queue:6379/0",
        "rediss://queue:port/0",
        "queue:6379",
        "http://queue:6379",
    ],
)
def test_an_address_that_is_none_of_redis_is_refused_unseen(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    told = "".join(traceback.format_exception(caught.value))
    assert "The setting REDIS_URL: Value error, must be such as redis://" in told
    assert "zzy" not in told


@pytest.mark.parametrize(
    "url",
    [
        "redis://queue",
        "redis:///1",
        "rediss://ann:p%2Fa@queue:6380/0?ssl_cert_reqs=none",
        "redis://:p@ss@queue:6379/0",
        "unix:///run/queue.sock?db=1",
        "redis://[::1]:6379",
    ],
)
def test_addresses_of_redis(url: str) -> None:
    assert Settings(redis_url=url).queue_url == url

"""Settings: every knob of segloop, its default and its help."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from segloop.errors import BadRequest, SettingsError
from segloop.settings.learning import LearningSettings
from segloop.settings.sagemaker import TrainerSettings
from segloop.settings.serving import ServingSettings
from segloop.settings.sources import CHECKED, looked_for, misspelt, variables_of, written

_ENDPOINT_PREFIX = "sagemaker:"
#: Settings that may hold a password in an address: no error shows them.
_WITH_PASSWORD = ("redis_url",)
#: The least share of the tasks that is left to people, blind, where pre-labels are accepted.
AUDIT_SHARE = 0.05
# sun_path of sockaddr_un holds 108 bytes, the last one a zero (unix(7)); macOS has four less
_SOCKET_PATH_BYTES = 103

#: Settings that a project may override through the *extra params* of its ML backend in Label Studio.
PROJECT_SETTINGS = (
    "accept_confidence",
    "accept_risk",
    "accept_tau",
    "accept_train",
    "acquisition",
    "acquisition_batch",
    "adapt_minutes",
    "adapt_threshold",
    "annotators",
    "arch",
    "auto_accept",
    "blind_share",
    "consistency_images",
    "input_size",
    "min_area_px",
    "ordered_view",
    "output_tag",
    "predict_seconds",
    "polygon_tolerance_px",
    "promote_class_limit",
    "promote_tolerance",
    "regions",
    "retrain_threshold",
    "suspect_view",
    "suspects",
    "train_epochs",
    "train_minutes",
    "train_patience",
    "unlabelled",
    "split_by",
)


# fields come in the order of the bases from the last to the first
class Settings(TrainerSettings, LearningSettings, ServingSettings):
    """All settings, frozen. Each is read from its environment variable or from a `.env` file.

    The variable is `SEGLOOP_` and the name in capitals, but for the six that other tools of the field
    share: LABEL_STUDIO_URL, LABEL_STUDIO_API_KEY, BASIC_AUTH_USER, BASIC_AUTH_PASS, REDIS_URL and
    PORT are read without the prefix (the prefixed form works too).
    """

    model_config = SettingsConfigDict(
        env_prefix="SEGLOOP_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    @property
    def hidden_share(self) -> float:
        """The share of the tasks that are blind: `blind_share`, but enough to audit what is accepted."""
        return max(self.blind_share, AUDIT_SHARE) if self.auto_accept else self.blind_share

    @property
    def tells_studio(self) -> bool:
        """Whether projects in Label Studio say how far a training is."""
        return self.studio_status and bool(self.label_studio_api_key.get_secret_value())

    @property
    def endpoint(self) -> str:
        """The SageMaker endpoint that runs the network; empty where one of this machine's engines does."""
        return self.engine.removeprefix(_ENDPOINT_PREFIX) if self.engine.startswith(_ENDPOINT_PREFIX) else ""

    @property
    def has_password(self) -> bool:
        """Whether basic auth is on."""
        return bool(self.basic_auth_pass.get_secret_value())

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret that these settings hold, for the log to hide."""
        fields = (getattr(self, name) for name in type(self).model_fields)
        given = [field.get_secret_value() for field in fields if isinstance(field, SecretStr)]
        password = urlsplit(self.redis_url).password or ""
        return tuple(secret for secret in (*given, password, unquote(password)) if secret)

    @property
    def bind_host(self) -> str:
        """Address the server listens on: loopback alone while there is no password."""
        return self.host if self.has_password else "127.0.0.1"

    @property
    def store_url(self) -> str:
        """The store of versions: an absolute folder or an s3:// address."""
        if self.store.startswith("s3://"):
            return self.store.rstrip("/")
        return str(Path(self.store).absolute() if self.store else self.data_dir.absolute() / "store")

    @property
    def valkey_socket(self) -> Path:
        """Socket of the embedded Valkey; in the folder for temporary files where data_dir is too long for one."""
        path = self.data_dir.absolute() / "valkey" / "valkey.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
            return path
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"segloop-{os.getuid()}-{name}" / "valkey.sock"

    @property
    def queue_url(self) -> str:
        """Address of Redis: the one given, or the embedded Valkey's socket."""
        return self.redis_url or f"unix://{quote(str(self.valkey_socket))}"

    def for_project(self, extra_params: object) -> Settings:
        """These settings with a project's own (the *extra params* that Label Studio stores with a backend).

        Label Studio sends them as null, an object, or a string that holds a JSON object. Unknown names are
        left alone (other tools use the field too); a known name with an unusable value is an error.

        Raises:
            BadRequest: a known name has an unusable value.
        """
        params = _as_mapping(extra_params)
        own = {name: params[name] for name in PROJECT_SETTINGS if name in params and params[name] is not None}
        if not own:
            return self
        try:
            return type(self).model_validate({**self.model_dump(), **own})
        except ValidationError as error:
            raise BadRequest(f"extra_params: {_first_problem(error)}") from error


@lru_cache(maxsize=1024)
def is_loopback(host: str | None) -> bool:
    """Whether a host name or address is this machine's loopback interface."""
    try:
        return host == "localhost" or (host is not None and ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


def _as_mapping(extra_params: object) -> Mapping[str, object]:
    if isinstance(extra_params, str):
        try:
            extra_params = json.loads(extra_params)
        except (ValueError, RecursionError):  # no JSON, or nested thousands deep
            return {}
    return extra_params if isinstance(extra_params, Mapping) else {}


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"]) or "settings"
    return f"{name}={problem.get('input')!r}: {problem['msg']}"


def load_settings(env_file: str | Path | None = ".env", **overrides: Any) -> Settings:
    """Settings from the environment and, where it exists, an env file; `overrides` win.

    Raises:
        SettingsError: a value cannot be used; the text names the variable as it was written, where, and what is wrong.
    """
    try:
        return Settings(_env_file=env_file, **overrides)
    except ValidationError as error:
        raise SettingsError(_explain(error, env_file)) from error


def misspelt_settings(env_file: str | Path | None = ".env") -> list[str]:
    """One sentence for each variable, or line of the env file, that looks like a setting and is none.

    Nothing in a child process of segloop: its parent has said it.
    """
    return [] if CHECKED in os.environ else list(misspelt(Settings, env_file))


def _explain(error: ValidationError, env_file: str | Path | None) -> str:
    problem = error.errors()[0]
    given = str(problem["loc"][0]) if problem["loc"] else ""
    known = variables_of(Settings)
    name = next((name for name, variables in known.items() if given == name or given.upper() in variables), given)
    field = Settings.model_fields.get(name)
    is_secret = name in _WITH_PASSWORD or (field is not None and field.annotation is SecretStr)
    value = "" if is_secret else f" is {problem['input']!r}"
    variable = written(known.get(name, (given.upper(),)), env_file)
    return f"The setting {variable}{value}: {problem['msg']} (settings were {looked_for(env_file)})."

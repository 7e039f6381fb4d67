"""Secrets of docker compose: what .env gives, and the rest drawn once and kept in a volume that the services read at their start."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

#: What is kept between starts; nobody but this program reads it.
KEPT = "kept.json"
#: What a person reads to log in.
LOGINS = "logins.txt"

#: How each secret that .env leaves out is drawn. Label Studio's tokens have 40 characters at most.
DRAWN: Mapping[str, Callable[[], str]] = {
    "LABEL_STUDIO_PASSWORD": lambda: secrets.token_urlsafe(12),
    "LABEL_STUDIO_USER_TOKEN": lambda: secrets.token_hex(20),
    "BASIC_AUTH_PASS": lambda: secrets.token_urlsafe(18),
    "SEGLOOP_WEBHOOK_SECRET": lambda: secrets.token_urlsafe(24),
}
USERNAME = "annotator@example.com"


def values(given: Mapping[str, str], kept: Mapping[str, str]) -> dict[str, str]:
    """Every secret by its variable: as given, else as kept, else drawn now. Empty is not given."""
    found = {name: given.get(name) or kept.get(name) or draw() for name, draw in DRAWN.items()}
    found["LABEL_STUDIO_USERNAME"] = given.get("LABEL_STUDIO_USERNAME") or USERNAME
    found["BASIC_AUTH_USER"] = given.get("BASIC_AUTH_USER") or "segloop"
    found["LABEL_STUDIO_API_KEY"] = given.get("LABEL_STUDIO_API_KEY") or found["LABEL_STUDIO_USER_TOKEN"]
    return found


def write(folder: Path, given: Mapping[str, str]) -> None:
    """Write the files of a folder: for Label Studio's container, for segloop's, and for the person who logs in.

    Containers have users of their own, so all of them may read the files; the volume is given to these services alone.
    """
    kept = folder / KEPT
    found = values(given, json.loads(kept.read_text("utf-8")) if kept.exists() else {})
    _replace(kept, json.dumps({name: found[name] for name in DRAWN}), 0o600)
    label_studio = ("LABEL_STUDIO_USERNAME", "LABEL_STUDIO_PASSWORD", "LABEL_STUDIO_USER_TOKEN")
    segloop = ("LABEL_STUDIO_API_KEY", "BASIC_AUTH_USER", "BASIC_AUTH_PASS", "SEGLOOP_WEBHOOK_SECRET")
    for name, variables in {"label-studio.env": label_studio, "segloop.env": segloop}.items():
        lines = (f"export {variable}={shlex.quote(found[variable])}\n" for variable in variables)
        _replace(folder / name, "".join(lines), 0o444)
    logins = (
        f"Label Studio  {found['LABEL_STUDIO_USERNAME']}  {found['LABEL_STUDIO_PASSWORD']}\n"
        f"segloop       {found['BASIC_AUTH_USER']}  {found['BASIC_AUTH_PASS']}\n"
    )
    _replace(folder / LOGINS, logins, 0o444)


def _replace(file: Path, text: str, mode: int) -> None:
    draft = file.with_suffix(".draft")
    draft.touch(0o600)
    draft.write_text(text, "utf-8")
    draft.chmod(mode)
    draft.replace(file)


if __name__ == "__main__":
    write(Path(sys.argv[1]), os.environ)

"""The code of an endpoint's container: `code/inference.py` of model.tar.gz. Standard library alone until it is set up.

AWS's image of PyTorch for inference calls `model_fn` and `transform_fn`. An image of one's own runs this file, which
then answers GET /ping and POST /invocations itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

CODE = Path(__file__).resolve().parent
_PORT = 8080


def model_fn(model_dir: str) -> Any:
    """The version's handler, as `segloop.aws.endpoints.handler` has it."""
    return handler_of(Path(model_dir))


def transform_fn(handler: Any, body: Any, content_type: str, accept: str, context: Any = None) -> Any:
    """The answer to one request; a request that cannot be answered gets a status of 4xx and the reason.

    Some versions of AWS's toolkit give no context: the reason then comes with a status of 500.
    """
    given = context.get_all_request_header(0) if context is not None else None
    headers = {str(name).lower(): value for name, value in (given or {}).items()}
    attributes = headers.get("x-amzn-sagemaker-custom-attributes") or ""
    if isinstance(attributes, bytes):
        attributes = attributes.decode(errors="replace")
    refused = importlib.import_module("segloop.aws.endpoints.handler").Refused
    try:
        return handler.invoke(bytes(body), content_type or "", attributes)
    except refused as refusal:
        if context is None:
            raise
        context.set_response_status(code=int(refusal.status), phrase=refusal.status.phrase)
        return str(refusal)


def handler_of(folder: Path) -> Any:
    """Set this process up, and make the handler of the version in a folder."""
    set_up()
    settings = importlib.import_module("segloop.settings").load_settings(None)
    importlib.import_module("segloop.telemetry.logs").configure_logging(settings.log_level)
    return importlib.import_module("segloop.aws.endpoints.handler").Handler(folder, settings)


def set_up() -> None:
    """Make segloop and what the image lacks importable; several processes share one folder for it.

    Raises:
        SystemExit: pip cannot install what the image lacks; the text is its reason.
    """
    # beside this file, as train.py is beside it in a training's container
    sys.path.insert(0, str(CODE))
    entry = importlib.import_module("segloop_entry")
    name = hashlib.sha256(str(CODE).encode() + (CODE / "segloop.zip").read_bytes()).hexdigest()[:16]
    packages = Path(tempfile.gettempdir()) / f"segloop-{os.getuid()}-{name}"
    packages.mkdir(mode=0o700, exist_ok=True)
    with (packages / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = packages / "done"
        if not done.exists():
            with zipfile.ZipFile(CODE / "segloop.zip") as archive:
                archive.extractall(packages)
            problem = entry.install(CODE / "lacking.txt", packages, CODE / "wheels")
            if problem:
                sys.exit(f"The container cannot install what its image lacks: {problem}")
            done.touch()
    sys.path.insert(0, str(packages))


def main() -> None:
    """Serve the version in the folder above."""
    handler = handler_of(CODE.parent)
    port = int(os.environ.get("SAGEMAKER_BIND_TO_PORT") or _PORT)
    importlib.import_module("segloop.aws.endpoints.handler").serve(handler, port)


if __name__ == "__main__":
    main()

"""The first process of a training container: `train.py` of the code channel. Standard library alone.

It installs what the image lacks, has the training set gathered from S3 where the hyperparameters name a project and no
snapshot (the managed route), starts `python -m segloop.training` (by torchrun where there are several GPUs or hosts),
passes SIGTERM on, and prints the progress as lines that SageMaker makes metrics of.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Collection
from pathlib import Path
from types import FrameType

CODE = Path(__file__).resolve().parent
BASE = CODE.parents[2]
PROGRESS = "segloop-progress"
#: Time between two lines of progress, in seconds.
REPORT_S = 5.0
MASTER_PORT = 7777
#: Exit status after SIGTERM, as shells give it.
TERMINATED = 128 + signal.SIGTERM
_REASON_CHARACTERS = 1024
#: The hyperparameter that has the training set gathered.
PROJECT = "segloop_project"
#: What makes a model one that an endpoint can serve: names in model.tar.gz, and the files of the code channel that they are.
INFERENCE = {
    "code/inference.py": "inference.py",
    # requirements.txt would be installed by AWS's image, with all that the packages ask for
    "code/lacking.txt": "lacking.txt",
    "code/segloop.zip": "segloop.zip",
    "code/segloop_entry.py": "train.py",
}
#: What gathering needs of AWS's SDK: any version does, so that what the image has is left alone.
AWS_SDK = ("boto3", "botocore", "jmespath", "python-dateutil", "s3transfer", "six", "urllib3")


def main() -> int:
    """Train; the exit status of the training."""
    # The first process of a container gets no signal that it has no handler for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    packages = Path(tempfile.mkdtemp(prefix="segloop-"))
    with zipfile.ZipFile(CODE / "segloop.zip") as archive:
        archive.extractall(packages)
    gathers = PROJECT in _config("hyperparameters.json")
    left_out = () if gathers and _installed("boto3") is None else AWS_SDK
    problem = install(CODE / "requirements.txt", packages, BASE / "input" / "data" / "wheels", left_out)
    if problem:
        fail(f"The container cannot install what its image lacks: {problem}")
        return 1
    path = os.pathsep.join(filter(None, (str(packages), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    gathered: list[str] = []
    if gathers:
        # What a container may fill is /tmp, on the disk of the instance.
        gathered = ["--data", tempfile.mkdtemp(prefix="segloop-data-")]
        gathering = [sys.executable, "-m", "segloop.training.gathering", "--base", str(BASE), *gathered]
        code = run(gathering, environment)
        if code:
            return code
    code = run([*command(), *gathered], environment)
    if code == 0:
        add_inference()
        tell_result(gathers)
    return code


def add_inference() -> None:
    """Put an endpoint's code beside this host's model, where the code channel has it: model.tar.gz can then be deployed."""
    model = BASE / "model"
    if not (CODE / "inference.py").is_file() or not (model / "version.json").is_file():
        return
    (model / "code").mkdir(exist_ok=True)
    for name, source in INFERENCE.items():
        shutil.copyfile(CODE / source, model / name)


def tell_result(always: bool) -> None:
    """Print the model's mIoU as the last line of progress; one that has none counts as 0 where `always` asks for a line."""
    try:
        miou = json.loads((BASE / "model" / "version.json").read_text("utf-8"))["metrics"]["miou"]
    except (OSError, ValueError, KeyError, TypeError):
        miou = None
    if miou is not None or always:
        print(PROGRESS, json.dumps({"phase": "trained", "miou": miou or 0.0}), flush=True)


def lacking(requirements: str, left_out: Collection[str] = ()) -> str:
    """The entries of a requirements file (name==version with hashes) of which no version is installed here."""
    entries = [entry for entry in re.split(r"(?m)^(?=\S)", requirements) if "==" in entry]
    wanted: dict[str, set[str]] = {}
    for entry in entries:
        name, version = re.split(r"==", entry.split()[0])
        wanted.setdefault(name, set()).add(version)
    missing = {name for name, versions in wanted.items() if _installed(name) not in versions and name not in left_out}
    return "".join(entry for entry in entries if entry.split("==")[0] in missing)


def install(requirements: Path, target: Path, wheels: Path, left_out: Collection[str] = ()) -> str:
    """Install what is lacking into a folder, from a folder of wheels where there is one; what is wrong, if it fails."""
    text = lacking(requirements.read_text("utf-8"), left_out)
    if not text:
        return ""
    wanted = target / "requirements.txt"
    wanted.write_text(text, "utf-8")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--only-binary",
        ":all:",
        "--require-hashes",
    ]
    source = ["--no-index", "--find-links", str(wheels)] if wheels.is_dir() else []
    result = subprocess.run(
        [*pip, *source, "--target", str(target), "-r", str(wanted)], stderr=subprocess.PIPE, text=True, check=False
    )
    sys.stderr.write(result.stderr)
    return result.stderr.strip()[-700:] or f"pip ended with {result.returncode}" if result.returncode else ""


def command() -> list[str]:
    """The training's command line: torchrun's for a full training where there are several processes to be."""
    training = ["-m", "segloop.training", "--base", str(BASE)]
    hosts, this = hosts_of(_config("resourceconfig.json"))
    gpus = _gpus()
    if len(hosts) * max(gpus, 1) == 1 or _config("hyperparameters.json").get("recipe") == "quick":
        return [sys.executable, *training]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nnodes={len(hosts)}",
        f"--node-rank={hosts.index(this)}",
        f"--nproc-per-node={max(gpus, 1)}",
        f"--master-addr={hosts[0]}",
        f"--master-port={MASTER_PORT}",
        *training,
    ]


def hosts_of(config: dict[str, object]) -> tuple[list[str], str]:
    """All hosts of the training, in order, and this one."""
    given = config.get("hosts")
    hosts = sorted(map(str, given)) if isinstance(given, list) and given else ["localhost"]
    return hosts, str(config.get("current_host", hosts[0]))


def run(arguments: list[str], environment: dict[str, str]) -> int:
    """Run a command to its end; SIGTERM goes to it. Its exit status; 128 and the signal's number, if one killed it."""
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    process = subprocess.Popen(arguments, env=environment)
    for number in early:
        process.send_signal(number)
    ended = threading.Event()
    reporter = threading.Thread(target=_report, args=(BASE / "output" / "data" / "progress.jsonl", ended))
    reporter.start()
    code = process.wait()
    ended.set()
    reporter.join()
    return code if code >= 0 else 128 - code


def fail(reason: str) -> None:
    """Write the reason that SageMaker shows."""
    failure = BASE / "output" / "failure"
    failure.parent.mkdir(parents=True, exist_ok=True)
    failure.write_text(reason[:_REASON_CHARACTERS], "utf-8")


def _report(progress: Path, ended: threading.Event) -> None:
    shown = ""
    while True:
        is_last = ended.wait(REPORT_S)
        try:
            lines = progress.read_text("utf-8").split("\n")[:-1]
        except OSError:
            lines = []
        # An evaluation counts steps of its own.
        steps = [line for line in lines if '"phase": "training"' in line]
        if steps and steps[-1] != shown:
            shown = steps[-1]
            print(PROGRESS, shown, flush=True)
        if is_last:
            return


def _config(name: str) -> dict[str, object]:
    try:
        config = json.loads((BASE / "input" / "config" / name).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _gpus() -> int:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except OSError:
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())

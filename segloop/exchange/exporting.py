"""A version as a folder that needs no segloop: its network for a runtime, its classes, and a script that predicts."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segloop.errors import EngineError
from segloop.exchange.script import PACKAGES, Format, predict_script
from segloop.formats import WEIGHTS_FILE
from segloop.network.transforms import MEAN, STD, STRIDE_PX
from segloop.registry import Registry
from segloop.serving.conversion import EXACT_MODEL, converted, run_export
from segloop.settings import Settings
from segloop.versions import VersionInfo

logger = logging.getLogger(__name__)

_README = """# {version}

A segmentation network that segloop {release} trained. It needs no segloop:

```sh
pip install numpy pillow opencv-python-headless {package}
python predict.py IMAGE OUT.png
```

OUT.png is the class map: a pixel's value is 0 for background, else the number of its class:

{classes}

`model.json` has these names, and all that predict.py does before and after the network:

- Before: the image upright, on white, as RGB; resized (areas averaged where it shrinks, bilinear where it grows) so that its long side is about
  {input_size} pixels{windows}, both sides multiples of {stride}; less `mean`, divided by `std`; float32 (1, 3, h, w).
- After: logits float32 (1, {channels}, h / s, w / s), resized to the image's size (bilinear, corners not aligned); the class with the greatest{specks}.
  For confidences, divide the logits by the temperature {temperature:g} and take the softmax.

`{file}` is the {precision} network. {same}
"""

_SAME = "Its class maps are those that segloop serves with the setting `{setting}`."


@dataclass(frozen=True)
class Exported:
    """What an export wrote: the folder's files by name, and the engine of segloop whose class maps it gives."""

    folder: Path
    files: tuple[str, ...]
    engine: str


def export_version(registry: Registry, info: VersionInfo, kind: Format, folder: Path, settings: Settings) -> Exported:
    """Write a version for a runtime into a folder, which is made; files of the same names there are replaced.

    `openvino` is the model that segloop serves on a CPU: int8 where that is as good, unless the setting `engine` is
    `openvino`. The others are exact. The setting `min_area_px` is a part of what is written; the settings are the
    project's own.

    Raises:
        RegistryError: the store cannot be read, or lacks the version's files.
        EngineError: torch, which `onnx` and `torch` need, is not installed or cannot export it.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "openvino":
        engine = _openvino(registry, info, folder, settings)
    else:
        engine = "openvino" if kind == "onnx" else "torch"
        bundle = registry.bundle(info.project, info.version, [WEIGHTS_FILE])
        with tempfile.TemporaryDirectory(prefix="segloop-export-") as scratch:
            run_export(["--bundle", str(bundle), "--format", kind, "--out", scratch], settings)
            for file in Path(scratch).iterdir():
                shutil.copyfile(file, folder / file.name)
        if not (folder / _file(kind)).is_file():
            raise EngineError(f"the export wrote no {_file(kind)}")
    description = describe(info, kind, settings.min_area_px)
    (folder / "model.json").write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", "utf-8")
    windows = info.long_side > info.input_size
    (folder / "predict.py").write_text(predict_script(kind, windows=windows, specks=settings.min_area_px > 1), "utf-8")
    (folder / "README.md").write_text(_readme(info, kind, engine, settings.min_area_px), "utf-8")
    names = sorted(path.name for path in folder.iterdir())
    return Exported(folder, tuple(names), engine)


def describe(info: VersionInfo, kind: Format, min_area_px: int) -> dict[str, Any]:
    """model.json: what a program has to know of an exported version."""
    return {
        "version": info.version,
        "file": _file(kind),
        "classes": {str(number): name for number, name in enumerate(["background", *info.classes])},
        "input_size": info.input_size,
        "long_side": info.long_side,
        "stride": STRIDE_PX,
        "mean": [round(float(value), 3) for value in MEAN],
        "std": [round(float(value), 3) for value in STD],
        "temperature": info.temperature,
        "min_area_px": min_area_px,
        "miou": info.metrics.miou,
    }


def _file(kind: Format) -> str:
    return {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}[kind]


def _openvino(registry: Registry, info: VersionInfo, folder: Path, settings: Settings) -> str:
    """Copy the model that segloop serves on a CPU; the engine's name."""
    int8 = info.engines.openvino_int8
    name = "openvino-int8" if settings.engine != "openvino" and int8 is not None and int8.serves else "openvino"
    files = [f"{name}.xml", f"{name}.bin"]
    if info.files.keys() >= set(files):
        source = registry.bundle(info.project, info.version, files) / files[0]
    else:
        name = "openvino"
        bundle = registry.bundle(info.project, info.version, [WEIGHTS_FILE])
        source = converted(info.files[WEIGHTS_FILE].sha256[:16], ["--bundle", str(bundle)], settings)
        if source.name != EXACT_MODEL or not source.is_file():
            raise EngineError(f"{info.version} has no OpenVINO model, and none could be made")
    for suffix in (".xml", ".bin"):
        shutil.copyfile(source.with_suffix(suffix), folder / f"model{suffix}")
    return name


def _readme(info: VersionInfo, kind: Format, engine: str, min_area_px: int) -> str:
    from segloop import __version__

    windows = (
        f" (of overlapping windows; the whole at up to {info.long_side})" if info.long_side > info.input_size else ""
    )
    return _README.format(
        version=info.version,
        release=__version__,
        package=PACKAGES[kind],
        classes="\n".join(f"{number}. {name}" for number, name in enumerate(info.classes, start=1)),
        input_size=info.input_size,
        windows=windows,
        stride=STRIDE_PX,
        channels=len(info.classes) + 1,
        temperature=info.temperature,
        file=_file(kind),
        specks=f"; connected pieces of fewer than {min_area_px} pixels become background" if min_area_px > 1 else "",
        precision="int8" if engine == "openvino-int8" else "exact",
        same=_SAME.format(setting=f"SEGLOOP_ENGINE={engine}"),
    )

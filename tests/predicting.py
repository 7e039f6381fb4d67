"""predict.py of an exported version, run where segloop cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: The script, once for each pair of an image and the file of its class map.
_RUN = """
import runpy, sys
sys.modules["segloop"] = None
script, *files = sys.argv[1:]
for image, out in zip(files[::2], files[1::2]):
    sys.argv = [script, image, out]
    runpy.run_path(script, run_name="__main__")
"""


def predict_alone(folder: Path, images: Sequence[Path]) -> list[NDArray[np.uint8]]:
    """The class maps, uint8 (H, W), that an exported folder's predict.py makes of image files, in a process of its own."""
    outs = [folder / f"{number}.png" for number in range(len(images))]
    files = [file for pair in zip(images, outs, strict=True) for file in pair]
    subprocess.run([sys.executable, "-I", "-c", _RUN, folder / "predict.py", *files], check=True, timeout=300)
    return [np.asarray(Image.open(out), dtype=np.uint8) for out in outs]

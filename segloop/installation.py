"""What is installed of segloop: the parts of its extras, and the compiled mask codec."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final, Literal

from segloop.errors import SettingsError

Extra = Literal["worker", "aws"]

#: What each extra of setup.py is needed for, and the modules that show whether it is there.
_EXTRAS: Final[dict[Extra, tuple[str, tuple[str, ...]]]] = {
    "worker": (
        "Training and new predictions after a promotion",
        (
            "torch",
            "torchvision",
            "safetensors",
            "scipy",
            "onnx",
            "onnxruntime",
            "label_studio_sdk",
            "tqdm",
        ),
    ),
    "aws": ("S3 and SageMaker", ("boto3",)),
}


def missing_extra(extra: Extra) -> str:
    """One sentence that says what an extra is needed for and how to install it; "" where it is installed."""
    purpose, modules = _EXTRAS[extra]
    missing = [name for name in modules if find_spec(name) is None]
    if not missing:
        return ""
    return (
        f"{purpose} need segloop[{extra}], and {missing[0]} is not installed here: run pip install 'segloop[{extra}]'."
    )


def require_extra(extra: Extra) -> None:
    """Check that an extra is installed.

    Raises:
        SettingsError: it is not.
    """
    if sentence := missing_extra(extra):
        raise SettingsError(sentence)

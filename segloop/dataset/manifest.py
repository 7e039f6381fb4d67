"""The manifest of a snapshot: what its folder holds, and the hash that tells it was not altered."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segloop.errors import TrainingError
from segloop.files import write_bytes

Split = Literal["train", "val"]

MANIFEST: Final = "manifest.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AnnotationRef(_Frozen):
    """An annotation that a mask was drawn from."""

    id: int
    updated_at: str


class Item(_Frozen):
    """One image with its mask, both by their path in the snapshot folder; sizes in upright pixels.

    The mask is what the annotations say together (see `majority`), the first one winning ties. `address` is where
    the image came from; None for one that lay in the task itself, and for http with a query, which may be signed.
    """

    task: int
    image_tag: str
    item_index: int | None = None
    annotations: Annotated[tuple[AnnotationRef, ...], Field(strict=False)]
    # Names of content, so that no path can leave the folder.
    image: Annotated[str, Field(pattern=r"\Aimages/[0-9a-f]{64}\.[a-z0-9]{1,8}\z")]
    mask: Annotated[str, Field(pattern=r"\Amasks/[0-9a-f]{64}\.png\z")]
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    split: Split
    address: str | None = None


class Skipped(_Frozen):
    """A task that was left out, or of which an annotation was, and why."""

    task: int
    reason: str


class Manifest(_Frozen):
    """What a snapshot folder holds. A mask is an 8-bit class map: 0 background, i + 1 = classes[i], 255 ignored.

    `unannotated` are images of tasks without annotations, which training may learn from besides. All of their mask is
    ignored, and they are on the training side.
    """

    format: Literal[1] = 1
    project: str
    created_at: str
    label_config: str
    classes: Annotated[tuple[str, ...], Field(strict=False)]
    unlabelled: Literal["background", "ignore"]
    items: Annotated[tuple[Item, ...], Field(strict=False)]
    unannotated: Annotated[tuple[Item, ...] | None, Field(strict=False)] = None
    skipped: Annotated[tuple[Skipped, ...], Field(strict=False)] = ()
    warnings: Annotated[tuple[str, ...], Field(strict=False)] = ()
    hash: str = ""

    def sealed(self) -> Manifest:
        """The same with its hash."""
        return self.model_copy(update={"hash": self.digest()})

    def all_items(self) -> tuple[Item, ...]:
        """The items of both sides and those without annotations: all that the folder has files of."""
        return (*self.items, *(self.unannotated or ()))

    def part(self, split: Split) -> tuple[Item, ...]:
        """The items of one side of the split."""
        return tuple(item for item in self.items if item.split == split)

    def tasks(self, split: Split) -> int:
        """How many tasks one side of the split has."""
        return len({item.task for item in self.part(split)})

    def digest(self) -> str:
        """sha256 in hex over the canonical JSON of everything that defines the training set.

        The address of an image is left out: its content counts, and whoever fetches it again checks that.
        """
        left_out = dict.fromkeys(("created_at", "skipped", "warnings", "hash"), True)
        addresses = {part: {"__all__": {"address"}} for part in ("items", "unannotated")}
        defining = self.model_dump(mode="json", exclude_none=True, exclude={**left_out, **addresses})
        text = json.dumps(defining, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def text(self) -> str:
        """The manifest as its file holds it."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), indent=1, ensure_ascii=False) + "\n"


def load_manifest(path: Path) -> Manifest:
    """The manifest of a snapshot folder (or the file itself), once its hash and its paths have been checked.

    Raises:
        TrainingError: it is missing, malformed or altered, or a file that it names is missing or outside the folder.
    """
    file = path / MANIFEST if path.is_dir() else path
    manifest = read_manifest(file)
    folder = file.parent.resolve()
    for item in manifest.all_items():
        for name in (item.image, item.mask):
            named = (folder / name).resolve()
            if not named.is_relative_to(folder) or not named.is_file():
                raise TrainingError(f"the snapshot {folder} has no file {name} of its own")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put the manifest of a snapshot folder in the place of the one that is there."""
    write_bytes(folder / MANIFEST, manifest.text().encode())


def read_manifest(file: Path) -> Manifest:
    """A manifest left_out, without the files that it names, once its hash has been checked.

    Raises:
        TrainingError: it is missing, malformed or altered.
    """
    try:
        manifest = Manifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise TrainingError(f"the snapshot {file.parent} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise TrainingError(f"the manifest {file} is malformed at {where}: {problem['msg']}") from error
    if manifest.digest() != manifest.hash:
        raise TrainingError(f"the manifest {file} does not match its hash: it was altered, so take a new snapshot")
    return manifest

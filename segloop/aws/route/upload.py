"""A folder of images sent to the route's source bucket, where Label Studio's source storage finds them."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from segloop.aws.clients import CONNECTIONS, Clients, explained
from segloop.aws.route.connect import IMAGES
from segloop.aws.route.stack import Stack
from segloop.aws.uploads import Bucket
from segloop.errors import SettingsError, StackError

#: Files whose sending is under way or waits, at most: a folder may have millions.
_AHEAD: Final = 8 * CONNECTIONS


@dataclass(frozen=True)
class Uploaded:
    """What became of a folder: images sent, images that were there already, and other files, which are left alone."""

    sent: int
    there: int
    others: int
    place: str


class Upload:
    """Sends the images of a folder, and of those within it, to `projects/PROJECT/` of the source bucket of the route `name`.

    Raises (every method):
        StackError: there is no such route.
        SettingsError: the folder is none, or has no image.
        TrainingError: AWS refused; TrainerUnavailable, it cannot be reached now.
    """

    def __init__(self, clients: Clients, name: str, project_id: int) -> None:
        outputs = Stack(clients, name).describe().outputs
        if "SourceBucketName" not in outputs:
            raise StackError(f"there is no route {name} in {clients.region}: deploy it first")
        self._s3 = clients.s3
        self._bucket = Bucket(clients, f"s3://{outputs['SourceBucketName']}/projects/{project_id}")

    def run(self, folder: Path, tell: Callable[[int, int], None] = lambda done, whole: None) -> Uploaded:
        """Send what is not there in the same size; a repeat after a break goes on where it was.

        Args:
            tell: is given how many images are done, of how many.
        """
        if not folder.is_dir():
            raise SettingsError(f"{folder} is no folder")
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        images = [path for path in files if re.fullmatch(IMAGES, path.name)]
        if not images:
            raise SettingsError(f"{folder} has no image: jpg, png, webp, bmp, gif or tiff")
        there = self._there()
        names = {path: path.relative_to(folder).as_posix() for path in images}
        missing = [path for path in images if there.get(names[path]) != path.stat().st_size]
        done = len(images) - len(missing)
        tell(done, len(images))
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            waiting = iter(missing)
            while part := list(islice(waiting, _AHEAD)):
                for _ in pool.map(lambda path: self._bucket.put(names[path], path), part):
                    done += 1
                    tell(done, len(images))
        return Uploaded(len(missing), len(images) - len(missing), len(files) - len(images), self._bucket.uri(""))

    def _there(self) -> dict[str, int]:
        """The sizes of what is in the bucket, in bytes, by names within the project."""
        start = self._bucket.uri("").removeprefix(f"s3://{self._bucket.name}/")
        with explained("s3:ListBucket"):
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket.name, Prefix=start)
            found = [item for page in pages for item in page.get("Contents", [])]
        return {item["Key"].removeprefix(start): item["Size"] for item in found}

"""The buckets of a managed route on an S3 server: images, annotations as Label Studio writes them, project.json."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.labelling import CONFIG, annotation

PROJECT_ID = 29
KEY = "29.1795383040"
SOURCE, TARGET, ARTIFACTS = "route-source", "route-target", "route-artifacts"


@dataclass
class RouteBuckets:
    """What people, Label Studio and `segloop aws connect` put into a route's buckets, through a client of S3."""

    s3: Any

    def make(self) -> None:
        """The buckets, empty: moto keeps those of the tests before in a process."""
        there = {bucket["Name"] for bucket in self.s3.list_buckets()["Buckets"]}
        for name in (SOURCE, TARGET, ARTIFACTS):
            if name not in there:
                self.s3.create_bucket(Bucket=name)
            for item in self.s3.list_objects_v2(Bucket=name).get("Contents", ()):
                self.s3.delete_object(Bucket=name, Key=item["Key"])

    def connect(self, **own: Any) -> None:
        """project.json, as `segloop aws connect` writes it."""
        told = {"project": PROJECT_ID, "key": KEY, "title": "Street", "label_config": CONFIG, **own}
        self.put(ARTIFACTS, f"projects/{PROJECT_ID}/project.json", told)

    def image(self, task: int, size_px: int = 16) -> str:
        """Put a task's image, dark on the left and bright on the right; its address."""
        pixels = np.full((size_px, size_px, 3), task % 100, np.uint8)
        pixels[:, size_px // 2 :] += 128
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        key = f"projects/{PROJECT_ID}/{task}.png"
        self.s3.put_object(Bucket=SOURCE, Key=key, Body=buffer.getvalue())
        return f"s3://{SOURCE}/{key}"

    def annotate(
        self, number: int, task: int, regions: Sequence[dict[str, Any]], image: str | None = None, **fields: Any
    ) -> None:
        """Save an annotation: Label Studio's target storage writes its bare id."""
        address = self.image(task) if image is None else image
        inside = {"id": task, "data": {"image": address}, "project": PROJECT_ID}
        value = annotation(number, *regions, project=PROJECT_ID, **fields) | {"task": inside}
        self.put(TARGET, f"projects/{PROJECT_ID}/{number}", value)

    def restorer(self) -> Callable[[], None]:
        """What makes the buckets again what they are now."""
        before = self._tags()
        bodies = {place: self.s3.get_object(Bucket=place[0], Key=place[1])["Body"].read() for place in before}

        def restore() -> None:
            after = self._tags()
            for bucket, key in after.keys() - before.keys():
                self.s3.delete_object(Bucket=bucket, Key=key)
            for bucket, key in (place for place, tag in before.items() if after.get(place) != tag):
                self.s3.put_object(Bucket=bucket, Key=key, Body=bodies[bucket, key])

        return restore

    def _tags(self) -> dict[tuple[str, str], str]:
        return {
            (bucket, found["Key"]): found["ETag"]
            for bucket in (SOURCE, TARGET, ARTIFACTS)
            for found in self.s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        }

    def put(self, bucket: str, key: str, value: Any) -> None:
        """Write a JSON object."""
        self.s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(value).encode())

    def read(self, bucket: str, key: str) -> Any:
        """A JSON object."""
        return json.loads(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())

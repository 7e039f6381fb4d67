"""Checks of images: whether segloop can fetch them, and whether browsers can fetch those in S3."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import httpx

from segloop.aws.clients import bucket_region
from segloop.doctor.findings import Finding, failure, ok, skipped, warning
from segloop.errors import ImageError, ImageForbidden, LabelConfigError
from segloop.images import ImageSource
from segloop.images.source import other_name
from segloop.label_config import parse_label_config
from segloop.labelstudio import Credentials, LabelStudio
from segloop.labelstudio.entries import StorageEntry, TaskEntry
from segloop.settings import Settings

_TIMEOUT_S: Final = 10.0


def image(settings: Settings, config: str, task: TaskEntry | None) -> Finding:
    """Whether the images of a task can be fetched, without the cache."""
    if task is None:
        return skipped("the project has no task yet")
    try:
        parsed = parse_label_config(config)
    except LabelConfigError:
        return skipped("the label config says no image: see label-config")
    addresses = [uri for _, _, uri in parsed.addresses(task.data)]
    if not addresses:
        keys = ", ".join(f"data.{tag.key}" for tag in parsed.images)
        return failure(f"task {task.id} has no image under {keys}", "import tasks whose data has that field")
    credentials = Credentials(settings.label_studio_url, settings.label_studio_api_key)
    with (
        tempfile.TemporaryDirectory(prefix="segloop-doctor-") as folder,
        closing(ImageSource(settings, credentials, Path(folder))) as source,
    ):
        try:
            loaded = source.load(addresses[0], task.id)
        except ImageError as error:
            if name := other_name(addresses[0], settings):
                fix = (
                    f"{name} looks like Label Studio under another name than {settings.label_studio_url}: if it is, set "
                    f"SEGLOOP_LABEL_STUDIO_PUBLIC_URL={name}, and segloop fetches its images from LABEL_STUDIO_URL"
                )
            elif isinstance(error, ImageForbidden):
                fix = "add the host to SEGLOOP_IMAGE_HOSTS and restart"
            else:
                fix = "see that this machine reaches that address, and that LABEL_STUDIO_API_KEY may read it"
            return failure(f"task {task.id}: {error}", fix)
    return ok(f"task {task.id}: {loaded.width} x {loaded.height} px")


def s3_region(storages: Sequence[StorageEntry]) -> Finding:
    """Whether Label Studio signs addresses for the region that each bucket is in."""
    if not storages:
        return skipped("the project has no S3 storage")
    for storage in storages:
        bucket, told = storage.bucket, storage.region_name
        region = bucket_region(bucket, storage.s3_endpoint)
        if region and region != (told or "us-east-1"):
            return failure(
                f"the bucket {bucket} is in {region}, but the storage {storage.title or bucket} says "
                f"{told or 'no region'}: browsers get signed addresses that S3 refuses",
                f"set the storage's region to {region} under Settings > Cloud Storage",
            )
    return ok(f"{len(storages)} storages")


def s3_cors(
    settings: Settings, api: LabelStudio, storages: Sequence[StorageEntry], config: str, task: TaskEntry | None
) -> Finding:
    """Whether a browser may read an image that Label Studio sends it to S3 for (CORS), on a page of Label Studio's as people
    reach it."""
    uri = _signed_image(storages, config, task)
    if uri is None or task is None:
        return skipped("no task has an image that browsers fetch from S3")
    location = api.tasks.resolve(task.id, uri)
    if not location:
        return ok("Label Studio serves the images itself")
    page = httpx.URL(settings.label_studio_public_url or api.url)
    origin = f"{page.scheme}://{page.netloc.decode()}"
    # the address is a secret: nothing of it beyond the bucket goes into a message
    try:
        with httpx.stream(
            "GET", location, headers={"Origin": origin, "Range": "bytes=0-0"}, timeout=_TIMEOUT_S
        ) as answer:
            allowed, status = answer.headers.get("access-control-allow-origin", ""), answer.status_code
    except httpx.HTTPError as error:
        text = f"the signed address of {uri} cannot be fetched from here ({type(error).__name__})"
        return warning(text, "see the storage's endpoint under Settings > Cloud Storage")
    if status >= 400:
        text = f"S3 answers {status} to the signed address of {uri}"
        return failure(text, "see the storage's credentials, region and endpoint under Settings > Cloud Storage")
    if allowed not in ("*", origin):
        said = f"allows {allowed}" if allowed else "allows no other site"
        return failure(
            f"the bucket of {uri} {said} to read it (CORS), so annotators see no image at {origin}",
            f"add a CORS rule to the bucket: AllowedOrigins {origin}, AllowedMethods GET, AllowedHeaders *",
        )
    return ok(f"{origin} may read {uri}")


def _signed_image(storages: Sequence[StorageEntry], config: str, task: TaskEntry | None) -> str | None:
    buckets = {storage.bucket for storage in storages if storage.presign}
    if task is None:
        return None
    try:
        addresses = [uri for _, _, uri in parse_label_config(config).addresses(task.data)]
    except LabelConfigError:
        return None
    return next((uri for uri in addresses if uri.startswith("s3://") and uri.split("/")[2] in buckets), None)

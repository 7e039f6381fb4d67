"""Predictions as Label Studio's editor shows them, and as it writes them back: read from its canvas in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

from demo.data import COLOURS
from demo.label_studio import RunningLabelStudio
from demo.scenes import draw_scene
from segloop.images import decode
from segloop.label_config import parse_label_config
from segloop.masks import decode_rle, encode_rle
from segloop.results import Canvas, RegionWriter, Scene, annotation_class_map
from tests.e2e.browser import (
    agreement,
    agrees,
    drawn_classes,
    logged_in,
    open_task,
    point_on_page,
    read_canvas,
    wait_for,
    wait_until_drawn,
)
from tests.odd_images import (
    EXIF,
    ORIENTATION,
    chunk,
    dense,
    directory,
    encoded,
    jpeg,
    jpeg_with,
    long,
    png,
    png_with,
    turned,
)

pytestmark = [pytest.mark.label_studio, pytest.mark.slow, pytest.mark.timeout(600)]

ClassMap = NDArray[np.uint8]

WIDTH, HEIGHT = 320, 240
CLASSES = ("Ring", "Island", "Blob", "Block")
RING, ISLAND, BLOB, BLOCK = range(1, 5)
PALETTE = COLOURS[: len(CLASSES)]
#: What is not compared around the edges of classes: brush regions are drawn softly there, polygons are simplified
#: by up to a pixel and have an outline, bitmasks are drawn to the pixel.
BAND_PX = {"BrushLabels": 1, "BitmaskLabels": 0, "PolygonLabels": 2}


class Shown(NamedTuple):
    """A task whose prediction is open in the editor."""

    task: int
    label_config: str
    result: list[dict[str, Any]]


@pytest.fixture(scope="module")
def label_studio() -> Iterator[RunningLabelStudio]:
    with RunningLabelStudio() as running:
        yield running


@pytest.fixture(scope="module")
def page(label_studio: RunningLabelStudio) -> Iterator[Page]:
    with logged_in(label_studio) as page:
        yield page


def shapes() -> ClassMap:
    """A ring, an island in its hole, neighbours that touch, a small piece, and pieces at the image's edges."""
    class_map = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(class_map, (80, 80), 60, RING, -1)
    cv2.circle(class_map, (80, 80), 36, 0, -1)
    cv2.circle(class_map, (80, 80), 18, ISLAND, -1)
    cv2.ellipse(class_map, (220, 80), (60, 40), 20, 0, 360, BLOB, -1)
    cv2.circle(class_map, (150, 190), 8, BLOB, -1)
    class_map[180:215, 20:60] = ISLAND
    class_map[180:215, 60:100] = BLOCK
    class_map[160:, 200:] = BLOCK
    class_map[:30, 300:] = RING
    return class_map


def ragged() -> ClassMap:
    """The shapes as a network in its first steps may see them: in coarse cells, many of them wrong."""
    rng = np.random.default_rng(0)
    cells = cv2.resize(shapes(), (WIDTH // 4, HEIGHT // 4), interpolation=cv2.INTER_NEAREST)
    wrong = rng.random(cells.shape) < 0.15
    cells[wrong] = rng.integers(0, len(CLASSES) + 1, int(wrong.sum()))
    return np.asarray(cv2.resize(cells, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST), np.uint8)


def greys(class_map: ClassMap) -> NDArray[np.uint8]:
    """A picture of the class map: a grey a class, 40 apart."""
    return np.asarray(50 + 40 * class_map, np.uint8)


def mutations(class_map: ClassMap) -> dict[str, ClassMap]:
    """What the editor must not be found to show in place of the shapes."""
    filled, lost, thick = class_map.copy(), class_map.copy(), class_map.copy()
    cv2.circle(filled, (80, 80), 36, RING, -1)
    cv2.circle(filled, (80, 80), 18, ISLAND, -1)
    cv2.circle(lost, (150, 190), 8, 0, -1)
    cv2.circle(thick, (80, 80), 33, RING, 6)
    swapped = np.array([0, RING, BLOB, ISLAND, BLOCK], np.uint8)[class_map]
    shifts = {
        f"shifted by {down}, {right}": np.roll(class_map, (down, right), (0, 1))
        for down, right in ((0, 3), (0, -3), (3, 0), (-3, 0))
    }
    flips = {"upside down": class_map[::-1].copy(), "mirrored": class_map[:, ::-1].copy()}
    return {"hole filled": filled, "hole smaller": thick, "piece lost": lost, "swapped": swapped, **shifts, **flips}


def show(
    label_studio: RunningLabelStudio,
    page: Page,
    folder: Path,
    tag: str,
    class_map: ClassMap,
    picture: NDArray[np.uint8],
) -> Shown:
    """A project with one task, the picture, and the class map as its prediction; opened in the editor."""
    path = folder / "picture.png"
    cv2.imwrite(str(path), picture)
    return show_file(label_studio, page, path, tag, class_map)


def show_file(label_studio: RunningLabelStudio, page: Page, path: Path, tag: str, class_map: ClassMap) -> Shown:
    """The same, of an image file."""
    labels = "".join(f'<Label value="{name}" background="{PALETTE[i]}"/>' for i, name in enumerate(CLASSES))
    label_config = f'<View><Image name="image" value="$image"/><{tag} name="tag" toName="image">{labels}</{tag}></View>'
    project = label_studio.create_project(tag, label_config)["id"]
    [task] = label_studio.upload_images(project, [path])
    result = RegionWriter(parse_label_config(label_config), "image").scene_regions(Scene(class_map, CLASSES))
    with label_studio.client() as client:
        prediction = {"task": task, "result": result, "model_version": "by hand", "score": 0.5}
        client.post("/api/predictions/", json=prediction).raise_for_status()
    open_task(page, label_studio, project, task)
    return Shown(task, label_config, result)


def submit(label_studio: RunningLabelStudio, page: Page, task: int) -> list[dict[str, Any]]:
    """Press Submit; the regions of the annotation that the editor has made of the prediction."""
    with page.expect_response(lambda answer: answer.request.method == "POST" and "/annotations" in answer.url):
        page.click("[data-testid=bottombar-submit-button]")
    with label_studio.client() as client:
        [annotation] = client.get(f"/api/tasks/{task}/annotations/").raise_for_status().json()
    return annotation["result"]


def learned(result: list[dict[str, Any]], shown: Shown) -> ClassMap:
    return annotation_class_map(result, parse_label_config(shown.label_config), Canvas("image", HEIGHT, WIDTH), CLASSES)


@pytest.mark.parametrize("tag", sorted(BAND_PX))
def test_each_class_is_on_the_canvas_where_it_was_predicted(
    label_studio: RunningLabelStudio, page: Page, tmp_path: Path, tag: str
) -> None:
    class_map = shapes()
    show(label_studio, page, tmp_path, tag, class_map, greys(class_map))
    drawn = wait_until_drawn(page, class_map, PALETTE, BAND_PX[tag])
    assert drawn[80, 80] == ISLAND
    assert drawn[80, 107] == 0, "the hole is no hole"
    picture = read_canvas(page, "image", WIDTH, HEIGHT)[:, :, 0]
    nearest = np.abs(picture[:, :, None].astype(int) - greys(np.arange(len(CLASSES) + 1))).argmin(axis=2)
    assert agrees(agreement(nearest.astype(np.uint8), class_map, len(CLASSES), 1)), "the image is not under the masks"
    for name, wrong in mutations(class_map).items():
        assert not agrees(agreement(drawn, wrong, len(CLASSES), BAND_PX[tag])), f"{name} passes for what is drawn"


@pytest.mark.parametrize("tag", ["BitmaskLabels", "BrushLabels"])
def test_ragged_masks_over_a_photograph_are_on_the_canvas(
    label_studio: RunningLabelStudio, page: Page, tmp_path: Path, tag: str
) -> None:
    class_map = ragged()
    photograph, _ = draw_scene(np.random.default_rng(1), WIDTH, HEIGHT)
    show(label_studio, page, tmp_path, tag, class_map, photograph[:, :, ::-1])
    drawn = wait_until_drawn(page, class_map, PALETTE, BAND_PX[tag])
    assert not agrees(agreement(drawn, np.roll(class_map, 3, axis=1), len(CLASSES), BAND_PX[tag]))
    page.click('[aria-label="Hide all regions"]')

    def bare() -> bool:
        return not drawn_classes(read_canvas(page, "regions", WIDTH, HEIGHT), PALETTE).any()

    wait_for("a canvas without regions", bare)


def stored(kind: str, picture: NDArray[np.uint8]) -> bytes:
    """A file that shows the picture, whatever it says of itself."""
    image = Image.fromarray(picture)
    if kind == "WebP that says 6":
        return encoded(image, "WEBP", lossless=True, exif=EXIF + turned(6))
    if kind == "JPEG that says 6":
        lying = image.transpose(Image.Transpose.ROTATE_90)
        return jpeg_with(EXIF + turned(6), data=jpeg(lying, quality=95))
    if kind == "JPEG that says 6 as LONG":
        return jpeg_with(EXIF + directory(long(ORIENTATION, 6)), data=jpeg(image, quality=95))
    if kind == "PNG that says 6 after a prefix":
        return png_with(chunk(b"eXIf", EXIF + turned(6)), data=png(image))
    if kind == "JPEG of 144 dpi":
        double = image.resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.NEAREST)
        return jpeg_with(EXIF + dense((144, 144), (WIDTH, HEIGHT)), data=jpeg(double, quality=95))
    assert kind == "JPEG without its end"
    return jpeg(image, quality=95)[:-2]


@pytest.mark.parametrize(
    "kind",
    [
        "WebP that says 6",
        "JPEG that says 6",
        "JPEG that says 6 as LONG",
        "PNG that says 6 after a prefix",
        "JPEG of 144 dpi",
        "JPEG without its end",
    ],
)
def test_masks_lie_on_what_the_editor_shows_of_odd_files(
    label_studio: RunningLabelStudio, page: Page, tmp_path: Path, kind: str
) -> None:
    class_map = shapes()
    data = stored(kind, greys(class_map))
    # What segloop sees is the picture: a network that finds the classes in it gives the class map.
    pixels = decode(data, max_pixels=10**6)
    assert pixels.shape[:2] == class_map.shape
    seen = np.abs(pixels[..., :1].astype(int) - greys(np.arange(len(CLASSES) + 1))).argmin(axis=2).astype(np.uint8)
    assert agrees(agreement(seen, class_map, len(CLASSES), 1)), "segloop sees another picture"
    path = tmp_path / f"picture.{'webp' if kind.startswith('WebP') else 'png' if kind.startswith('PNG') else 'jpg'}"
    path.write_bytes(data)
    shown = show_file(label_studio, page, path, "BrushLabels", class_map)
    wait_until_drawn(page, class_map, PALETTE, BAND_PX["BrushLabels"])
    picture = read_canvas(page, "image", WIDTH, HEIGHT)[:, :, 0]
    nearest = np.abs(picture[:, :, None].astype(int) - greys(np.arange(len(CLASSES) + 1))).argmin(axis=2)
    drawn = nearest.astype(np.uint8)
    rows = HEIGHT - 18 if "without" in kind else HEIGHT  # Chromium leaves the last row of blocks out
    assert agrees(agreement(drawn[:rows], class_map[:rows], len(CLASSES), 1)), "the image is not under the masks"
    submitted = submit(label_studio, page, shown.task)
    sizes = {(item["original_width"], item["original_height"]) for item in submitted}
    assert sizes == {(WIDTH, HEIGHT)}
    assert np.array_equal(learned(submitted, shown), class_map)


@pytest.mark.parametrize("tag", sorted(BAND_PX))
def test_a_submitted_prediction_comes_back_as_it_was(
    label_studio: RunningLabelStudio, page: Page, tmp_path: Path, tag: str
) -> None:
    class_map = shapes()
    shown = show(label_studio, page, tmp_path, tag, class_map, greys(class_map))
    wait_until_drawn(page, class_map, PALETTE, BAND_PX[tag])
    submitted = submit(label_studio, page, shown.task)
    assert np.array_equal(learned(submitted, shown), learned(shown.result, shown))
    if tag != "PolygonLabels":
        assert np.array_equal(learned(submitted, shown), class_map)
    if tag == "BrushLabels":
        for value, item in enumerate(submitted, start=1):
            assert item["value"]["brushlabels"] == [CLASSES[value - 1]]
            assert np.array_equal(decode_rle(item["value"]["rle"], HEIGHT, WIDTH) > 0, class_map == value)
            assert item["value"]["rle"] == encode_rle(class_map == value)


@pytest.mark.parametrize("tag", ["BitmaskLabels", "BrushLabels"])
def test_a_corrected_prediction_comes_back_corrected(
    label_studio: RunningLabelStudio, page: Page, tmp_path: Path, tag: str
) -> None:
    class_map = shapes()
    shown = show(label_studio, page, tmp_path, tag, class_map, greys(class_map))
    wait_until_drawn(page, class_map, PALETTE, BAND_PX[tag])
    page.locator(".lsf-outliner-item", has_text=CLASSES[BLOCK - 1]).click()
    page.click(".lsf-toolbar [aria-label=eraser]")
    page.mouse.move(*point_on_page(page, 250, 200, WIDTH, HEIGHT))
    page.mouse.down()
    page.mouse.move(*point_on_page(page, 270, 200, WIDTH, HEIGHT), steps=5)
    page.mouse.up()
    corrected = learned(submit(label_studio, page, shown.task), shown)
    assert (corrected[200, 250:271] == 0).all()
    beside = np.ones_like(class_map, np.bool_)
    beside[180:221, 230:291] = False
    assert np.array_equal(corrected[beside], class_map[beside])

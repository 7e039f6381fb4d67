"""Pages in Chromium: how they are looked at, and Label Studio, whose editor tells what it has drawn on its canvas."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, expect, sync_playwright

from demo.label_studio import RunningLabelStudio
from tests.waiting import PATIENCE_S

Part = Literal["image", "regions"]

DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
#: How people look at a page: colour scheme and viewport in CSS pixels.
LOOKS = {"light": ("light", DESKTOP), "dark": ("dark", DESKTOP), "phone": ("light", PHONE)}

_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

#: What no class's direction from the backdrop comes near to: see `drawn_classes`.
STRANGE = 255

#: Regions are drawn over this grey: channels, 0 to 255.
_BACKDROP = 128
#: A pixel no farther from the backdrop than this has nothing on it.
_FAINTEST = 8.0
#: A pixel that points farther away from a class's colour than this is not of that class.
_WIDEST_DEG = 15.0
#: Canvas pixels to an image pixel; fewer would blend neighbours.
_LEAST_SCALE = 2.0
#: Shares of a class's settled pixels: at least these are drawn, at most these are drawn elsewhere.
_LEAST_INSIDE, _MOST_STRAY = 0.99, 0.001

# The canvases, bottom up: the image, the grid, then the regions. `place` is the image's box in canvas pixels.
_CANVAS = """part => {
    const image = [...document.images].find(i => i.src.startsWith('blob:') && i.complete && i.naturalWidth);
    const layers = [...document.querySelectorAll('.konvajs-content canvas')];
    if (!image || !layers.length) return null;
    const inner = image.getBoundingClientRect(), outer = layers[0].getBoundingClientRect();
    const ratio = layers[0].width / outer.width;
    const place = {
        left: (inner.left - outer.left) * ratio, top: (inner.top - outer.top) * ratio,
        width: inner.width * ratio, height: inner.height * ratio,
    };
    const visible = place.left > -1 && place.top > -1
        && place.left + place.width < layers[0].width + 1 && place.top + place.height < layers[0].height + 1;
    const sum = Object.assign(document.createElement('canvas'), {width: layers[0].width, height: layers[0].height});
    const context = sum.getContext('2d');
    context.fillStyle = 'rgb(BACKDROP, BACKDROP, BACKDROP)';
    context.fillRect(0, 0, sum.width, sum.height);
    for (const layer of part === 'image' ? layers.slice(0, 1) : layers.slice(1)) {
        const style = getComputedStyle(layer);
        if (style.display === 'none') continue;
        context.globalAlpha = Number(style.opacity);
        context.drawImage(layer, 0, 0);
    }
    return {place, visible, x: outer.left, y: outer.top, ratio, url: sum.toDataURL('image/png')};
}""".replace("BACKDROP", str(_BACKDROP))


def wait_for(what: str, condition: Callable[[], Any], timeout_s: float = 300, facts: object = "") -> Any:
    """The first true value of `condition`, or an AssertionError that says what was waited for."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {timeout_s} s {facts}")


# A page on a machine that stalls is late, and not wrong.
expect.set_options(timeout=PATIENCE_S * 1000)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A Chromium of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=_ARGUMENTS, timeout=PATIENCE_S * 1000
        )
        yield browser
        browser.close()


def new_page(browser: Browser, **options: Any) -> Page:
    """A page in a context of its own, which `browser.new_page` describes, and which waits long for what it is asked for."""
    page = browser.new_page(**options)
    page.set_default_timeout(PATIENCE_S * 1000)
    return page


def serious_faults(page: Page) -> list[str]:
    """What axe-core finds that is serious or worse, and where."""
    found = Axe().run(page).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:200]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@contextmanager
def logged_in(label_studio: RunningLabelStudio) -> Iterator[Page]:
    """A page of a Chromium of its own in which Label Studio's user is logged in."""
    with chromium() as browser:
        page = new_page(browser, viewport={"width": 1500, "height": 1000})
        page.goto(f"{label_studio.url}/user/login/")
        page.fill("input[name=email]", label_studio.email)
        page.fill("input[name=password]", label_studio.password)
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "/login" not in url)
        yield page


def open_task(page: Page, label_studio: RunningLabelStudio, project: int, task: int) -> None:
    """Open a task that has regions, with its whole image in sight."""
    page.goto(f"{label_studio.url}/projects/{project}/data?task={task}")
    page.wait_for_selector(".lsf-outliner-item")
    _canvas(page, "image")


def _canvas(page: Page, part: Part) -> dict[str, Any]:
    """What `_CANVAS` finds once the whole image is in sight.

    The editor opens an image slightly larger than its canvas, the edges cut off, and may build its canvas anew.
    """

    def fitting() -> dict[str, Any] | None:
        canvas: dict[str, Any] | None = page.evaluate(_CANVAS, part)
        if canvas and canvas["visible"]:
            return canvas
        page.keyboard.press("Shift+Digit1")  # "Zoom to fit"
        return None

    found: dict[str, Any] = wait_for("the whole image on the canvas", fitting)
    return found


def point_on_page(page: Page, column: int, row: int, width: int, height: int) -> tuple[float, float]:
    """Where on the page the centre of a pixel of the image, `width` x `height` pixels large, is shown."""
    canvas = _canvas(page, "image")
    place, ratio = canvas["place"], canvas["ratio"]
    return (
        canvas["x"] + (place["left"] + (column + 0.5) / width * place["width"]) / ratio,
        canvas["y"] + (place["top"] + (row + 0.5) / height * place["height"]) / ratio,
    )


def read_canvas(page: Page, part: Part, width: int, height: int) -> NDArray[np.uint8]:
    """What the canvas shows at the centre of each pixel of the image: RGB uint8 (height, width, 3).

    Either the image alone, or the regions alone as they are seen, over grey instead of the image.
    """
    canvas = _canvas(page, part)
    place = canvas["place"]
    scale = min(place["width"] / width, place["height"] / height)
    assert scale >= _LEAST_SCALE, f"{scale} canvas pixels to an image pixel are too few to compare"
    data = np.frombuffer(base64.b64decode(canvas["url"].partition(",")[2]), np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1]
    rows = (place["top"] + (np.arange(height) + 0.5) / height * place["height"]).astype(int)
    columns = (place["left"] + (np.arange(width) + 0.5) / width * place["width"]).astype(int)
    return np.ascontiguousarray(pixels[rows[:, None], columns])


def drawn_classes(regions: NDArray[np.uint8], colours: Sequence[str]) -> NDArray[np.uint8]:
    """The class map uint8 (H, W) that regions over grey, RGB (H, W, 3), show; `colours` are #rrggbb, one a class.

    Whatever a region's opacity, it takes a pixel from the grey towards its label's colour: that direction names
    the class. Pixels of no direction are 0, those of no class's are STRANGE.
    """
    targets = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in colours]) - _BACKDROP
    directions = targets / np.linalg.norm(targets, axis=1, keepdims=True)
    moved = regions.astype(np.float64) - _BACKDROP
    distance = np.linalg.norm(moved, axis=2)
    cosines = moved @ directions.T / np.maximum(distance, 1)[:, :, None]
    known = cosines.max(axis=2) >= np.cos(np.radians(_WIDEST_DEG))
    classes = np.where(known, cosines.argmax(axis=2) + 1, STRANGE)
    return np.where(distance <= _FAINTEST, 0, classes).astype(np.uint8)


class Agreement(NamedTuple):
    """Of a class's settled pixels, the share that is drawn; of those drawn, the share that is not the class's."""

    inside: float
    stray: float


def agreement(
    drawn: NDArray[np.uint8], expected: NDArray[np.uint8], classes: int, band_px: int
) -> dict[int, Agreement]:
    """How two class maps (H, W) agree, for each class that has settled pixels or is drawn on some.

    A pixel is settled where no other class is expected within `band_px`: edges are drawn softly.
    """
    window = np.ones((2 * band_px + 1, 2 * band_px + 1), np.uint8)
    settled = cv2.erode(expected, window) == cv2.dilate(expected, window)
    found = {}
    for value in (*range(1, classes + 1), STRANGE):
        wanted, there = settled & (expected == value), settled & (drawn == value)
        both = int((wanted & there).sum())
        if wanted.any() or there.any():
            found[value] = Agreement(both / max(int(wanted.sum()), 1), 1 - both / max(int(there.sum()), 1))
    return found


def agrees(found: dict[int, Agreement]) -> bool:
    """Whether each class is drawn where it is expected, and nowhere else."""
    return bool(found) and all(one.inside >= _LEAST_INSIDE and one.stray <= _MOST_STRAY for one in found.values())


def wait_until_drawn(
    page: Page, expected: NDArray[np.uint8], colours: Sequence[str], band_px: int
) -> NDArray[np.uint8]:
    """Wait until the canvas shows the class map (H, W) in the classes' colours; the class map as it was read."""
    height, width = expected.shape
    seen: dict[int, Agreement] = {}

    def drawn() -> list[NDArray[np.uint8]]:
        classes = drawn_classes(read_canvas(page, "regions", width, height), colours)
        seen.clear()
        seen.update(agreement(classes, expected, len(colours), band_px))
        return [classes] if agrees(seen) else []

    [classes] = wait_for("each class in its colour on the canvas", drawn, facts=seen)
    return classes

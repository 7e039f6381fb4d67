"""The documentation as a site: built without a warning, and read without any other host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.documented import ROOT, fences
from tests.e2e.browser import chromium, new_page

pytestmark = pytest.mark.slow

#: What a browser fetches by itself: attributes by tag.
FETCHED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}
ELSEWHERE = re.compile(r"(?:https?:)?//")


class Fetches(HTMLParser):
    """The addresses that a browser fetches when it shows a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("rel") not in ("canonical", "next", "prev"):
            self.found.append(values.get(FETCHED.get(tag, "")) or "")


class Quiet(SimpleHTTPRequestHandler):
    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_nothing_that_a_page_fetches_is_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert site / "quickstart.html" in pages
    fetched = {address for page in pages for address in Fetches(page).found if address}
    assert any(address.endswith(".css") for address in fetched)
    assert [address for address in sorted(fetched) if ELSEWHERE.match(address)] == []
    for style in site.rglob("*.css"):
        assert re.findall(rf"(?:url\(|@import)\s*[\"']?{ELSEWHERE.pattern}", style.read_text("utf-8")) == []


def test_a_reader_needs_no_other_host(site: Path, address: str) -> None:
    asked: list[str] = []
    faults: list[str] = []
    with chromium() as browser:
        page = new_page(browser, color_scheme="dark", viewport={"width": 390, "height": 844})
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        for name in ("index", "training", "architecture"):
            page.goto(f"{address}/{name}.html", wait_until="networkidle")
            assert page.evaluate("document.body.dataset.mdColorScheme") == "slate"
            # a phone needs no sideways scrolling: what is wide scrolls by itself
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator(".diagram svg").count() == 3
        page.goto(f"{address}/index.html?q=rollback", wait_until="networkidle")
        page.locator(".md-search-result__item").first.wait_for(state="attached")
    assert faults == []
    assert {urlsplit(url).netloc for url in asked} == {urlsplit(address).netloc}


def test_every_diagram_is_drawn(site: Path) -> None:
    drawn = {page: page.read_text("utf-8").count('<div class="diagram"><svg') for page in site.rglob("*.html")}
    of_pages = [fence.page for fence in fences() if fence.language == "mermaid"]
    assert len(of_pages) == sum(drawn.values()) >= 5
    for page, count in drawn.items():
        names = re.findall(r'<svg[^>]* id="(diagram-\w+)"|<svg id="(diagram-\w+)"', page.read_text("utf-8"))
        assert len({first or second for first, second in names}) == count


def test_a_broken_anchor_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Here\n\n[there](index.md#there)\n", "utf-8")
    settings = (ROOT / "mkdocs.yml").read_text("utf-8").partition("validation:")[2].partition("nav:\n  - ")[0]
    assert "anchors: warn" in settings
    (tmp_path / "mkdocs.yml").write_text(f"site_name: broken\nstrict: true\nvalidation:{settings}", "utf-8")
    built = subprocess.run([sys.executable, "-m", "mkdocs", "build"], cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode != 0
    assert "#there" in built.stderr

"""The gallery of suspected labels in Chromium: fit to read in each look, and judged with the keyboard alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect
from werkzeug.serving import make_server

from segloop.suspects import read_judgements
from tests.bundles import make_info
from tests.e2e.browser import LOOKS, chromium, new_page, serious_faults
from tests.pages import PROJECT, PageWorld, world
from tests.suspects import put_into, some_suspects

__all__ = ["world"]

pytestmark = pytest.mark.slow


@pytest.fixture
def address(world: PageWorld, tmp_path: Path) -> Iterator[str]:
    """Where a project is served whose newest version has suspected labels."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "model.safetensors").write_bytes(bytes(64))
    put_into(bundle, some_suspects(3))
    world.registry.add(PROJECT, bundle, make_info())
    server = make_server("127.0.0.1", 0, world.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_is_fit_to_read_in_each_look(address: str) -> None:
    with chromium() as browser:
        for look, (scheme, viewport) in LOOKS.items():
            page = new_page(browser, base_url=address, color_scheme=scheme, viewport=viewport)
            page.goto("/ui/projects/29")
            page.wait_for_load_state("networkidle")
            expect(page.get_by_role("heading", name="Suspected labels")).to_be_visible()
            assert serious_faults(page) == [], look
            wide, inner = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
            assert wide <= inner, f"{look}: nothing has to be scrolled sideways"
            page.close()


def test_a_label_is_judged_with_the_keyboard(world: PageWorld, address: str) -> None:
    with chromium() as browser:
        page = new_page(browser, base_url=address)
        page.goto("/ui/projects/29")
        page.get_by_role("button", name="The label is wrong").first.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_text("1 of 1 judged were wrong")).to_be_visible()
        expect(page.get_by_role("button", name="The label is wrong")).to_have_count(3)
    assert [one.verdict for one in read_judgements(world.registry, PROJECT).judgements] == ["wrong"]

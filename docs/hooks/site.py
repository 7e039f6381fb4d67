"""What mkdocs.yml cannot say: diagrams as SVG within the page, and two files of the repository as pages."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import mermaidx
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]

#: What mermaidx calls every diagram; its styles go by it.
SVG_ID = "my-svg"


def on_config(config: MkDocsConfig) -> None:
    """Let fences of the language `mermaid` become diagrams: no script draws them in the reader's browser."""
    fence = {"name": "mermaid", "class": "mermaid", "format": _diagram}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add CHANGELOG.md and CONTRIBUTING.md of the repository, whose links are relative to it, as pages of the site."""
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name.lower(), content=text))
    return files


def _diagram(source: str, *_: Any, **__: Any) -> str:
    """A diagram as SVG, drawn by Mermaid; named by its content, so that the diagrams of a page keep their own styles."""
    name = f"diagram-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    svg = mermaidx.render(source).svg().replace(SVG_ID, name)
    return f'<div class="diagram">{svg}</div>'

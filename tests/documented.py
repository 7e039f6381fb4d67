"""The fences of README.md and docs/, as markdown-it reads them, and the commands within."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[1]
SHELL = ("sh", "console", "bash")

Mode = Literal["run", "in the background", "with Label Studio", "not run"]

#: The comment before a fence that says what the tests do with it.
_MARKER = re.compile(r"<!--\s*(not run|run)\s*(?::\s*(.*?))?\s*-->", re.DOTALL)
_SEPARATORS = frozenset(("|", "||", "&&", ";", "&"))
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass(frozen=True)
class Fence:
    """A fenced block: its page relative to the repository, first line, language, text, and what its marker says."""

    page: str
    line: int
    language: str
    text: str
    mode: Mode | None
    reason: str

    @property
    def id(self) -> str:
        """The place, as a test's name."""
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """The words of each simple command, without assignments before it, comments, and what `$(...)` holds."""
        text = self.text.replace("\\\n", " ")
        for line in text.splitlines():
            line = line.removeprefix("$ ") if self.language == "console" else line
            yield from simple_commands(line)


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md and every page of docs/."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fences() -> list[Fence]:
    """Every fenced block of every page."""
    return [fence for page in pages() for fence in _fences_of(page)]


def code_spans(page: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each `code span` of a page."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type == "code_inline":
                yield (token.map or [0])[0] + 1, child.content


def targets(page: Path) -> Iterator[str]:
    """Where the links and images of a page lead."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        for child in token.children or ():
            if target := child.attrs.get("href") or child.attrs.get("src"):
                yield str(target)


def simple_commands(line: str) -> Iterator[list[str]]:
    """The commands of one shell line, split at `|`, `&&`, `;`, without redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    rest = iter([*lexer, ";"])
    for word in rest:
        if word in _SEPARATORS:
            while words and (_ASSIGNMENT.match(words[0]) or words[0] == "export"):
                words = words[1:]
            if words:
                yield words
            words = []
        elif word.strip("<>"):
            words.append(word)
        else:
            next(rest)


def _fences_of(page: Path) -> Iterator[Fence]:
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    before: Token | None = None
    for token in tokens:
        if token.type == "fence":
            mode, reason = _marked(before.content if before is not None and before.type == "html_block" else "")
            line = (token.map or [0])[0] + 1
            language = token.info.split()[0] if token.info.split() else ""
            yield Fence(str(page.relative_to(ROOT)), line, language, token.content, mode, reason)
        before = token


def _marked(comment: str) -> tuple[Mode | None, str]:
    found = _MARKER.fullmatch(comment.strip())
    if found is None:
        return None, ""
    kind, detail = found[1], " ".join((found[2] or "").split())
    if kind == "not run":
        return ("not run", detail) if detail else (None, "")
    if detail in ("in the background", "with Label Studio"):
        return detail, ""  # type: ignore[return-value]
    return ("run", "") if not detail else (None, "")

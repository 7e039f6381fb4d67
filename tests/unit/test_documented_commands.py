"""What the pages name exists: commands and their options, make targets, settings, modules, files."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest

from demo.__main__ import USAGE
from segloop.cli import main
from segloop.settings import Settings, load_settings
from tests.documented import ROOT, SHELL, Fence, code_spans, fences, pages, simple_commands, targets

#: Variables of other programs: Label Studio's, and those of AWS's tools.
FOREIGN = {"ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"}
SHARED = {"LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "BASIC_AUTH_USER", "BASIC_AUTH_PASS", "REDIS_URL", "PORT"}
OWN = {f"SEGLOOP_{name.upper()}" for name in Settings.model_fields}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
#: Made from the command line itself: its examples are not run, and have options that exist.
GENERATED = "docs/cli.md"
FILE = re.compile(r"\b(?:aws|benchmarks|demo|docs|segloop|tests|worker)/[\w./-]+\.(?:c|json|md|mjs|py|txt|yaml)\b")

shell_fences = [fence for fence in fences() if fence.language in SHELL]
by_page = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))


@pytest.mark.parametrize("fence", fences(), ids=lambda fence: fence.id)
def test_a_fence_says_what_it_is_and_what_the_tests_do_with_it(fence: Fence) -> None:
    assert fence.language, "give it a language: sh for commands, ini for .env files, text for anything else"
    if fence.language in SHELL:
        assert fence.mode, (
            f"put <!-- run -->, <!-- run: in the background --> or <!-- not run: reason --> before {fence.id}"
        )


@pytest.mark.parametrize("fence", shell_fences, ids=lambda fence: fence.id)
def test_the_commands_of_a_fence_exist(fence: Fence) -> None:
    commands = list(fence.commands())
    assert commands
    for words in commands:
        check(words)


@pytest.mark.parametrize("fence", [f for f in fences() if f.language not in SHELL], ids=lambda fence: fence.id)
def test_commands_stand_in_fences_of_the_shell(fence: Fence) -> None:
    commands = [line for line in fence.text.splitlines() if line.startswith(("$ ", "segloop ", "make "))]
    if fence.page == GENERATED:
        for line in commands:
            if "[" not in line and "{" not in line:  # those are usage, the others examples
                check(next(simple_commands(line)))
    else:
        assert commands == [], f"{fence.id}: write it as sh, so that it is run"


@by_page
def test_the_commands_in_a_text_exist(page: Path) -> None:
    for line, text in code_spans(page):
        if text.startswith(("segloop ", "make ", "python -m ")):
            for words in simple_commands(text):
                try:
                    check(words)
                except click.MissingParameter:
                    continue  # a text names a command without all that it needs
                except (AssertionError, click.ClickException) as error:
                    pytest.fail(f"{page.name}:{line}: {text}: {error}")


@by_page
def test_the_settings_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for name in re.findall(r"\bSEGLOOP_[A-Z0-9_]+", text):
        assert name in OWN or (name.endswith("_") and any(own.startswith(name) for own in OWN)), name
    for name in re.findall(r"\bDEMO_[A-Z]+", text):
        assert name in USAGE


@pytest.mark.parametrize("fence", [f for f in fences() if f.language == "ini"], ids=lambda fence: fence.id)
def test_an_env_file_can_be_used(fence: Fence, tmp_path: Path) -> None:
    names = [line.partition("=")[0] for line in fence.text.splitlines() if line]
    unknown = [name for name in names if name not in OWN | SHARED | FOREIGN]
    assert not unknown
    (tmp_path / ".env").write_text(fence.text, "utf-8")
    load_settings(env_file=tmp_path / ".env")


@by_page
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    missing = [name for name in FILE.findall(page.read_text("utf-8")) if not (ROOT / name).is_file()]
    assert not missing


def test_the_links_of_the_readme_lead_somewhere() -> None:
    """Those of docs/ are checked by the build of the site."""
    links = [link for link in targets(ROOT / "README.md") if not link.startswith(("https://", "#"))]
    assert links
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


def test_every_command_is_documented() -> None:
    text = "".join(page.read_text("utf-8") for page in pages())
    undocumented = [name for name in shown_commands(main) if f"segloop {name}" not in text]
    assert not undocumented


def test_every_decision_is_in_the_list() -> None:
    listed = (ROOT / "docs/adr/README.md").read_text("utf-8")
    records = [path.name for path in (ROOT / "docs/adr").glob("[0-9]*.md")]
    assert records
    assert [name for name in records if f"]({name})" not in listed] == []


@pytest.mark.parametrize(
    "line",
    [
        "segloop version list",
        "segloop versions list --colour",
        "segloop versions promote",
        "make tea",
        "python -m segloop.tea",
    ],
)
def test_what_does_not_exist_is_found(line: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        check(next(simple_commands(line)))


def test_commands_are_read_as_the_shell_reads_them() -> None:
    text = "# first\nexport A=1\nB=2 segloop up && make run > log  # then\naws s3 ls \\\n  s3://b | sort\n"
    fence = Fence("page.md", 1, "sh", text, "run", "")
    assert list(fence.commands()) == [["segloop", "up"], ["make", "run"], ["aws", "s3", "ls", "s3://b"], ["sort"]]


def check(words: Sequence[str]) -> None:
    """Fail where a command of ours does not exist, or does not take these arguments."""
    if words[0] == "segloop":
        check_click(main, list(words[1:]))
    elif words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        assert set(targets) <= TARGETS, f"no such target: {targets}"
    elif words[:2] == ["python", "-m"] and words[2] != "http.server":
        assert importlib.util.find_spec(words[2]), f"no such module: {words[2]}"


def check_click(command: click.Command, arguments: list[str]) -> None:
    if arguments[:1] == ["COMMAND"]:
        return
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        _, found, arguments = command.resolve_command(click.Context(command), arguments)
        assert found is not None
        command = found
    if not isinstance(command, click.Group):
        command.make_context(command.name, arguments)


def shown_commands(group: click.Group, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from shown_commands(command, f"{before}{name} ")
        elif not command.hidden:
            yield before + name

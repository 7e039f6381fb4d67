"""Connect segloop to a project, and find out why nothing happens."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from difflib import unified_diff
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

import click

from segloop.cli.common import console, print_json, say
from segloop.settings import Settings, load_settings

if TYPE_CHECKING:
    from segloop.doctor import Finding
    from segloop.labelstudio import EnsuredWebhook, LabelStudio

#: What Label Studio calls the orders in which it serves tasks.
_SAMPLING = {"uncertainty": "Uncertainty sampling", "sequential": "Sequential sampling", "uniform": "Uniform sampling"}
#: What the names of trained versions look like.
_TRAINED = re.compile(r"v\d+-[0-9a-f]{8}$")
#: The backend's title until it is known which version answers.
_FIRST_TITLE = "segloop"
_MARKS = {
    "ok": "[green]ok[/]",
    "warning": "[yellow]warning[/]",
    "failure": "[red]failure[/]",
    "skipped": "[dim]skipped[/]",
}

Sampling = Literal["uncertainty", "sequential", "uniform", "keep"]


class _Options(TypedDict):
    interactive: bool
    sampling: Sampling
    smart_tags: bool
    as_json: bool


@dataclass(frozen=True)
class Change:
    """A value before and after."""

    before: str
    after: str


@dataclass(frozen=True)
class Backend:
    """The project's entry of this backend: what was done with it, and which of its fields changed."""

    id: int
    url: str
    version: str
    done: str
    changed: Sequence[str]


@dataclass(frozen=True)
class Report:
    """What `segloop connect` did."""

    project: int
    title: str
    backend: Backend
    webhook: EnsuredWebhook | None
    sampling: Change
    model_version: Change
    warnings: Sequence[str]


@click.command()
@click.option("--project", "-p", type=int, required=True, help="Id of the project: the number in its address.")
@click.option(
    "--url",
    default="",
    help="Address at which Label Studio reaches this segloop. [default: SEGLOOP_PUBLIC_URL, else this machine's own]",
)
@click.option("--label-studio-url", default="", help="Address of Label Studio. [default: LABEL_STUDIO_URL]")
@click.option(
    "--interactive/--no-interactive", default=True, show_default=True, help="Whether smart tools ask segloop."
)
@click.option(
    "--sampling",
    type=click.Choice([*_SAMPLING, "keep"]),
    default="uncertainty",
    show_default=True,
    help="The order in which people get tasks: least sure first, or another; keep leaves it as it is.",
)
@click.option(
    "--smart-tags",
    is_flag=True,
    help="Add what clicks need to the labeling setup, and show the change. [default: ask, in a terminal]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def connect(project: int, url: str, label_studio_url: str, **options: Unpack[_Options]) -> None:
    """Connect segloop to a project of Label Studio.

    Adds this segloop as the project's ML backend, with the password that is set, titled with the version it
    serves; sets its webhook, with the secret and the annotation events alone; has the least sure tasks served first.
    Doing it again is safe: it sets right what is not, and says what it changed.

    \b
    Examples:
      segloop connect --project 7
      segloop connect --project 7 --url http://segloop.internal:9090
      segloop connect --project 7 --smart-tags
    """
    settings = _settings(label_studio_url)
    from segloop.doctor.server import local_address
    from segloop.labelstudio import LabelStudio

    address = (url or settings.public_url or local_address(settings)).rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise click.BadParameter("must begin with http:// or https://", param_hint="--url")
    if not settings.label_studio_api_key.get_secret_value():
        raise click.ClickException(
            "LABEL_STUDIO_API_KEY is not set: create a personal access token in Label Studio under Account & Settings"
        )
    with closing(LabelStudio.from_settings(settings)) as api:
        connection = _Connection(api, settings, project, address, options["interactive"], options["sampling"])
        report = connection.make()
        if options["interactive"]:
            _offer_smart_tags(api, project, asked=options["smart_tags"], may_ask=not options["as_json"])
    if options["as_json"]:
        print_json(report)
    else:
        _print_connected(report)


def _offer_smart_tags(api: LabelStudio, project: int, *, asked: bool, may_ask: bool) -> None:
    """Change a project's labeling setup so that a click asks for a region, if somebody wants that who has seen the change."""
    from segloop.label_config import with_smart_tags

    before = str(api.projects.get(project).get("label_config") or "")
    after = with_smart_tags(before)
    if after == before or not (asked or (may_ask and sys.stdin.isatty() and sys.stderr.isatty())):
        return
    for line in unified_diff(
        before.splitlines(), after.splitlines(), "labeling setup", "with smart tags", lineterm="", n=1
    ):
        say(line)
    if asked or click.confirm("Change the labeling setup, so that a click asks for a region?", err=True):
        api.projects.change(project, label_config=after)


def _settings(label_studio_url: str) -> Settings:
    return load_settings(label_studio_url=label_studio_url) if label_studio_url else load_settings()


@dataclass(frozen=True)
class _Connection:
    """This segloop, at `address`, as the ML backend of a project."""

    api: LabelStudio
    settings: Settings
    project: int
    address: str
    interactive: bool
    sampling: Sampling

    def make(self) -> Report:
        """Connect, and report what was done.

        Raises:
            ClickException: Label Studio would not take the backend.
        """
        from segloop.labelstudio import BackendSpec
        from segloop.labelstudio.api import same_url

        api, settings = self.api, self.settings
        project = api.projects.get(self.project)
        warnings = self._obstacles(str(project.get("label_config") or ""))
        backends = api.backends.all(self.project)
        before = next((entry for entry in backends if same_url(entry["url"], self.address)), {})
        spec = BackendSpec(
            self.address,
            before.get("model_version") or before.get("title") or _FIRST_TITLE,
            basic_auth=(settings.basic_auth_user, settings.basic_auth_pass) if settings.has_password else None,
            webhook_secret=settings.webhook_secret,
            interactive=self.interactive,
        )
        connected = api.backends.connect(self.project, spec)
        # Label Studio has asked the backend for its version meanwhile
        entry = connected.backend
        entry = api.backends.set_title(entry, entry.get("model_version") or entry["title"])
        changed = [name for name in connected.changed if name != "title"]
        changed += ["title"] if before and before.get("title") != entry["title"] else []
        shown = self._set_shown(entry["title"])
        if shown.after != entry["title"]:
            warnings.append(
                f"the project shows predictions of {shown.after!r}, not of this backend.\n"
                f"  Fix: choose {entry['title']!r} under Settings > Annotation > Live Predictions"
            )
        if not _TRAINED.match(entry["title"]):
            warnings += self._untrained()
        done = "added" if connected.created else "updated" if changed else "unchanged"
        return Report(
            self.project,
            project["title"],
            Backend(entry["id"], entry["url"], entry["title"], done, changed),
            connected.webhook,
            self._set_sampling(str(project.get("sampling") or "")),
            shown,
            warnings,
        )

    def _untrained(self) -> list[str]:
        """Why nothing will be pre-labelled before the first training, if that is so on this machine."""
        from segloop.serving.pretrained import pretrained_state

        state = pretrained_state(self.settings)
        if not state.problem:
            return []
        return [f"nothing is pre-labelled before the first training: {state.problem}\n  Fix: {state.fix}"]

    def _obstacles(self, label_config: str) -> list[str]:
        """What will not work for this project and address, found before anything is changed.

        Raises:
            ClickException: Label Studio would not take the backend, or there is nothing to segment.
        """
        from segloop.doctor.connection import backend_address, private_addresses
        from segloop.doctor.connection import label_config as labeling_setup

        setup = labeling_setup(label_config)
        if setup.status == "failure":
            raise click.ClickException(f"{setup.text}\nFix: {setup.fix}")
        refusals = self.api.backends.refusals(self.project, self.address)
        blocked, unusable = private_addresses(self.address, refusals), backend_address(self.address, refusals)
        if "backend" in refusals.blocked:
            raise click.ClickException(f"{blocked.text}\nFix: {blocked.fix}")
        if refusals.backend:
            raise click.ClickException(f"{unusable.text}\nFix: {unusable.fix}")
        warnings = [f"{found.text}\n  Fix: {found.fix}" for found in (blocked, unusable) if found.status != "ok"]
        if self.settings.has_password and not self.settings.webhook_secret.get_secret_value():
            warnings.append(
                "BASIC_AUTH_PASS is set but SEGLOOP_WEBHOOK_SECRET is not: the server refuses Label Studio's annotation "
                "events.\n  Fix: set it, restart segloop, and connect again"
            )
        return warnings

    def _set_shown(self, version: str) -> Change:
        """Have the project show the predictions of a version: the order of least sure tasks goes by their scores."""
        before = str(self.api.projects.get(self.project).get("model_version") or "")
        if before == version or self.sampling != "uncertainty":
            return Change(before, before)
        self.api.projects.change(self.project, model_version=version)
        return Change(before, version)

    def _set_sampling(self, before: str) -> Change:
        after = _SAMPLING.get(self.sampling, before)
        if after != before:
            self.api.projects.change(self.project, sampling=after)
        return Change(before, after)


def _print_connected(report: Report) -> None:
    backend, webhook, sampling, version = report.backend, report.webhook, report.sampling, report.model_version
    click.echo(f"project {report.project} ({report.title}):")
    click.echo(f"  backend {backend.url}: {_done(backend)}; it serves {backend.version}")
    click.echo("  webhook: none" if webhook is None else f"  webhook {webhook.id}: {_done(webhook)}")
    was = "" if sampling.before == sampling.after else f" (was {sampling.before})"
    click.echo(f"  sampling: {sampling.after}{was}")
    if version.before != version.after:
        click.echo(f"  predictions shown: those of {version.after} (was {version.before})")
    for text in report.warnings:
        click.secho(f"Warning: {text}", fg="yellow", err=True)


def _done(part: Backend | EnsuredWebhook) -> str:
    return f"{part.done} ({', '.join(part.changed)})" if part.changed else part.done


@click.command()
@click.option("--project", "-p", type=int, help="Id of a project. [default: every project that the store knows]")
@click.option("--label-studio-url", default="", help="Address of Label Studio. [default: LABEL_STUDIO_URL]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(project: int | None, label_studio_url: str, as_json: bool) -> None:
    """Find out why nothing happens.

    Prints the cause and the fix of everything that is not right. Looks at this machine, at Label Studio and at how
    the two are connected, and changes nothing but a small file in the store and a key in Redis, written to see that they
    can be. The exit status is 0 only if all is well: no failure, and nothing worth a warning.

    \b
    Examples:
      segloop doctor
      segloop doctor --project 7 --json
    """
    from segloop.doctor import Examination, all_is_well, report

    settings = _settings(label_studio_url)
    show = sys.stderr.isatty() and not as_json

    def tell(check: str) -> None:
        if show:
            say(f"{check} ...")

    findings = Examination(settings, tell).run(project)
    if show:
        say("")
    if as_json:
        print_json(report(findings))
    else:
        _print_findings(findings)
    sys.stdout.flush()
    if not all_is_well(findings):
        raise SystemExit(1)


def _print_findings(findings: list[Finding]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("check", "", "what is, and what to do", show_lines=False)
    several = len({finding.project for finding in findings if finding.project is not None}) > 1
    for finding in findings:
        place = f" (project {finding.project})" if several and finding.project is not None else ""
        fix = f"\n[bold]Fix:[/] {escape(finding.fix)}" if finding.fix else ""
        table.add_row(f"{finding.check}{place}", _MARKS[finding.status], escape(finding.text) + fix)
    console().print(table)
    counts = {status: sum(finding.status == status for finding in findings) for status in ("failure", "warning")}
    if not any(counts.values()):
        click.echo("All is well.")
    else:
        click.echo(f"Failures: {counts['failure']}, warnings: {counts['warning']}.")

"""Checks of how Label Studio and this segloop are connected: they take facts and give findings, and send no request."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from segloop.doctor.findings import Finding, failure, ok, skipped, warning
from segloop.errors import LabelConfigError
from segloop.label_config import has_smart_clicks, parse_label_config, smart_tag_problem
from segloop.labelstudio import ANNOTATION_ACTIONS, SECRET_HEADER, Refusals
from segloop.labelstudio.entries import BackendEntry, ProjectEntry, WebhookEntry
from segloop.settings import Settings, is_loopback

#: Releases of Label Studio that segloop is tested with, as (major, minor).
TESTED_RELEASE: Final = (1, 23)
_CONNECT: Final = "run: segloop connect --project {project}"
_PROTECTIONS: Final = {"backend": "ML_BLOCK_LOCAL_IP=false", "webhook": "SSRF_PROTECTION_ENABLED=false"}


def version_skew(release: str) -> Finding:
    """Whether this release of Label Studio is one that segloop knows."""
    tested = ".".join(map(str, TESTED_RELEASE))
    parts = release.split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts[:2]):
        return warning(f"Label Studio gives {release!r} for its version", f"use Label Studio {tested} or newer")
    own = (int(parts[0]), int(parts[1]))
    if own < TESTED_RELEASE:
        text = f"Label Studio {release} is older than {tested}, the oldest that segloop is tested with"
        return warning(text, f"upgrade Label Studio to {tested} or newer")
    if own[0] > TESTED_RELEASE[0]:
        text = f"Label Studio {release} is of a newer generation than {tested}, which segloop is tested with"
        return warning(text, "look for a newer segloop")
    return ok(f"Label Studio {release}" + ("" if own == TESTED_RELEASE else f" (tested with {tested})"))


def access(settings: Settings) -> Finding:
    """Whether a Label Studio elsewhere could call this backend at all."""
    if settings.has_password:
        return ok(f"basic auth is on, user {settings.basic_auth_user}")
    if is_loopback(urlsplit(settings.label_studio_url).hostname):
        return ok("no password is set, so only this machine is served, and Label Studio is on it")
    return failure(
        f"no password is set, so only this machine is served, and Label Studio is at {settings.label_studio_url}",
        "set BASIC_AUTH_PASS and SEGLOOP_WEBHOOK_SECRET, restart segloop, and run segloop connect again",
    )


def label_config(config: str) -> Finding:
    """Whether there is something to segment in a project's label config."""
    try:
        parsed = parse_label_config(config)
    except LabelConfigError as error:
        return failure(
            f"the project's labeling setup cannot be used: {error}", "change it under Settings > Labeling Interface"
        )
    predicted = sorted({name for image in parsed.images for name in parsed.outputs(image.name)})
    if not predicted:
        return failure(
            "the labeling setup has no BrushLabels, BitmaskLabels or PolygonLabels, so nothing can be predicted",
            "add one of them under Settings > Labeling Interface; docs/labels.md has examples",
        )
    return ok(f"{len(predicted)} classes: {', '.join(predicted)}"[:200])


def smart_tags(config: str) -> Finding:
    """Whether people find the smart keypoint of a label config, if it has one."""
    if problem := smart_tag_problem(config):
        return warning(
            f"the labeling setup hides the smart tool: {problem}",
            "run segloop connect with --smart-tags, or change it under Settings > Labeling Interface",
        )
    if not has_smart_clicks(config):
        return skipped('the labeling setup has no KeyPointLabels with smart="true": clicks ask for no region')
    return ok("a click of the smart keypoint asks for a region")


def backend_address(url: str, refusals: Refusals) -> Finding:
    """Whether Label Studio finds the host of an address, and makes webhooks for it (it makes none for a host without a dot)."""
    host = urlsplit(url).hostname or ""
    if refusals.backend and "backend" not in refusals.blocked:
        text = f"Label Studio cannot use the address {url}: {refusals.backend}"
        return failure(text, "run segloop connect with an address that Label Studio's machine reaches as --url")
    if has_dot(host):
        return ok(url)
    said = f" ({refusals.webhook})" if refusals.webhook else ""
    return failure(
        f"the host of {url} has no dot: Label Studio connects to it, but silently makes no webhook for it{said}, "
        "so segloop hears of annotations only when it asks, every SEGLOOP_RECONCILE_S seconds",
        "give the host a name with a dot (in compose a network alias such as segloop.internal), "
        "and run segloop connect with it as --url",
    )


def private_addresses(url: str, refusals: Refusals) -> Finding:
    """Whether Label Studio blocks the backend's address because it leads to a private network."""
    if not refusals.blocked:
        return ok("Label Studio does not block the backend's address")
    what = {
        frozenset({"backend", "webhook"}): "the backend nor its webhook",
        frozenset({"backend"}): "the backend",
        frozenset({"webhook"}): "its webhook",
    }[refusals.blocked]
    reason = refusals.backend if "backend" in refusals.blocked else refusals.webhook
    neither = "takes neither" if len(refusals.blocked) == 2 else "does not take"
    variables = " and ".join(_PROTECTIONS[name] for name in sorted(refusals.blocked))
    return failure(
        f"{url} has a private address, and Label Studio blocks those: it {neither} {what} ({reason})",
        f"start Label Studio with {variables}, and run segloop connect again",
    )


def entry(backends: Sequence[BackendEntry], url: str, public_url: str, project: int) -> Finding:
    """Whether this segloop is connected to the project; `url` is where Label Studio knows it, empty if nowhere."""
    connect = _CONNECT.format(project=project)
    if not backends:
        return failure("the project has no ML backend", connect)
    listed = ", ".join(backend.url for backend in backends)
    if not url:
        what = (
            f"none of them at SEGLOOP_PUBLIC_URL={public_url}"
            if public_url
            else "and which is this segloop is not said"
        )
        return failure(
            f"the project has ML backends at {listed}, {what}",
            f"set SEGLOOP_PUBLIC_URL to the address that Label Studio calls, or {connect}",
        )
    own = next(backend for backend in backends if backend.url == url)
    if own.state == "CO":
        return ok(f"connected at {url}")
    said = own.error_message.partition("\n")[0]
    if own.state == "DI":
        return failure(
            f"Label Studio gets no answer from {url} within a second",
            "see that segloop runs and that Label Studio's machine reaches that address; "
            "if Label Studio blocks private addresses, see private-addresses",
        )
    if "401" in said:
        return failure(f"{url} refuses Label Studio's user and password (401)", f"{connect}; it sets both")
    return failure(f"Label Studio shows {url} as broken: {said or own.state}", f"see segloop's log; then {connect}")


def title(own: BackendEntry, project: ProjectEntry) -> Finding:
    """Whether title, served version and the project's model version are equal: scores and sampling need that."""
    served, shown, model_version = own.model_version, own.title, project.model_version
    if not served:
        return skipped("the backend said no version to Label Studio yet")
    fix = _CONNECT.format(project=project.id)
    if shown != served:
        return failure(
            f"the backend's title is {shown!r}, but it serves {served!r}: Label Studio looks for scores under the title, "
            "finds none, and gives tasks in no order",
            f"{fix}; a promotion sets it too, if segloop has a valid LABEL_STUDIO_API_KEY",
        )
    # a project that shows no predictions has no model version: see live_predictions
    if model_version != served and project.show_collab_predictions:
        return failure(
            f"the project shows predictions of {model_version or 'no version'!r}, but the backend serves {served!r}: "
            "their scores are not shown, and tasks come in no order",
            f"{fix}, or choose {served!r} under Settings > Annotation > Live Predictions",
        )
    return ok(f"title, served version and the project's model version are {served}")


def live_predictions(project: ProjectEntry) -> Finding:
    """Whether annotators see predictions at all."""
    if project.show_collab_predictions:
        return ok("annotators begin with the predictions")
    return warning(
        "the project shows annotators no predictions, however good they are",
        'switch on "Use predictions to prelabel tasks" under Settings > Annotation',
    )


def served_version(own: BackendEntry, champion: str | None) -> Finding:
    """Whether the server answers with the version that the store says it serves."""
    answering = own.model_version
    if champion is None:
        return ok(f"nothing is promoted yet; {answering or 'nothing'} answers")
    if not answering or answering == champion:
        return ok(f"{champion} answers")
    return failure(
        f"the store's champion is {champion}, but the server answers with {answering}",
        "see the server's log for why it could not load it; check that server and this command have the same "
        "SEGLOOP_STORE and SEGLOOP_DATA_DIR",
    )


def webhook_there(webhooks: Sequence[WebhookEntry], url: str, project: int) -> Finding:
    """Whether the project has an active webhook with payload to this backend."""
    connect = _CONNECT.format(project=project)
    own = own_webhook(webhooks, url)
    if own is None:
        return failure(
            f"the project has no webhook to {url}/webhook: segloop hears of annotations only when it asks",
            f"{connect}; if it cannot, backend-address or private-addresses says why",
        )
    if not own.is_active:
        return failure("the webhook is switched off", connect)
    if not own.send_payload:
        return failure("the webhook sends no payload, so segloop cannot tell which project it is about", connect)
    return ok(f"active, to {own.url}")


def webhook_secret(own: WebhookEntry, settings: Settings, project: int) -> Finding:
    """Whether the webhook carries the secret that the server wants."""
    connect = _CONNECT.format(project=project)
    secret = settings.webhook_secret.get_secret_value()
    headers = {name.lower(): value for name, value in own.headers.items()}
    sent = headers.get(SECRET_HEADER.lower())
    if not secret:
        if not settings.has_password:
            return ok("no password is set, so none is needed")
        return failure(
            "BASIC_AUTH_PASS is set but SEGLOOP_WEBHOOK_SECRET is not: Label Studio sends no password with annotation "
            "events, and the server refuses them all",
            f"set SEGLOOP_WEBHOOK_SECRET, restart segloop, and {connect}",
        )
    if sent is None:
        text = f"the webhook has no header {SECRET_HEADER}, so the server refuses its events"
        return failure(text, connect)
    if not hmac.compare_digest(sent.encode(), secret.encode()):
        text = f"the webhook's header {SECRET_HEADER} is not SEGLOOP_WEBHOOK_SECRET, so the server refuses its events"
        return failure(text, connect)
    return ok(f"the header {SECRET_HEADER} is right")


def webhook_actions(own: WebhookEntry, project: int) -> Finding:
    """Whether the webhook sends the annotation events, and no others: the annotator's Submit waits for each."""
    connect = _CONNECT.format(project=project)
    if own.send_for_all_actions:
        return warning("the webhook sends every event, also those that segloop has no use for", connect)
    missing = sorted(set(ANNOTATION_ACTIONS) - set(own.actions))
    if missing:
        return failure(f"the webhook does not send {', '.join(missing)}", connect)
    return ok(", ".join(sorted(own.actions)))


def own_webhook(webhooks: Sequence[WebhookEntry], url: str) -> WebhookEntry | None:
    """The webhook to the backend at `url`."""
    wanted = f"{url.rstrip('/')}/webhook".lower()
    return next((webhook for webhook in webhooks if webhook.url.rstrip("/").lower() == wanted), None)


def has_dot(host: str) -> bool:
    """Whether Label Studio accepts a host (Django's URLField): with a dot, an IPv6 address, or localhost."""
    return "." in host or ":" in host or host == "localhost"

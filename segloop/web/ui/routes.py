"""The routes of the status page, below /ui/: each builds one dict, and shows it as HTML or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Final

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as BaseResponse

from segloop import __version__
from segloop.backend import Backend
from segloop.errors import BadRequest
from segloop.registry import VersionInfo
from segloop.registry.gallery import read_image, read_index
from segloop.settings import Settings
from segloop.suspects import read_judgements
from segloop.web.json_response import reply
from segloop.web.ui.actions import NOTICES, VERDICT_NOTICES, Actions
from segloop.web.ui.data import Facts, ProjectLoader
from segloop.web.ui.errors import as_page
from segloop.web.ui.formats import FILTERS
from segloop.web.ui.pages import job_page, paged, project_page, projects_page
from segloop.web.ui.responses import show, wants_json
from segloop.web.ui.security import TOKEN_FIELD, Tokens, add_headers, only_own_host
from segloop.web.ui.suspects import suspects_page

#: How long a browser keeps what never changes: files of a version, in seconds.
_FOREVER_S: Final = 31536000


def ui(backend: Backend, settings: Settings) -> Blueprint:
    """The status page's routes."""
    pages = Blueprint(
        "ui",
        __name__,
        url_prefix="/ui",
        root_path=str(files("segloop")),
        template_folder="templates",
        static_folder="static",
    )
    loader, tokens = ProjectLoader(backend, settings), Tokens(settings)
    actions = Actions(backend, loader.cannot_train)
    label_studio_url = settings.label_studio_public_url or settings.label_studio_url
    pages.before_request(only_own_host(settings))
    pages.after_request(add_headers)
    pages.after_request(as_page)
    for name, function in FILTERS.items():
        pages.add_app_template_filter(function, name)

    @pages.context_processor
    def common() -> dict[str, object]:
        return {
            "release": __version__,
            "token_field": TOKEN_FIELD,
            "token": lambda: tokens.make(actions.user()),
            "label_studio_url": label_studio_url,
            # forms and links name the project as this page's address does: its id alone may be a newer project's
            "address": (request.view_args or {}).get("project"),
        }

    @pages.get("/")
    def projects() -> Response:
        found = loader.all()
        return show("projects.html", projects_page(found, served_versions(loader, found)))

    @pages.get("/projects/<project>")
    def project(project: str) -> Response:
        key = known(project)
        facts = loader.project(key)
        asked = request.args.get("version")
        versions = loader.versions(key, (asked, facts.champion.version if facts.champion else None))
        chosen = choose(versions, asked)
        gallery = loader.gallery(key, chosen.version) if chosen else None
        index = read_index(gallery) if gallery else None
        page = project_page(facts, versions, chosen, index, label_studio_url)
        page["chosen"] = paged(page["chosen"], request.args.get("images", ""))
        page["report"] = loader.report(facts, versions).model_dump(mode="json")
        suspects = loader.suspects(key)
        page["suspects"] = suspects and suspects_page(
            suspects,
            read_judgements(backend.registry, key),
            f"{label_studio_url}/projects/{facts.id}/data?task=",
            request.args.get("suspects", ""),
            judged=request.args.get("judged") == "yes",
        )
        page["notice"] = NOTICES.get(request.args.get("notice", ""))
        return show("project.html", page)

    @pages.get("/projects/<project>/job")
    def job(project: str) -> Response:
        page = job_page(loader.job(known(project)))
        response = show("job.html", page)
        followed = request.args.get("was")
        now = page["job"]
        if followed and not (isinstance(now, dict) and now["id"] == followed and now["is_live"]):
            response.headers["HX-Refresh"] = "true"  # it ended: whatever else the page shows may be new
        return response

    @pages.get("/projects/<project>/versions/<version>/gallery/<name>")
    def image(project: str, version: str, name: str) -> Response:
        gallery = loader.gallery(known(project), version)
        return unchanging(read_image(gallery, name) if gallery else None, name)

    @pages.get("/projects/<project>/versions/<version>/suspects/<name>")
    def suspect_photo(project: str, version: str, name: str) -> Response:
        return unchanging(loader.suspect_photo(known(project), version, name), name)

    def act(action: Callable[[str, Mapping[str, str]], str]) -> Callable[[str], BaseResponse]:
        def acted(project: str) -> BaseResponse:
            tokens.check(actions.user(), request.form.get(TOKEN_FIELD, ""))
            notice = action(known(project), request.form)
            if wants_json():
                return reply({"status": notice, "message": NOTICES[notice]})
            anchor = "suspects" if notice in VERDICT_NOTICES.values() else None
            return redirect(url_for("ui.project", project=project, notice=notice, _anchor=anchor), 303)

        return acted

    for name, action in actions.all().items():
        pages.add_url_rule(f"/projects/<project>/{name}", name, act(action), methods=["POST"])

    @pages.route("/<path:rest>")
    def nothing(rest: str) -> Response:
        raise NotFound(f"There is no page /ui/{rest[:80]}.")

    def known(project: str) -> str:
        try:
            return backend.projects.connected(project)
        except BadRequest as error:
            raise NotFound(str(error)) from error

    return pages


def unchanging(data: bytes | None, name: str) -> Response:
    """An image of a version, which a browser may keep for good.

    Raises:
        NotFound: there is none.
    """
    if data is None:
        raise NotFound(f"The version has no image {name[:80]!r}.")
    response = Response(data, content_type="image/jpeg" if name.endswith(".jpg") else "image/png")
    response.headers["Cache-Control"] = f"private, max-age={_FOREVER_S}, immutable"
    return response


def choose(versions: list[VersionInfo], name: str | None) -> VersionInfo | None:
    """The version of this name; without one, the latest.

    Raises:
        NotFound: there is none of this name.
    """
    if name is None:
        return versions[-1] if versions else None
    for info in versions:
        if info.version == name:
            return info
    raise NotFound(f"There is no version {name[:80]!r} of this project.")


def served_versions(loader: ProjectLoader, found: list[Facts]) -> dict[str, VersionInfo | None]:
    """The version that each project serves."""
    return {facts.key: loader.version(facts.key, facts.champion.version) for facts in found if facts.champion}

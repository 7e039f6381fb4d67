"""A report as a page of its own: one file that loads nothing."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from segloop.report import Report
from segloop.web.ui.formats import FILTERS


def report_html(report: Report) -> str:
    """The HTML of a report, with its styles inside."""
    environment = Environment(loader=PackageLoader("segloop", "templates"), autoescape=True)
    environment.filters.update(FILTERS)
    style = Markup(files("segloop").joinpath("static/page.css").read_text(encoding="utf-8"))  # noqa: S704 - segloop's own
    return environment.get_template("report.html").render(report=report.model_dump(mode="json"), style=style)

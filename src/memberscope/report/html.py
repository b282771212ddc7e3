"""Findings as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from memberscope import __version__
from memberscope.files import write_text
from memberscope.report import figures
from memberscope.report import format as formats
from memberscope.report.sections import SECTIONS
from memberscope.report.views import overview
from memberscope.types import Dataset, Findings


def render(findings: Findings, *, dataset: Dataset | None = None) -> str:
    """The report as one HTML document that asks nothing of any other file or server.

    Args:
        findings: what the audit measured.
        dataset: the audited records; with it the exposed ones are drawn or listed with their values. Records
            are looked up by id, never by position.

    Returns:
        HTML text; the same findings and data give the same text.
    """
    parts = [(section, section.view(findings, dataset)) for section in SECTIONS]
    script, style = _asset("report.js"), _asset("report.css")
    page = _environment().get_template("report.html")
    return page.render(
        findings=findings,
        overview=overview.view(findings),
        sections=[(section, view) for section, view in parts if view is not None],
        script=Markup(script),
        style=Markup(style),
        # Nothing but this very script may run, and nothing may be fetched, whatever an id or a name contains.
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{_source_hash(script)}'",
        version=__version__,
    )


def write_report(path: Path, findings: Findings, *, dataset: Dataset | None = None) -> None:
    """Write the report to ``path``, whole or not at all.

    Raises:
        PoolError: the folder cannot be written or the disk is full.
    """
    write_text(path, render(findings, dataset=dataset))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("memberscope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in (
        "access_label", "as_figure", "attack_title", "decimal", "decimal_range", "grouped", "number", "one_in",
        "p_value", "percent", "percent_range", "percentile", "rate", "short_title", "text", "words",
    ):  # fmt: skip
        environment.filters[name] = getattr(formats, name)
    environment.globals["interval_bar"] = figures.interval_bar
    return environment


@cache
def _asset(name: str) -> str:
    return files("memberscope.report").joinpath("templates", name).read_text(encoding="utf-8")


def _source_hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

"""A study as one self-contained HTML page: the table, the trade-off, the price, the paper's figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from memberscope import __version__
from memberscope.report.figures import bar_limit
from memberscope.report.format import MINUS, THIN, grouped, number, short_title, text
from memberscope.report.html import _asset, _environment
from memberscope.report.scatter import Mark, legend, scatter
from memberscope.report.views.attacks import Notes
from memberscope.report.views.context import Pairs, pairs
from memberscope.text import short_power
from memberscope.types import Figure
from memberscope.types.study import Published, StudyResult, StudyRow


@dataclass(frozen=True)
class Line:
    """One method in every table of the page."""

    row: StudyRow
    title: str
    page: str
    attack: str
    front: bool
    seconds: str
    seconds_range: str
    overhead: str
    overhead_note: str
    private: list[str]


@dataclass(frozen=True)
class Compared:
    """One figure of ours beside the published one."""

    label: str
    figure: Figure
    published: float
    difference: str
    inside: bool


def render_study(result: StudyResult) -> str:
    """The study as one HTML document that asks nothing of any other file or server.

    Its links to the rows' own pages (``rows/METHOD.html``) hold in the folder that the study wrote.
    """
    pooled = [row for row in result.rows if row.seed == "all"]
    front = set(next((f.methods for f in result.fronts if f.metric == "reference_tpr"), []))
    lines = [_line(row, row.method in front) for row in pooled]
    highs = [high for row in pooled if (high := row.reference_tpr_at_fpr["0.01"].high) is not None]
    marks = {metric: _marks(pooled, result, metric) for metric in ("reference_tpr", "threshold_auc")}
    beside = [line for line in lines if line.row.published is not None]
    # What holds for every row is said once.
    shared = [
        said
        for said in (beside[0].row.differences[1:] if beside else [])
        if all(said in line.row.differences for line in beside)
    ]
    page = _environment().get_template("study.html")
    return page.render(
        result=result,
        meta=_meta(result),
        lines=lines,
        notes=Notes(),
        end=bar_limit(*highs),
        measured=bool(highs),
        pictures=[
            (
                scatter(marks["reference_tpr"], name="tradeoff-reference", kind="share"),
                "Found by the strongest attack with reference models, at one false alarm in a hundred.",
                _left_out(marks["reference_tpr"]),
            ),
            (
                scatter(marks["threshold_auc"], name="tradeoff-threshold", kind="area"),
                "AUC of one threshold for all records, the paper's attack.",
                _left_out(marks["threshold_auc"]),
            ),
        ],
        legend=legend(),
        compared=[(line, _compared(line.row)) for line in beside],
        shared=shared,
        own={line.row.method: [said for said in line.row.differences[1:] if said not in shared] for line in beside},
        without=[line.title for line in lines if line.row.published is None],
        targets=[(line, result.of(line.row.method)) for line in lines],
        recipes=_recipes(result),
        provenance=_provenance(result),
        style=Markup(_asset("report.css") + _asset("study.css")),
        policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        version=__version__,
    )


def _line(row: StudyRow, front: bool) -> Line:
    return Line(
        row,
        row.title,
        f"rows/{quote(row.method)}.html",
        short_title(row.reference_attack) if row.reference_attack else "",
        front,
        *_seconds(row.train_seconds),
        _overhead(row.overhead),
        ""
        if not row.overhead.value
        else f"{text(round(100 * (row.overhead_relative.value or 0), 1))}{THIN}% of the model's own time",
        _private(row),
    )


def _meta(result: StudyResult) -> list[str]:
    found = result.populations
    return [
        f"data: {result.data['name']}",
        f"scale: {result.scale}",
        f"{grouped(found['members'])} training records a model",
        f"{found['models']} models a row",
        f"{found['targets']} targets",
        f"{found['references']} references",
        f"seed {result.config.get('seed', 0)}",
        f"memberscope {result.run.get('memberscope', __version__)}",
        str(result.run.get("created", ""))[:16].replace("T", " "),
    ]


def _marks(rows: Sequence[StudyRow], result: StudyResult, metric: str) -> list[Mark]:
    front = set(next((f.methods for f in result.fronts if f.metric == metric), []))
    return [
        Mark(
            row.title,
            row.family,
            row.test_accuracy,
            row.threshold_auc if metric == "threshold_auc" else row.reference_tpr_at_fpr["0.01"],
            row.method in front,
        )
        for row in rows
    ]


def _left_out(marks: Sequence[Mark]) -> str:
    missing = [mark for mark in marks if mark.y.value is None]
    if not missing:
        return ""
    return f"Not drawn: {', '.join(mark.label for mark in missing)} ({missing[0].y.reason})."


def _seconds(figure: Figure) -> tuple[str, str]:
    """A time with the digits that it deserves, and its interval."""
    if figure.value is None or figure.low is None or figure.high is None:
        return "not measured", ""

    def one(value: float) -> str:
        return number(round(value)) if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"

    return f"{one(figure.value)}{THIN}s", f"{one(figure.low)} – {one(figure.high)}"


def _overhead(figure: Figure) -> str:
    """Microseconds or milliseconds a query."""
    if figure.value is None or figure.low is None or figure.high is None:
        return "not measured"
    if figure.value == 0:
        return "none"
    scale, unit = (1e3, "ms") if figure.value >= 1e-3 else (1e6, "µs")
    value, low, high = (f"{scale * seconds:.3g}" for seconds in (figure.value, figure.low, figure.high))
    return f"{value}{THIN}{unit} ({low} – {high})"


def _private(row: StudyRow) -> list[str]:
    if row.dp is None:
        return []
    said = [f"ε = {row.epsilon:.2f}" if row.epsilon is not None else f"no ε: {row.epsilon_reason}"]
    dp = row.dp
    said.append(
        f"δ = {short_power(dp.delta)}, σ = {dp.noise_multiplier:.3g}, C = {dp.clip:g}, q = {dp.sample_rate:.3g}, "
        f"{grouped(dp.steps)} steps, {dp.accountant.upper()}"
    )
    return said


_COMPARED = (
    ("train_accuracy", "train accuracy"),
    ("test_accuracy", "test accuracy"),
    ("threshold_auc", "threshold AUC"),
    ("threshold_advantage", "advantage"),
)


def _compared(row: StudyRow) -> list[Compared]:
    assert isinstance(row.published, Published)
    found = []
    for key, label in _COMPARED:
        figure: Figure = getattr(row, key)
        published: float = getattr(row.published, key)
        difference, inside = "", False
        if figure.value is not None and figure.low is not None and figure.high is not None:
            difference = f"{100 * (figure.value - published):+.1f}".replace("-", MINUS)
            inside = figure.low <= published <= figure.high
        found.append(Compared(label, figure, published, difference, inside))
    return found


def _recipes(result: StudyResult) -> list[tuple[str, str]]:
    """Each pool's recipe as what differs from the undefended one; that one whole."""
    recipes: Mapping[str, Any] = result.config.get("recipes", {})
    base = recipes.get("original") or result.config.get("recipe", {})
    titles = {row.method: row.title for row in result.rows}
    found = [("Undefended", _said(base))]
    for name, recipe in recipes.items():
        if name != "original":
            changed = {key: value for key, value in recipe.items() if value != base.get(key)}
            found.append((titles.get(name, name), _said(changed)))
    return found


def _said(values: Mapping[str, Any]) -> str:
    def one(value: Any) -> str:
        if isinstance(value, Mapping):
            inner = ", ".join(f"{key} {one(part)}" for key, part in value.items() if part is not None)
            return f"({inner})"
        return text(value)

    shown = {key: value for key, value in values.items() if value not in (None, [], (), 0.0) or key == "momentum"}
    return ", ".join(f"{key.replace('_', ' ')} {one(value)}" for key, value in shown.items()) or "as undefended"


def _provenance(result: StudyResult) -> Pairs:
    run = {key: value for key, value in result.run.items() if key != "seconds"}
    seconds = {key: f"{value}{THIN}s" for key, value in dict(result.run.get("seconds", {})).items()}
    found: Pairs = [("Data", pairs(result.data)), ("Populations", pairs(result.populations)), ("Run", pairs(run))]
    if seconds:
        found.append(("Seconds by row in the last run", pairs(seconds)))
    found.append(("Schema", result.schema_version))
    return found

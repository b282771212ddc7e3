"""What ``memberscope compare`` does and prints."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from textwrap import fill

import typer

from memberscope.auditing.compare import Change, Comparison, compare
from memberscope.run_folder import read_findings
from memberscope.types import Figure, Findings

_TITLES = {
    "auc": "AUC",
    "advantage": "advantage",
    "tpr@0.1": "TPR at 10 %",
    "tpr@0.01": "TPR at 1 %",
    "tpr@0.001": "TPR at 0.1 %",
}
# Of records that changed sides, so many are printed; --json has 200.
_PRINTED = 10
_WIDE = 110


def compare_runs(old: Path, new: Path, *, json: bool) -> None:
    """Compare two runs and print the table or the document."""
    before, after = read_findings(old), read_findings(new)
    names = _named(new, after), _named(old, before)
    found = compare(after, before, None if names[0] is None or names[1] is None else (names[0], names[1]))
    if json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        _print(found)


def _named(run: Path, findings: Findings) -> Iterable[str] | None:
    """Ids of the records that some target gives away: all from records.csv, else the most exposed."""
    if findings.records is None:
        return None
    path = run / "records.csv"
    if not path.is_file():
        return [row.id for row in findings.records.top if row.support_in]
    with path.open(encoding="utf-8", newline="") as file:
        return {row["id"]: None for row in csv.DictReader(file) if row["flagged"] == "1" and row["member"] == "1"}


def _print(found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = console if console.is_terminal else Console(width=_WIDE)
    typer.echo(fill(f"{found.old} ({found.old_verdict}) → {found.new} ({found.new_verdict}): {found.sentence}", 78))
    for note in found.notes:
        typer.echo(fill(note, 78, initial_indent="  ", subsequent_indent="    "))
    tables = {"attack": found.attacks} | found.rows
    for title, changes in tables.items():
        if not changes:
            continue
        table = Table(title=f"By {title}", title_justify="left", pad_edge=False)
        table.add_column(title, overflow="fold")
        for column in ("figure", "before", "after", "difference (95 %)", ""):
            table.add_column(column, justify="right" if column != "figure" else "left")
        for one in changes:
            table.add_row(one.name, _TITLES[one.figure], *_cells(one))
        console.print(table)
    typer.echo("Worse and better: the interval, corrected for the number of attacks or rows, leaves 0 out.")
    if found.records is not None:
        records = found.records
        typer.echo(
            f"Records named: {records.both} in both, {records.newly} newly, {records.no_longer} no longer. Each run "
            "names them at its own error rate."
        )
        for label, ids in (("newly", records.newly_named), ("no longer", records.no_longer_named)):
            if ids:
                more = ", …" if len(ids) > _PRINTED else ""
                typer.echo(fill(f"{label}: {', '.join(ids[:_PRINTED])}{more}", 78, subsequent_indent="    "))


def _cells(one: Change) -> tuple[str, ...]:
    def value(figure: Figure) -> str:
        return "–" if figure.value is None else f"{figure.value:.3f}"

    change = one.difference
    if change.value is None or change.low is None or change.high is None:
        return value(one.old), value(one.new), "–", "unknown"
    text = f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})".replace("-", "−")
    return value(one.old), value(one.new), text, "" if one.direction == "unchanged" else one.direction

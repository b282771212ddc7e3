"""What ``memberscope study`` does and prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from memberscope.errors import ConfigError
from memberscope.study import StudyConfig, preset, run_study, with_data, with_rows, with_seeds
from memberscope.study.folder import study_json
from memberscope.types import Figure
from memberscope.types.study import StudyResult, StudyRow

# Columns of the printed table; on a narrow terminal only the first ones' share of the story.
COLUMNS = ("train", "test", "ECE", "thr AUC", "thr adv", "ref 1 %", "ref 0.1 %", "ref AUC", "gap AUC", "s", "ε")
NARROW = ("test", "thr AUC", "ref 1 %", "ref AUC", "ε")
WIDE = 126


def study(
    what: str,
    *,
    scale: str | None,
    data: str | None,
    seeds: int | None,
    rows: Sequence[str],
    out: Path | None,
    seed: int | None,
    workers: int | None,
    device: str | None,
    precision: str | None = None,
    json: bool,
    quiet: bool,
) -> None:
    """Run a study file or a preset, and print its table or its document."""
    config, base = _chosen(what, scale)
    if data is not None:
        config = with_data(config, data)
    if rows:
        config = with_rows(config, rows)
    if seeds is not None:
        config = with_seeds(config, seeds)
    given = {"seed": seed, "workers": workers, "device": device}
    if changes := {key: value for key, value in given.items() if value is not None}:
        config = config.changed(**changes)
    if precision is not None:
        config = config.changed(recipe=config.recipe | {"precision": precision})
    folder = out or Path("runs") / f"study-{config.name}-{config.scale}"
    result = run_study(config, folder, base=base, quiet=quiet)
    if json:
        sys.stdout.write(study_json(result))
    else:
        _print(result, folder)


def _chosen(what: str, scale: str | None) -> tuple[StudyConfig, Path]:
    path = Path(what)
    if path.suffix.lower() in (".yaml", ".yml") or path.is_file():
        if scale is not None:
            raise ConfigError(
                "--scale with a preset", f"the study file {what}", "Leave --scale out: a study file is its own scale."
            )
        return StudyConfig.read(path), path.parent
    return preset(what, scale or "laptop"), Path()


def _print(result: StudyResult, folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    # A pipe has no width of its own; a table that is cut there would lose figures.
    console = console if console.is_terminal else Console(width=WIDE)
    title = f"{result.name}, {result.scale}: per cent over all targets"
    table = Table(title=title, title_justify="left", pad_edge=False)
    table.add_column("method", no_wrap=True)
    shown = COLUMNS if console.width >= WIDE else NARROW
    for column in shown:
        table.add_column(column, justify="right", no_wrap=True)
    for row in result.rows:
        if row.seed == "all":
            cells = _cells(row)
            table.add_row(row.method, *(cells[column] for column in shown))
    console.print(result.headline, style="bold")
    console.print(table)
    console.print("Intervals and targets: study.json, study.csv and the page.")
    print(f"Page: {folder / 'index.html'}")


def _cells(row: StudyRow) -> dict[str, str]:
    rates, seconds = row.reference_tpr_at_fpr, row.train_seconds.value
    figures = (
        row.train_accuracy, row.test_accuracy, row.ece, row.threshold_auc, row.threshold_advantage,
        rates["0.01"], rates["0.001"], row.reference_auc, row.gap_auc,
    )  # fmt: skip
    return dict(zip(COLUMNS, (_cell(figure) for figure in figures), strict=False)) | {
        "s": "–" if seconds is None else f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}",
        "ε": "–" if row.epsilon is None else f"{row.epsilon:.2f}",
    }


def _cell(figure: Figure) -> str:
    return "–" if figure.value is None else f"{100 * figure.value:.2f}"

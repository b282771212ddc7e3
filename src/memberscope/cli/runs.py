"""Commands on the run that an audit wrote: judge it again, verify it, compare it, export it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else on standard output.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


def add_run_commands(app: typer.Typer) -> None:
    """Add gate, verify, compare and export to the command."""
    for command in (gate, verify, compare, export):
        app.command()(command)


def gate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or its findings.json.")],
    gate: Annotated[
        list[str] | None,
        typer.Option(
            help="Limit to keep instead of the run's own, for example 'tpr@0.01<0.05', 'auc/class<0.7' for every "
            "class, 'lira_online:auc<0.6', or 'auc<+0.02': at most 0.02 above the baseline."
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run to compare with; without '<+' by 'tpr@0.01<+0.02'.", show_default=False),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Keep the verdict: findings and report are rewritten.")
    ] = False,
    json: Json = False,
) -> None:
    """Judge a run again, without computing anything: exit status 0 pass, 1 fail, 3 inconclusive.

    \b
    Examples:
      memberscope gate runs/demo
      memberscope gate runs/demo --gate 'tpr@0.01<0.05' --gate 'auc/class<0.7'
      memberscope gate runs/new --baseline runs/released --gate 'auc<+0.02'
    """
    from memberscope.cli.gate import judge_again

    judge_again(run, gate or [], baseline, write=write, json=json)


def verify(
    run: Run,
    digest: Annotated[
        str | None, typer.Option(help="As the audit printed it: 12 digits or more of it.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Check every file of a run against its manifest: exit status 0 if all are as written, 1 if not.

    3 where the manifest of an older version does not name every file.

    \b
    Examples:
      memberscope verify runs/demo
      memberscope verify runs/demo --digest 3f6c0f2a91d4
    """
    from memberscope.cli.gate import verify_run

    verify_run(run, digest, json=json)


def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The earlier run (a folder, or its findings.json).")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The later run.")],
    json: Json = False,
) -> None:
    """Say what changed from one run to another, with intervals of the differences.

    Example: memberscope compare runs/released runs/new
    """
    from memberscope.cli.compare import compare_runs

    compare_runs(old, new, json=json)


def export(
    run: Run,
    format: Annotated[
        list[str], typer.Option(help="junit, sarif, mlflow, model-card, prometheus, csv or parquet; may be repeated.")
    ],
    out: Annotated[
        list[str] | None,
        typer.Option(
            help="File to write (of mlflow the tracking URI), one for each --format in their order; default: exports/ "
            "of the run.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Of sarif: the configuration to point at; default: the run's.", show_default=False),
    ] = None,
    experiment: Annotated[str, typer.Option(help="Of mlflow.")] = "memberscope",
    json: Json = False,
) -> None:
    """Write a run's result where other tools read it.

    \b
    Examples:
      memberscope export runs/demo --format junit --out junit.xml
      memberscope export runs/demo --format sarif --out leak.sarif --format csv --out records.csv
      memberscope export runs/demo --format mlflow --out http://127.0.0.1:5000
      memberscope export runs/demo --format model-card --out README.md
    """
    from memberscope.cli.gate import export_formats

    export_formats(run, format, out or [], config, experiment, json=json)

"""Commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from memberscope.cli.runs import add_run_commands

app = typer.Typer(
    name="memberscope",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find out which training records a machine-learning model gives away, with statistics that hold.",
    epilog="Exit status: 0 pass or no gate, 1 a gate failed, 2 wrong use or failure, 3 inconclusive.",
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, fetch and describe data sets.")
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else on standard output.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"] | None,
    typer.Option(help="Of the training; default: the recipe's, there auto.", show_default=False),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def _version(wanted: bool) -> None:
    if wanted:
        from memberscope import __version__

        typer.echo(f"memberscope {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    precision: Precision = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Audit small image models on embedded data, from training to report, in about two minutes.

    Example: memberscope demo --out runs/demo
    """
    from memberscope.cli.show import finish, run_demo

    finish(run_demo(out, precision=precision, quiet=quiet), out, json=json)


@app.command()
def audit(
    config: Annotated[Path | None, typer.Argument(help="Configuration, a YAML file.", show_default=False)] = None,
    signals: Annotated[
        Path | None, typer.Option(help="Saved outputs (.npz) instead of a configuration.", show_default=False)
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Saved predictions of one model (CSV, NPZ, Parquet).", show_default=False),
    ] = None,
    reference_predictions: Annotated[
        list[Path] | None,
        typer.Option("--reference-predictions", help="Files of reference models on the same ids.", show_default=False),
    ] = None,
    membership: Annotated[
        Path | None,
        typer.Option(help="Table of ids and a column a file, for predictions without one.", show_default=False),
    ] = None,
    target: Annotated[
        list[int] | None, typer.Option("--target", help="Rows to audit, such as --target 0 3. Default: all rows.")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option("--attack", help="Attack to run; may be repeated. Default: all that can run.")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(help="Limit to keep, for example 'tpr@0.01<0.05', 'auc/class<0.7' or 'lira_online:auc<0.6'."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Run to compare with, by 'tpr@0.01<+0.02' or --gate 'auc<+0.02'.", show_default=False
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything drawn at random.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that train; default: one a core.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Where the data of the configuration lie.", show_default=False)
    ] = None,
    precision: Precision = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only train and ask every N-th model, from the I-th.", show_default=False),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Audit models: saved predictions, a saved model, or a pool trained as a configuration says.

    \b
    Examples:
      memberscope audit --predictions mine.csv
      memberscope audit --predictions mine.csv --reference-predictions ref1.csv ref2.csv
      memberscope audit model.yaml
      memberscope audit examples/location30.yaml
      memberscope audit --signals outputs.npz --target 0 --gate 'tpr@0.01<0.05'
      memberscope audit --signals outputs.npz --json > findings.json
      memberscope audit examples/location30.yaml --shard 2/8
    """
    from memberscope.cli.show import audit_shard, finish, is_door, run_audit, run_door

    if predictions is not None or reference_predictions or membership is not None or is_door(config):
        refused = {"--signals": signals, "--target": target, "--data": data, "--precision": precision, "--shard": shard}
        findings, folder = run_door(
            config, predictions, references=reference_predictions or [], membership=membership, refused=refused,
            attacks=attack, gates=gate or [], baseline=baseline, out=out, seed=seed, workers=workers,
            write=not json or out is not None, quiet=quiet,
        )  # fmt: skip
        finish(findings, folder, json=json)
        return
    if shard is not None:
        audit_shard(
            config, shard, out=out, seed=seed, workers=workers, data=data, precision=precision, json=json, quiet=quiet
        )
        return
    findings, folder = run_audit(
        config,
        signals,
        targets=target,
        attacks=attack,
        gates=gate or [],
        baseline=baseline,
        out=out,
        seed=seed,
        workers=workers,
        data=data,
        precision=precision,
        write=not json or out is not None,
        quiet=quiet,
    )
    finish(findings, folder, json=json)


@app.command("attack")
def attack_command(
    endpoint: Annotated[Path, typer.Argument(metavar="ENDPOINT.yaml", help="Description of the endpoint.")],
    candidates: Annotated[
        Path, typer.Option(help="Records to ask about (CSV, Parquet or NPZ): id, label, inputs, member if known.")
    ],
    population: Annotated[
        Path | None, typer.Option(help="Records that are certainly no members, to calibrate.", show_default=False)
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="Reference models' outputs on the same ids (.npz).", show_default=False)
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option("--attack", help="Attack to run; may be repeated. Default: all that can run.")
    ] = None,
    gate: Annotated[
        list[str] | None, typer.Option(help="Limit to keep, for example 'tpr@0.01<0.05' or 'auc<0.6'.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/NAME.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything drawn at random.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and send nothing.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Attack a model behind an HTTP endpoint, within a budget; start again to go on after a stop.

    \b
    Examples:
      memberscope attack endpoint.yaml --candidates records.csv --dry-run
      memberscope attack endpoint.yaml --candidates records.csv --gate 'auc<0.6'
      memberscope attack endpoint.yaml --candidates suspects.csv --population outsiders.csv
    """
    from memberscope.cli.attack import attack as run

    run(
        endpoint, candidates, population=population, references=references, attacks=attack or [], gates=gate or [],
        out=out, seed=seed, dry_run=dry_run, json=json, quiet=quiet,
    )  # fmt: skip


@app.command()
def study(
    what: Annotated[
        str, typer.Argument(metavar="CONFIG|PRESET", help="A study file (.yaml), or purchase100, cifar10, cifar100.")
    ],
    scale: Annotated[
        str | None,
        typer.Option(help="Of a preset: paper (a GPU), laptop (two cores) or smoke (a check).", show_default="laptop"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH", help="Other data: a known name, or where the archive lies.", show_default=False
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Models of a row that play target.")] = None,
    rows: Annotated[
        list[str] | None, typer.Option(help="Methods, such as --rows original l2_1e-3. Default: all of the study.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder. Default: runs/study-NAME-SCALE.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything drawn at random.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that train; default: one a core.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: the study's.", show_default=False)] = None,
    precision: Precision = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare defences: train, audit and tabulate each, the paper's figures beside ours.

    \b
    Examples:
      memberscope study purchase100 --scale smoke
      memberscope study cifar10 --data data/cifar-10-binary.tar.gz
      memberscope study cifar10 --rows original dp_sgd original+reweighting
      memberscope study my-study.yaml --json > study.json
    """
    from memberscope.cli.study import study as run

    run(
        what, scale=scale, data=data, seeds=seeds, rows=rows or [], out=out, seed=seed, workers=workers,
        device=device, precision=precision, json=json, quiet=quiet,
    )  # fmt: skip


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Write a run's report again, without computing anything anew.

    Example: memberscope report runs/demo
    """
    from memberscope.run_folder import report as write

    typer.echo(str(write(run)))


add_run_commands(app)


@app.command()
def attacks(json: Json = False) -> None:
    """List the attacks: what each needs, and where it is from.

    Example: memberscope attacks
    """
    from memberscope.cli.show import list_attacks

    list_attacks(json=json)


@data_app.command("list")
def data_list(json: Json = False) -> None:
    """List the known data sets and whether they are here.

    Example: memberscope data list
    """
    from memberscope.cli.show import list_data

    list_data(json=json)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="A data set of 'memberscope data list'.")], quiet: Quiet = False
) -> None:
    """Download a data set's official archive: resumed, checked, placed whole or not at all.

    Example: memberscope data fetch cifar10
    """
    from memberscope.data import fetch

    typer.echo(str(fetch(name, quiet=quiet)))


@data_app.command("info")
def data_info(
    name: Annotated[str, typer.Argument(help="A known data set, or a file or folder of yours.")], json: Json = False
) -> None:
    """Describe a data set.

    Example: memberscope data info digits
    """
    from memberscope.cli.show import show_info

    show_info(name, json=json)

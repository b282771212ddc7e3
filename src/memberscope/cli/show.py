"""What the commands do and print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json as json_module
import re
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import typer

from memberscope.errors import ConfigError
from memberscope.types import Figure, Findings, Gate

EXIT = {"pass": 0, "no_gate": 0, "fail": 1, "inconclusive": 3}

_GATE = re.compile(
    r"\s*(?:(?P<attack>\w+)\s*:)?\s*(?P<metric>tpr|auc|advantage)\s*(?:@\s*(?P<fpr>[\d.]+))?\s*"
    r"(?:/\s*(?P<group>[^<]*[^<\s]))?\s*<\s*(?P<rise>\+)?\s*(?P<limit>[\d.]+)\s*"
)
# What a baseline is compared by where no gate says it.
_REGRESSION = "tpr@0.01<+0.02"


def gates_of(texts: Sequence[str], baseline: Path | None) -> list[Gate]:
    """The gates of a command line; with a baseline but no gate on it, :data:`_REGRESSION`.

    Raises:
        ConfigError: see :func:`parse_gate`.
    """
    gates = [parse_gate(text, baseline) for text in texts]
    if baseline is not None and not any(gate.baseline for gate in gates):
        gates.append(parse_gate(_REGRESSION, baseline))
    return gates


def parse_gate(text: str, baseline: Path | None = None) -> Gate:
    """A gate from the command line.

    >>> parse_gate("tpr@0.01<0.05").limit, parse_gate("auc/class<0.7").group
    (0.05, 'class')

    Raises:
        ConfigError: not of the form [ATTACK:]METRIC[@FPR][/GROUP]<LIMIT, with <+ for a rise over the baseline, or a
            value out of range.
    """
    found = _GATE.fullmatch(text)
    if not found:
        raise ConfigError("a gate such as 'tpr@0.01<0.05' or 'auc<0.6'", repr(text), "Write it in that form.")
    given = {key: value for key, value in found.groupdict().items() if value is not None}
    if given.pop("rise", None):
        if baseline is None:
            raise ConfigError(f"a baseline for the gate {text!r}", "none", "Name a run with --baseline.")
        given |= {"baseline": str(baseline), "worse_by": given.pop("limit")}
    try:
        return Gate.model_validate(given)
    except ValueError as error:
        said = str(error).splitlines()[2].strip()
        raise ConfigError(
            "a gate with a limit in (0, 1) at a false-alarm rate of 0.1, 0.01 or 0.001", said, "Change it."
        ) from error


def run_demo(out: Path, *, precision: str | None = None, quiet: bool) -> Findings:
    """The demonstration's findings."""
    from memberscope.config import AuditConfig
    from memberscope.run import audit

    with as_file(files("memberscope.cli") / "demo.yaml") as path:
        values = AuditConfig.read(path).model_dump()
    if precision is not None:
        values["recipe"]["precision"] = precision
    return audit(values, out=out, quiet=quiet)


def run_audit(
    config: Path | None,
    signals: Path | None,
    *,
    targets: Sequence[int] | None,
    attacks: Sequence[str] | None,
    gates: Sequence[str],
    baseline: Path | None = None,
    out: Path | None,
    seed: int | None,
    workers: int | None,
    data: Path | None,
    precision: str | None = None,
    write: bool,
    quiet: bool,
) -> tuple[Findings, Path | None]:
    """Findings and the folder they were written to, None if nothing was written."""
    from memberscope.config import AuditConfig
    from memberscope.run import run

    if (config is None) == (signals is None):
        raise ConfigError(
            "either a configuration or --signals",
            "both" if config else "neither",
            "Run 'memberscope audit CONFIG.yaml' or 'memberscope audit --signals FILE.npz'.",
        )
    base = Path()
    if config is not None:
        if config.suffix.lower() == ".npz":
            raise ConfigError("a YAML configuration", str(config), f"Run 'memberscope audit --signals {config}'.")
        read, base = AuditConfig.read(config), config.parent
        values = read.model_dump()
        values["name"] = values["name"] or config.stem
    else:
        assert signals is not None
        values = {"signals": str(signals), "name": signals.stem}
    limits = [gate.model_dump() for gate in gates_of(gates, baseline)]
    values["gate"] = [*(values.get("gate") or []), *limits]
    folder = out or (Path(values["out"]) if values.get("out") else Path("runs") / values["name"])
    # Saved outputs need no folder; a pool is trained in one.
    keep = write or config is not None
    changes: dict[str, Any] = {
        "out": str(folder) if keep else None,
        "targets": list(targets) if targets else None,
        "attacks": list(attacks) if attacks else None,
        "seed": seed,
        "workers": workers,
    }
    values |= {key: value for key, value in changes.items() if value is not None}
    if data is not None:
        if not values.get("data"):
            raise ConfigError("--data with a configuration that has data", "none", "Leave --data out.")
        values["data"]["path"] = str(data)
    if precision is not None:
        if not values.get("data"):
            raise ConfigError("--precision with a configuration that trains", "saved outputs", "Leave --precision out.")
        values["recipe"]["precision"] = precision
    return run(AuditConfig.parse(values), base=base, source=config, quiet=quiet), folder if keep else None


def run_door(
    config: Path | None,
    predictions: Path | None,
    *,
    references: Sequence[Path],
    membership: Path | None,
    refused: dict[str, Any],
    attacks: Sequence[str] | None,
    gates: Sequence[str],
    baseline: Path | None = None,
    out: Path | None,
    seed: int | None,
    workers: int | None,
    write: bool,
    quiet: bool,
) -> tuple[Findings, Path | None]:
    """Findings of saved predictions or of a saved model, and the folder they were written to, None if nowhere.

    ``refused`` are options that mean nothing here, with their values.
    """
    from memberscope.config import read_yaml
    from memberscope.doors.configured import DoorConfig, audit_configured

    wrong = next((name for name, value in refused.items() if value), "")
    alone = predictions is None and (references or membership is not None)
    if wrong or (config is not None and predictions is not None) or alone:
        raise ConfigError(
            "--predictions FILE, or a configuration with predictions: or model:",
            f"{wrong or 'a configuration'} beside it" if wrong or config else "references without --predictions",
            f"Leave {wrong or 'one of them'} out." if wrong or config else "Name the target's file in --predictions.",
        )
    if config is not None:
        values, stem, base = dict(read_yaml(config, "a configuration")), config.stem, config.parent
    else:
        assert predictions is not None
        values, stem, base = {"predictions": {"path": str(predictions)}}, predictions.stem, Path()
        values["predictions"]["references"] = [str(path) for path in references]
        values["predictions"]["membership"] = None if membership is None else str(membership)
    given = DoorConfig.parse(values).model_dump()
    given["gate"] = [*given["gate"], *(gate.model_dump() for gate in gates_of(gates, baseline))]
    folder = out or (Path(given["out"]) if given["out"] else Path("runs") / (given["name"] or stem))
    keep = write or given["out"] is not None
    changes = {"attacks": list(attacks) if attacks else None, "seed": seed, "workers": workers}
    given |= {key: value for key, value in changes.items() if value is not None}
    given["out"] = str(folder) if keep else None
    findings = audit_configured(DoorConfig.parse(given), base=base, name=stem, source=config, quiet=quiet)
    return findings, folder if keep else None


def is_door(config: Path | None) -> bool:
    """Whether a configuration audits saved predictions or a saved model."""
    if config is None or config.suffix.lower() not in (".yaml", ".yml") or not config.is_file():
        return False
    from memberscope.doors.configured import is_door as has_section

    return has_section(config)


def audit_shard(
    config: Path | None,
    shard: str,
    *,
    out: Path | None,
    seed: int | None,
    workers: int | None,
    data: Path | None,
    precision: str | None = None,
    json: bool,
    quiet: bool,
) -> None:
    """Do one shard of an audit's training and asking, and say what is still missing."""
    from memberscope.config import AuditConfig
    from memberscope.training.rows import parse_shard
    from memberscope.work import run_shard

    part = parse_shard(shard)
    if config is None:
        raise ConfigError("a configuration with --shard", "none", "Run 'memberscope audit CONFIG.yaml --shard 1/8'.")
    read = AuditConfig.read(config)
    values = read.model_dump()
    values["out"] = str(out or read.out or Path("runs") / (read.name or config.stem))
    values |= {key: value for key, value in {"seed": seed, "workers": workers}.items() if value is not None}
    if data is not None and values["data"]:
        values["data"]["path"] = str(data)
    if precision is not None:
        values["recipe"]["precision"] = precision
    state = run_shard(AuditConfig.parse(values), part, base=config.parent, quiet=quiet)
    typer.echo(json_module.dumps(state, indent=1) if json else state["sentence"])


def finish(findings: Findings, folder: Path | None, *, json: bool) -> None:
    """Print the findings and leave with the verdict's status."""
    from memberscope.run_folder import as_json, digest_of

    if json:
        sys.stdout.write(as_json(findings))
        if folder is not None:
            print(f"Digest: {digest_of(folder)}", file=sys.stderr)
    else:
        _summarise(findings)
        if folder is not None:
            typer.echo(f"\nDigest: {digest_of(folder)}")
            typer.echo("Kept elsewhere, it lets 'memberscope verify RUN --digest …' tell whether a file was changed.")
            typer.echo(f"\nReport: {folder / 'report.html'}")
    raise typer.Exit(EXIT[findings.verdict])


def _summarise(findings: Findings) -> None:
    from textwrap import fill

    typer.echo("\n" + fill(f"{findings.verdict.replace('_', ' ').upper()}: {findings.headline}", 78) + "\n")
    for sentence in findings.summary:
        typer.echo(fill(sentence, 78, initial_indent="  ", subsequent_indent="    "))
    references = findings.populations["references"]
    typer.echo(f"\nOver all targets, with 95 % intervals; {references} reference models a target:")
    typer.echo(f"{'attack':20}{'AUC':>18}{'TPR, %, at FPR 1 %':>21}{'at FPR 0.1 %':>20}")
    for result in findings.attacks:
        if result.target == "all":
            rates = [_cell(result.tpr_at_fpr[key], percent=True) for key in ("0.01", "0.001")]
            typer.echo(f"{result.name:20}{_cell(result.auc):>18}{rates[0]:>21}{rates[1]:>20}")
    for missing in findings.not_run:
        typer.echo(fill(f"not run: {missing.name}: {missing.reason}", 78, subsequent_indent="    "))


def _cell(figure: Figure, *, percent: bool = False) -> str:
    if figure.value is None or figure.low is None or figure.high is None:
        return "not measurable"
    if percent:
        return f"{100 * figure.value:.2f} ({100 * figure.low:.2f}–{100 * figure.high:.2f})"
    return f"{figure.value:.3f} ({figure.low:.3f}–{figure.high:.3f})".replace("0.", ".")


def list_attacks(*, json: bool) -> None:
    """Print every attack with what it needs."""
    from memberscope.attacks import ATTACKS

    rows = [
        {
            "name": kind.name,
            "title": kind.title,
            "access": kind.needs(),
            "references_needed": kind.minimum,
            "references_recommended": kind.recommended,
            "source": kind.source,
        }
        for kind in ATTACKS
    ]
    _print_rows(rows, json)


def list_data(*, json: bool) -> None:
    """Print every known data set."""
    from memberscope.data import REGISTRY, info

    keys = ("name", "description", "shape", "available", "source")
    rows = []
    for name in REGISTRY:
        known = info(name)
        rows.append({key: known[key] for key in keys})
    _print_rows(rows, json)


def show_info(name: str, *, json: bool) -> None:
    """Print what is known of one data set."""
    from memberscope.data import info

    known = info(name)
    if json:
        typer.echo(json_module.dumps(known, indent=1))
        return
    for key, value in known.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        typer.echo(f"{key}: {text if len(text) < 300 else text[:297] + '...'}")


def _print_rows(rows: Sequence[dict[str, Any]], json: bool) -> None:
    if json:
        typer.echo(json_module.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for key in rows[0]:
        table.add_column(key.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("yes" if value is True else "no" if value is False else str(value) for value in row.values()))
    Console().print(table)

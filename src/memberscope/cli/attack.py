"""What ``memberscope attack`` does and prints."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from memberscope.cli.show import finish, parse_gate


def attack(
    endpoint: Path,
    candidates: Path,
    *,
    population: Path | None,
    references: Path | None,
    attacks: Sequence[str],
    gates: Sequence[str],
    out: Path | None,
    seed: int,
    dry_run: bool,
    json: bool,
    quiet: bool,
) -> None:
    """Attack an endpoint, or say what that would cost; leave with the verdict's status."""
    from memberscope.doors.endpoint import attack_endpoint, estimate_endpoint
    from memberscope.targets.http.config import Endpoint

    described = Endpoint.read(endpoint)
    limits = [parse_gate(text) for text in gates]
    folder = out or Path("runs") / (described.name or endpoint.stem)
    if dry_run:
        cost = estimate_endpoint(described, candidates, population=population, seed=seed, out=folder)
        typer.echo(json_module.dumps(asdict(cost), indent=1) if json else f"Dry run, nothing was sent: {cost.sentence}")
        return
    findings = attack_endpoint(
        described,
        candidates,
        population=population,
        references=references,
        attacks=list(attacks) or None,
        gate=limits,
        seed=seed,
        out=folder,
        quiet=quiet,
    )
    finish(findings, folder, json=json)

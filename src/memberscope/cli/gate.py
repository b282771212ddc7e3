"""What ``memberscope gate``, ``verify`` and ``export`` do and print."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import typer

from memberscope.cli.show import EXIT, gates_of
from memberscope.errors import ConfigError, PoolError, nearest
from memberscope.exports import FORMATS, Exported
from memberscope.run_folder import (
    digest_of,
    export_run,
    judged,
    read_findings,
    verify,
    write_judged,
)


def judge_again(run: Path, texts: Sequence[str], baseline: Path | None, *, write: bool, json: bool) -> None:
    """Judge, print, and leave with the verdict's status."""
    findings = read_findings(run)
    given = gates_of(texts, baseline)
    own = [] if texts else [result.gate for result in findings.gates]
    gates = [*own, *given]
    if not gates:
        raise ConfigError(
            "a gate to judge the run by", "a run without one", "Give one, such as --gate 'tpr@0.01<0.05'."
        )
    if write:
        if not run.is_dir():
            raise PoolError("the folder of a run with --write", str(run), "Name the folder, not its findings.json.")
        findings, digest = write_judged(run, gates)
        print(f"Digest: {digest}", file=sys.stderr)
    else:
        findings = judged(run, gates)
    if json:
        results = [result.model_dump(mode="json") for result in findings.gates]
        status = EXIT[findings.verdict]
        typer.echo(json_module.dumps({"verdict": findings.verdict, "status": status, "gates": results}, indent=1))
    else:
        typer.echo(findings.verdict.upper())
        for result in findings.gates:
            typer.echo(fill(result.sentence, 78, initial_indent="  ", subsequent_indent="    "))
    raise typer.Exit(EXIT[findings.verdict])


def verify_run(run: Path, digest: str | None, *, json: bool) -> None:
    """Verify, print, and leave with 0 if every file is as it was written, 1 if not, 3 if some cannot be told."""
    found = verify(run, digest)
    if json:
        problems = [vars(problem) for problem in found.problems]
        values: dict[str, Any] = {"ok": found.ok, "digest": found.digest, "files": found.files, "problems": problems}
        typer.echo(json_module.dumps(values, indent=1))
    else:
        typer.echo(fill(found.sentence, 78))
        for problem in found.problems if found.status == 1 else ():
            typer.echo(f"  {problem.kind}: {problem.sentence}")
        if found.digest:
            typer.echo(f"Digest: {found.digest}")
            if digest is None and found.ok:
                typer.echo("Compare it with the digest that the audit printed, or give that as --digest.")
    raise typer.Exit(found.status)


def export_formats(
    run: Path, formats: Sequence[str], outs: Sequence[str], config: Path | None, experiment: str, *, json: bool
) -> None:
    """Write exports of a run and print where they are."""
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(
                f"a format among {', '.join(FORMATS)}", f"{name!r}{nearest(name, FORMATS)}", "Name one of them."
            )
    if outs and len(outs) != len(formats):
        raise ConfigError(
            "one --out for each --format, or none",
            f"{len(formats)} formats and {len(outs)} places",
            "Give them in the same order.",
        )
    if not run.is_dir():
        raise PoolError(f"a run folder {run}", "no such folder", "Name a folder that an audit wrote.")
    findings = read_findings(run)
    places: list[str | None] = [*outs] or [None] * len(formats)
    asked = [
        Exported.model_validate(
            {"format": name, "out": place, "config": str(config) if config else None, "experiment": experiment}
        )
        for name, place in zip(formats, places, strict=True)
    ]
    before = digest_of(run) if (run / "manifest.json").exists() else ""
    said = export_run(run, findings, asked)
    if (run / "manifest.json").exists() and (after := digest_of(run)) != before:
        print(f"The run folder has new files. Digest: {after}", file=sys.stderr)
    if json:
        typer.echo(json_module.dumps(dict(zip(formats, said, strict=True)), indent=1))
    else:
        for name, place in zip(formats, said, strict=True):
            typer.echo(f"{name}: {place}")

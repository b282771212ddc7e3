"""Write a run folder, and what an audit exports from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memberscope.auditing import Examination
from memberscope.config import write_yaml
from memberscope.exports import FORMATS, Exported, Run
from memberscope.files import write_text, writer_lock
from memberscope.report import render
from memberscope.run_folder.manifest import UNSEALED, digest_of, seal
from memberscope.run_folder.records import write_records, write_scores
from memberscope.types import Dataset, Findings, Signals


def write_run(
    folder: Path,
    found: Examination,
    signals: Signals,
    *,
    dataset: Dataset | None = None,
    config: Mapping[str, Any] | None = None,
) -> str:
    """Write a run folder: config.yaml, scores/*.npy, records.csv, findings.json, report.html, manifest.json.

    Returns:
        The digest of the manifest, which covers every file of the folder.

    Raises:
        PoolError: the folder cannot be written or another process writes there.
    """
    with writer_lock(folder):
        write_text(folder / "config.yaml", write_yaml(config or {}))
        for name, scores in found.scores.items():
            write_scores(folder / "scores" / f"{name}.npy", scores.values)
        write_records(folder / "records.csv", found, signals)
        write_text(folder / "findings.json", as_json(found.findings))
        write_report(folder, found.findings, dataset)
        return seal(folder, sealed=[folder / "report.html"])


def write_report(folder: Path, findings: Findings, dataset: Dataset | None) -> None:
    """Write report.html, not yet sealed."""
    write_text(folder / "report.html", render(with_digest(findings, UNSEALED), dataset=dataset))


def with_digest(findings: Findings, digest: str) -> Findings:
    """Findings that show the run's digest, which the findings of the run itself cannot hold."""
    return findings.model_copy(update={"run": findings.run | {"digest": digest}})


def as_json(findings: Findings) -> str:
    """The findings document, as findings.json and ``--json`` give it."""
    return findings.model_dump_json(indent=1) + "\n"


def export_run(folder: Path, findings: Findings, exports: Sequence[Exported]) -> list[str]:
    """Write exports of a run; those inside its folder are sealed with it, before the others are given the digest.

    Args:
        folder: of the run.
        findings: of the run.
        exports: what to write and where; by default in ``exports/`` of the folder.

    Returns:
        Where each one is.

    Raises:
        MemberscopeError: a file cannot be written, a package or a server is missing.
    """
    places = [folder / "exports" / FORMATS[one.format].file if one.out is None else one.out for one in exports]
    inside = [_inside(folder, place) for place in places]
    said: dict[int, str] = {}
    digest = digest_of(folder) if (folder / "manifest.json").exists() else ""
    within = [number for number, path in enumerate(inside) if path is not None]
    if within:
        with writer_lock(folder):
            unsealed = Run(with_digest(findings, UNSEALED), folder)
            for number in within:
                said[number] = FORMATS[exports[number].format].write(unsealed, str(places[number]), exports[number])
            paths = [path for path in inside if path is not None]
            digest = seal(folder, paths, paths)
    for number, one in enumerate(exports):
        if number not in said:
            run = Run(with_digest(findings, digest) if digest else findings, folder)
            said[number] = FORMATS[one.format].write(run, str(places[number]), one)
    return [said[number] for number in range(len(exports))]


def _inside(folder: Path, place: str | Path) -> Path | None:
    """The place as a path below the folder, None for a URI or a path elsewhere."""
    if isinstance(place, str) and "://" in place:
        return None
    path = Path(place).resolve()
    return folder / path.relative_to(folder.resolve()) if path.is_relative_to(folder.resolve()) else None

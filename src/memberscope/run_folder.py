"""A run folder of plain files: written, read back, and its report written again."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope import __version__
from memberscope.auditing import Examination
from memberscope.config import AuditConfig, write_yaml
from memberscope.errors import MemberscopeError, PoolError
from memberscope.files import atomic, read_json, sha256_file, write_json, write_text, writer_lock
from memberscope.large import pieces, release
from memberscope.report import render
from memberscope.types import Dataset, Findings, Signals

# Rows of records.csv; beyond them only the first targets are written (all scores are in scores/*.npy).
MOST_ROWS = 500_000


def write_run(
    folder: Path,
    found: Examination,
    signals: Signals,
    *,
    dataset: Dataset | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write a run folder: config.yaml, scores/*.npy, records.csv, findings.json, report.html, manifest.json.

    Raises:
        PoolError: the folder cannot be written or another process writes there.
    """
    with writer_lock(folder):
        write_text(folder / "config.yaml", write_yaml(config or {}))
        for name, scores in found.scores.items():
            _write_scores(folder / "scores" / f"{name}.npy", scores.values)
        _write_records(folder / "records.csv", found, signals)
        write_text(folder / "findings.json", as_json(found.findings))
        write_text(folder / "report.html", render(found.findings, dataset=dataset))
        _write_manifest(folder)


def as_json(findings: Findings) -> str:
    """The findings document, as findings.json and ``--json`` give it."""
    return findings.model_dump_json(indent=1) + "\n"


def read_findings(path: str | Path) -> Findings:
    """Findings from a run folder or a findings.json.

    Raises:
        PoolError: no such file, not JSON, or not a findings document of this schema version.
    """
    path = Path(path)
    path = path / "findings.json" if path.is_dir() else path
    values = read_json(path)
    try:
        return Findings.model_validate(values)
    except ValueError as error:
        lines = str(error).splitlines()
        raise PoolError(
            f"a findings document in {path}", " ".join(lines[1:3]).strip() or lines[0], "Run the audit again."
        ) from error


def report(folder: str | Path, *, dataset: Dataset | None = None) -> Path:
    """Write a run's report again from its findings, without computing anything anew.

    The records are loaded again for pictures if the run's configuration says from where and they are there.

    Returns:
        The path of report.html.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PoolError(f"a run folder {folder}", "no such folder", "Name a folder that an audit wrote.")
    findings = read_findings(folder)
    if dataset is None:
        dataset = _dataset_of(folder, findings)
    with writer_lock(folder):
        write_text(folder / "report.html", render(findings, dataset=dataset))
        _write_manifest(folder)
    return folder / "report.html"


def _dataset_of(folder: Path, findings: Findings) -> Dataset | None:
    """The run's records if they can be loaded and are still the same."""
    try:
        config = AuditConfig.read(folder / "config.yaml")
        if config.data is None:
            return None
        dataset, _ = config.load_records(Path())
    except MemberscopeError:
        return None
    return dataset if dataset.fingerprint == findings.data.get("fingerprint") else None


def _write_manifest(folder: Path) -> None:
    """Hashes of everything that the run consists of; pool and signals keep manifests of their own files."""
    names = [
        "config.yaml",
        "findings.json",
        "records.csv",
        "report.html",
        "pool/manifest.json",
        "signals/manifest.json",
    ]
    paths = [folder / name for name in names] + sorted((folder / "scores").glob("*.npy"))
    files = {str(path.relative_to(folder)): sha256_file(path) for path in paths if path.exists()}
    write_json(folder / "manifest.json", {"schema_version": "1.0", "memberscope": __version__, "files": files})


def _write_scores(path: Path, values: NDArray[np.float64]) -> None:
    """A target at a time: scores may be a memory map larger than memory."""
    with atomic(path) as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": values.dtype.str, "fortran_order": False, "shape": values.shape}
        )
        for row in values:
            file.write(np.ascontiguousarray(row).data)
            release(row)


def _write_records(path: Path, found: Examination, signals: Signals) -> None:
    """records.csv: one line a target and record, scores with six digits, empty where not scored."""
    targets = next(iter(found.scores.values())).targets
    audited = np.flatnonzero(~signals.population)
    shown = max(1, min(len(targets), MOST_ROWS // max(len(audited), 1)))
    names = list(found.scores)
    with atomic(path) as binary:
        file = io.TextIOWrapper(binary, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(file)
        writer.writerow(["target", "id", "label", "member", *names, "p_value", "adjusted_p_value", "flagged"])
        for position, target in enumerate(targets[:shown]):
            for where in pieces(len(audited), 10_000):
                writer.writerows(_lines(found, signals, position, target, audited[where]))
        file.detach()


def _lines(
    found: Examination, signals: Signals, position: int, target: int, records: NDArray[np.int64]
) -> Iterator[tuple[object, ...]]:
    """Lines of records.csv about some records of one target."""
    columns: list[list[Any]] = [_texts(scores.values[position][records]) for scores in found.scores.values()]
    proof = found.evidence
    if proof is None:
        columns += [[""] * len(records)] * 3
    else:
        columns += [_texts(proof.p_values[position][records]), _texts(proof.adjusted[position][records])]
        columns.append(proof.flagged[position][records].astype(int).tolist())
    ids, labels = signals.ids[records].tolist(), signals.labels[records].tolist()
    member = signals.members[target][records].astype(int).tolist()
    return zip([target] * len(records), ids, labels, member, *columns, strict=True)


def _texts(values: NDArray[np.float64]) -> list[str]:
    return ["" if value != value else f"{value:.6g}" for value in values.tolist()]

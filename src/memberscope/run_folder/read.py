"""Read a run back, and write its report or its verdict again without computing anything."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from memberscope.auditing.gates import rejudge
from memberscope.config import AuditConfig
from memberscope.errors import ConfigError, MemberscopeError, PoolError
from memberscope.exports import FORMATS, Exported
from memberscope.files import read_json, write_text, writer_lock
from memberscope.run_folder.manifest import digest_of, seal
from memberscope.run_folder.write import as_json, export_run, write_report
from memberscope.types import Dataset, Findings, Gate


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


def read_baselines(gates: Iterable[Gate], *bases: Path | None) -> dict[str, Findings]:
    """The findings that regressions compare with, by ``gate.baseline``.

    Args:
        gates: of a plan.
        bases: folders where relative paths are sought, after the working directory.

    Raises:
        ConfigError: a baseline is not there.
        PoolError: it is no findings document.
    """
    found: dict[str, Findings] = {}
    for gate in gates:
        if gate.baseline is None or gate.baseline in found:
            continue
        places = [Path(gate.baseline).expanduser(), *(base / gate.baseline for base in bases if base is not None)]
        path = next((place for place in places if place.exists()), None)
        if path is None:
            raise ConfigError(
                "a baseline: the folder of a run, or its findings.json",
                f"no {gate.baseline}",
                "Name one that is there; 'memberscope audit' writes them.",
            )
        found[gate.baseline] = read_findings(path)
    return found


def judged(run: Path, gates: list[Gate]) -> Findings:
    """A run's findings judged by other gates; relative baselines are sought as the audit sought them, then in the run.

    Raises:
        MemberscopeError: the run or a baseline cannot be read, or a gate cannot be judged on it.
    """
    findings = read_findings(run)
    place = findings.run.get("configuration")
    beside = Path(str(place.get("path", ""))).parent if isinstance(place, dict) else None
    return rejudge(findings, gates, read_baselines(gates, beside, run if run.is_dir() else run.parent))


def write_judged(folder: Path, gates: list[Gate]) -> tuple[Findings, str]:
    """Judge a run by other gates and write its findings, its report and the exports in its folder again.

    Returns:
        The findings and the folder's new digest.
    """
    findings = judged(folder, gates)
    with writer_lock(folder):
        write_text(folder / "findings.json", as_json(findings))
        write_report(folder, findings, _dataset_of(folder, findings))
        names = ("findings.json", "report.html")
        seal(folder, [folder / name for name in names], [folder / "report.html"])
    # The verdict stands in them too.
    stale = [name for name, known in FORMATS.items() if (folder / "exports" / known.file).exists() and known.judged]
    export_run(folder, findings, [Exported.model_validate(name) for name in stale])
    return findings, digest_of(folder)


def report(folder: str | Path, *, dataset: Dataset | None = None, anew: bool = False) -> Path:
    """Write a run's report again from its findings, without computing anything anew.

    The records are loaded again for pictures if the run's configuration says from where and they are there. Of the
    manifest, only what is said of the report changes: what was altered in the folder meanwhile is not blessed.

    Args:
        folder: of the run.
        dataset: the records, where they are at hand.
        anew: whether the caller has just written the folder, so that every file is sealed as it is.

    Returns:
        The path of report.html.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PoolError(f"a run folder {folder}", "no such folder", "Name a folder that an audit wrote.")
    findings = read_findings(folder)
    if dataset is None:
        dataset = _dataset_of(folder, findings)
    path = folder / "report.html"
    with writer_lock(folder):
        write_report(folder, findings, dataset)
        seal(folder, None if anew else [path], [path])
    return path


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

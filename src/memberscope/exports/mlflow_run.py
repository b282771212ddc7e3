"""An MLflow run: figures as metrics, configuration as parameters, the run's documents as artifacts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from memberscope.errors import ConfigError, MissingExtraError
from memberscope.exports.interface import Exported, Run
from memberscope.types import Figure, Findings

# Documents of a run; records.csv and scores may be large and name every record.
ARTIFACTS = ("findings.json", "report.html", "config.yaml", "manifest.json")
_LONGEST = 500
_BATCH = 100


def write(run: Run, out: str, options: Exported) -> str:
    """Log the run to the tracking server or store ``out`` (a path is an SQLite store) and say under which id.

    Raises:
        MissingExtraError: MLflow is not installed.
        ConfigError: the server cannot be reached or refuses.
    """
    try:
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise MissingExtraError.of("mlflow", "mlflow", "the export to MLflow") from error
    uri = out if "://" in out else f"sqlite:///{Path(out).resolve()}"
    findings = run.findings
    try:
        client = MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(options.experiment)
        experiment = known.experiment_id if known else client.create_experiment(options.experiment)
        started = client.create_run(experiment, run_name=findings.name)
        number = started.info.run_id
        now = started.info.start_time
        metrics_ = [Metric(name, value, now, 0) for name, value in metrics(findings).items()]
        params_ = [Param(name, value) for name, value in params(run).items()]
        tags_ = [RunTag(name, value) for name, value in tags(run).items()]
        for start in range(0, max(len(metrics_), len(params_), len(tags_)), _BATCH):
            part = slice(start, start + _BATCH)
            client.log_batch(number, metrics_[part], params_[part], tags_[part])
        for name in ARTIFACTS:
            if run.folder is not None and (run.folder / name).exists():
                client.log_artifact(number, str(run.folder / name))
        client.set_terminated(number)
    except (MlflowException, OSError) as error:
        raise ConfigError(
            f"an MLflow tracking server or store at {uri}",
            str(error).splitlines()[0][:300],
            "Check the address and that the server runs; a path such as mlflow.db names an SQLite store.",
        ) from error
    return f"run {number} of experiment {options.experiment} at {uri}"


def metrics(findings: Findings) -> dict[str, float]:
    """Every figure over all targets with its bounds, gates and counts; what was not measured is left out.

    ``lira_online/auc``, ``lira_online/auc_low``, ``lira_online/tpr_at_0.01``, … and ``gate_1``, the gate's figure.
    """
    found: dict[str, float] = {}

    def add(name: str, figure: Figure) -> None:
        parts = (("", figure.value), ("_low", figure.low), ("_high", figure.high))
        found.update({f"{name}{end}": value for end, value in parts if value is not None})

    for result in findings.attacks:
        if result.target == "all":
            add(f"{_name(result.name)}/auc", result.auc)
            add(f"{_name(result.name)}/advantage", result.advantage)
            for fpr, figure in result.tpr_at_fpr.items():
                add(f"{_name(result.name)}/tpr_at_{fpr}", figure)
    for number, gate in enumerate(findings.gates, 1):
        add(f"gate_{number}", gate.figure)
        if gate.difference is not None:
            add(f"gate_{number}_difference", gate.difference)
    for part in ("train", "test"):
        value = findings.model.get(f"{part}_accuracy")
        if isinstance(value, Mapping) and value.get("value") is not None:
            found[f"{part}_accuracy"] = float(value["value"])
    if findings.records is not None:
        found["exposed_records"] = float(findings.records.flagged)
    return found


def params(run: Run) -> dict[str, str]:
    """The configuration, one parameter a value, keys joined by dots; long values are cut."""
    path = None if run.folder is None else run.folder / "config.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8")) if path is not None and path.exists() else {}
    flat = dict(_flat(values or {}, ""))
    return {_name(key): str(value)[:_LONGEST] for key, value in flat.items() if value is not None and value != ""}


def tags(run: Run) -> dict[str, str]:
    """What an MLflow user searches by."""
    findings = run.findings
    found = {
        "memberscope.verdict": findings.verdict,
        "memberscope.headline": findings.headline,
        "memberscope.strongest": findings.strongest,
        "memberscope.schema_version": findings.schema_version,
        "memberscope.digest": run.digest,
    }
    found |= {f"memberscope.gate_{number}": gate.sentence for number, gate in enumerate(findings.gates, 1)}
    return {key: value for key, value in found.items() if value}


def _flat(values: Any, prefix: str) -> list[tuple[str, Any]]:
    if isinstance(values, Mapping):
        return [
            pair for key, value in values.items() for pair in _flat(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [(prefix, values)] if prefix else []


def _name(key: str) -> str:
    """A name of the characters that every MLflow store takes."""
    return re.sub(r"[^\w./ -]", "_", key, flags=re.ASCII)[:250]

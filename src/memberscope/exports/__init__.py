"""Ways out of an audit: one format a file; what a format needs beyond the core is loaded when it is written."""

from __future__ import annotations

from memberscope.exports import junit, mlflow_run, model_card, prometheus, records, sarif
from memberscope.exports.interface import Exported, Format, Run

FORMATS: dict[str, Format] = {
    "junit": Format("junit.xml", "JUnit XML: a test a gate and a check", junit.write),
    "sarif": Format("memberscope.sarif", "SARIF 2.1.0: what failed, at its line of the configuration", sarif.write),
    "mlflow": Format("mlflow.db", "an MLflow run: metrics, parameters, artifacts", mlflow_run.write, judged=False),
    "model-card": Format("README.md", "a section of a Hugging Face model card", model_card.write),
    "prometheus": Format("memberscope.prom", "a file for node_exporter's textfile collector", prometheus.write),
    "csv": Format("records.csv", "a line a target and record", records.write_csv, judged=False),
    "parquet": Format("records.parquet", "the same, typed (extra: parquet)", records.write_parquet, judged=False),
}

__all__ = ["FORMATS", "Exported", "Format", "Run"]

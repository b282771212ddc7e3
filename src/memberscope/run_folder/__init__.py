"""A run folder of plain files: written, read back, judged again, sealed and verified."""

from memberscope.run_folder.manifest import Problem, Verification, digest_of, seal, verify
from memberscope.run_folder.read import judged, read_baselines, read_findings, report, write_judged
from memberscope.run_folder.write import as_json, export_run, write_run

__all__ = [
    "Problem",
    "Verification",
    "as_json",
    "digest_of",
    "export_run",
    "judged",
    "read_baselines",
    "read_findings",
    "report",
    "seal",
    "verify",
    "write_judged",
    "write_run",
]

"""Defences × targets: the paper's tables, trained, audited and set beside the published ones."""

from __future__ import annotations

from memberscope.study.config import PRESETS, SCALES, StudyConfig, preset, with_data, with_rows, with_seeds
from memberscope.study.run import run_study

__all__ = ["PRESETS", "SCALES", "StudyConfig", "preset", "run_study", "with_data", "with_rows", "with_seeds"]

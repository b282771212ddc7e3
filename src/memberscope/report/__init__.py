"""The report: findings as one self-contained page for every reader."""

from __future__ import annotations

from memberscope.report.html import render, write_report

__all__ = ["render", "write_report"]

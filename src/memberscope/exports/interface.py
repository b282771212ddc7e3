"""What an export gets, and what a configuration says of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from memberscope.errors import ConfigError
from memberscope.types import Findings

FormatName = Literal["junit", "sarif", "mlflow", "model-card", "prometheus", "csv", "parquet"]


@dataclass(frozen=True)
class Run:
    """A run to export.

    Args:
        findings: with ``run["digest"]``, the digest of the folder.
        folder: of the run; None if nothing was written.
    """

    findings: Findings
    folder: Path | None = None

    @property
    def digest(self) -> str:
        """The folder's digest; empty for a run that was never sealed."""
        return str(self.findings.run.get("digest", ""))


class Exported(BaseModel):
    """One export: its format, and where it goes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: FormatName
    out: str | None = Field(
        default=None, min_length=1, description="a file; of mlflow the tracking URI; exports/ of the run when None"
    )
    config: str | None = Field(default=None, description="of sarif: the configuration file that results point at")
    experiment: str = Field(default="memberscope", min_length=1, description="of mlflow: the experiment's name")

    @model_validator(mode="before")
    @classmethod
    def _no_secret(cls, values: object) -> object:
        if isinstance(values, str):
            values = {"format": values}
        out = values.get("out") if isinstance(values, dict) else None
        if isinstance(out, str) and "://" in out and "@" in out.split("://", 1)[1].split("/", 1)[0]:
            # Not a ValueError, which would be shown with the address and its password.
            raise ConfigError(
                "an address without a user and a password",
                "one with them (not shown)",
                "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead.",
            )
        return values


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        file: name of the file within ``exports/`` of a run.
        about: what it is, in a few words.
        write: writes a run to a place and says where it is.
        judged: whether the verdict stands in the file.
    """

    file: str
    about: str
    write: Callable[[Run, str, Exported], str]
    judged: bool = True

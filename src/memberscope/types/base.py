"""What every part of the findings is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_serializer, model_validator


class Model(BaseModel):
    """Base of everything in findings: immutable, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(Model):
    """A measured value with its 95 % interval, or the reason why there is none.

    >>> Figure(value=0.5, low=0.4, high=0.6).model_dump()
    {'value': 0.5, 'low': 0.4, 'high': 0.6}
    >>> Figure.not_measurable("too few non-members").model_dump()
    {'value': None, 'reason': 'too few non-members'}
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Figure:
        if self.value is None:
            if not self.reason or self.low is not None or self.high is not None:
                raise ValueError("a figure without a value has a reason and no interval")
        elif self.low is None or self.high is None or self.reason is not None or self.low > self.high:
            raise ValueError("a figure with a value has low <= high and no reason")
        return self

    @model_serializer
    def _dump(self) -> dict[str, Any]:
        if self.value is None:
            return {"value": None, "reason": self.reason}
        return {"value": self.value, "low": self.low, "high": self.high}

    @classmethod
    def not_measurable(cls, reason: str) -> Figure:
        """A figure that this audit cannot give, with the reason."""
        return cls(value=None, reason=reason)


class NotRun(Model):
    """An attack that the audit did not run, and why."""

    name: str
    reason: str


class Histogram(Model):
    """Score densities of members and non-members on common bin edges (one more edge than bins)."""

    attack: str
    edges: list[float]
    members: list[float]
    non_members: list[float]

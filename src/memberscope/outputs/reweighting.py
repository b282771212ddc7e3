"""Logit reweighting: every answer is drawn towards the centroid of the class that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import ConfigError, SignalsError
from memberscope.outputs.policy import OutputPolicy, checked_logits

Floats = NDArray[np.float64]

# How far beyond the tie, as shares of the way to the model's own answer, until rounding no longer undoes it.
_STEPS = (*(2.0**-power for power in (40, 30, 24, 20, 16, 12, 8, 4, 2, 1)), 1.0)
_PIECE = 1 << 15


class Reweighted(NamedTuple):
    """Answers ``(N, K)`` float32, and for which ``(N,)`` the centroid's share had to be lowered to keep the class."""

    outputs: NDArray[np.float32]
    shifted: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Reweighting(OutputPolicy):
    """z' = s z + (1 − s) μ_c with s = w cos(z, μ_c), c the predicted class (Khalil et al. 2025, METHODS §6).

    The predicted class never changes: where μ_c would change it, z gets the smallest larger share at which it does
    not, which is ``a* = max over k of −m_k / (d_k − m_k)`` with d = z_c − z and m = μ_c,c − μ_c. At w = 0.1 little
    more than the label is left of an answer.

    Args:
        centroids: ``(K, K)``, row c the mean training logits of class c.
        weight: w in [0, 1]; 0 serves the centroid alone, 1 the most of the model's own answer.
        stand_ins: classes without training records, whose centroid is made of the other classes'.

    Raises:
        ConfigError: centroids not square or not finite, or a weight out of range.
    """

    centroids: Floats
    weight: float = 0.1
    stand_ins: tuple[int, ...] = ()

    name: ClassVar[str] = "reweighting"
    title: ClassVar[str] = "Logit reweighting"
    source: ClassVar[str] = "Khalil et al. 2025"
    leaves: ClassVar[str] = (
        "The predicted class, and so the gap attack and every label-only attack; and, at a weight above 0, the "
        "answer's own deviation from the centroid, only smaller: references defended alike read it, and whoever knows "
        "the centroids can compute it back."
    )

    def __post_init__(self) -> None:
        centroids = np.array(self.centroids, np.float64)
        if centroids.ndim != 2 or centroids.shape[0] != centroids.shape[1] or len(centroids) < 2:
            raise ConfigError(
                "centroids of shape (K, K), a row of K logits for each of K >= 2 classes",
                f"shape {centroids.shape}",
                "Fit them with Reweighting.fit.",
            )
        if not (np.abs(centroids) <= 1e30).all():
            raise ConfigError("finite centroids", "NaN, infinity or larger numbers", "Fit them to a sound model.")
        if not 0 <= self.weight <= 1:
            raise ConfigError("a weight from 0 to 1", f"{self.weight}", "The paper's is 0.1.")
        centroids.flags.writeable = False
        object.__setattr__(self, "centroids", centroids)

    @classmethod
    def fit(cls, logits: NDArray[Any], labels: NDArray[np.int64], weight: float = 0.1) -> Self:
        """Centroids from a model's logits ``(N, K)`` on its own training records and their classes ``(N,)``.

        A class without training records gets a stand-in of the average shape of the others: the mean of their own
        logits in its own place, the mean of all other logits elsewhere.

        Raises:
            SignalsError: no records, labels out of range, or logits that are not finite.
        """
        array = np.asarray(logits)
        classes = array.shape[-1] if array.ndim == 2 else 0
        array = checked_logits(array, classes)
        labels = np.asarray(labels)
        if len(labels) != len(array) or not len(labels) or classes < 2 or labels.min() < 0 or labels.max() >= classes:
            raise SignalsError(
                "logits (N, K) of at least one training record and a label from 0 to K − 1 for each",
                f"logits of shape {array.shape} and {len(labels)} labels",
                "Give the logits of the model's own training records, with their labels.",
            )
        count = np.bincount(labels, minlength=classes)
        total = np.zeros((classes, classes))
        for start in range(0, len(array), _PIECE):
            where = slice(start, start + _PIECE)
            np.add.at(total, labels[where], array[where].astype(np.float64))
        known = count > 0
        centroids = total / np.maximum(count, 1)[:, None]
        own = centroids.diagonal()[known].mean()
        others = (centroids[known].sum() - centroids.diagonal()[known].sum()) / (known.sum() * (classes - 1))
        for missing in np.flatnonzero(~known):
            centroids[missing] = others
            centroids[missing, missing] = max(own, others)
        return cls(centroids, weight, tuple(np.flatnonzero(~known).tolist()))

    def __call__(self, logits: NDArray[Any]) -> NDArray[np.float32]:
        """See :class:`~memberscope.outputs.policy.OutputPolicy`."""
        return self.details(logits).outputs

    def details(self, logits: NDArray[Any]) -> Reweighted:
        """The answers to ``logits`` ``(N, K)``, and which of them needed a smaller share of the centroid."""
        array = checked_logits(logits, len(self.centroids))
        outputs = np.empty(array.shape, np.float32)
        shifted = np.empty(len(array), np.bool_)
        for start in range(0, len(array), _PIECE):
            where = slice(start, start + _PIECE)
            outputs[where], shifted[where] = self._piece(array[where])
        return Reweighted(outputs, shifted)

    def _piece(self, logits: NDArray[Any]) -> Reweighted:
        predicted = logits.argmax(axis=1)
        z, centroid = logits.astype(np.float64), self.centroids[predicted]
        share = self.weight * _cosine(z, centroid)
        outputs = _mix(share, z, centroid)
        shifted = outputs.argmax(axis=1) != predicted
        if shifted.any():
            outputs[shifted] = _kept(share[shifted], z[shifted], centroid[shifted], predicted[shifted])
        return Reweighted(outputs, shifted)

    def as_json(self) -> dict[str, Any]:
        """See :class:`~memberscope.outputs.policy.OutputPolicy`."""
        return {
            "policy": self.name,
            "weight": self.weight,
            "stand_ins": list(self.stand_ins),
            "centroids": self.centroids.tolist(),
        }

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """See :class:`~memberscope.outputs.policy.OutputPolicy`."""
        try:
            centroids = np.asarray(values["centroids"], np.float64)
            return cls(centroids, float(values["weight"]), tuple(int(k) for k in values.get("stand_ins", ())))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                "a reweighting policy with weight and centroids", f"{error}", "Write it with as_json."
            ) from error


def _cosine(a: Floats, b: Floats) -> Floats:
    """Cosine of each row of ``a`` with the same row of ``b``; 0 where one of them is zero."""
    largest = np.maximum(np.abs(a).max(axis=1), 1e-300), np.maximum(np.abs(b).max(axis=1), 1e-300)
    # Scaled first: squares of numbers near the ends of float64 would overflow or vanish.
    a, b = a / largest[0][:, None], b / largest[1][:, None]
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine: Floats = np.einsum("nk,nk->n", a, b) / np.where(lengths > 0, lengths, 1.0)
    return np.clip(cosine, -1.0, 1.0)


def _mix(share: Floats, z: Floats, centroid: Floats) -> NDArray[np.float32]:
    return (share[:, None] * z + (1 - share)[:, None] * centroid).astype(np.float32)


def _kept(share: Floats, z: Floats, centroid: Floats, predicted: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mixtures with the smallest share of z above ``share`` at which the predicted class stands, also once rounded."""
    rows = np.arange(len(z))
    lead = z[rows, predicted][:, None] - z
    centroid_lead = centroid[rows, predicted][:, None] - centroid
    # A class constrains the share only where z leads by more than the centroid does; c itself never.
    constrains = lead > centroid_lead
    least = np.where(constrains, -centroid_lead / np.where(constrains, lead - centroid_lead, 1.0), -np.inf).max(axis=1)
    least = np.clip(least, share, 1.0)
    outputs = np.empty(z.shape, np.float32)
    todo = rows
    for step in _STEPS:
        outputs[todo] = _mix(least[todo] + (1 - least[todo]) * step, z[todo], centroid[todo])
        todo = todo[outputs[todo].argmax(axis=1) != predicted[todo]]
    # Left over are answers whose lead is below float32: the class that was named stays the first.
    for row in todo:
        best = predicted[row]
        below = np.nextafter(outputs[row, best], np.float32(-np.inf))
        outputs[row, :best] = np.minimum(outputs[row, :best], below)
        outputs[row, best + 1 :] = np.minimum(outputs[row, best + 1 :], outputs[row, best])
    return outputs

"""What a record looks like: images as small PNGs inside the page, rows of a table as their telling values."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memberscope.report.format import number, percent
from memberscope.types import Dataset

# Larger images are reduced to this edge: a report with sixty of them stays small.
LARGEST = 96
SAMPLE = 2_000
LISTED = 5


@dataclass(frozen=True)
class Values:
    """A record's telling values: a heading, then (feature, value, how usual it is in the class)."""

    heading: str
    rows: list[tuple[str, str, str]]


def thumbnails(dataset: Dataset, indices: NDArray[np.int64]) -> list[str | None]:
    """PNG data URIs of the images at ``indices``; None for images that have neither one nor three channels."""
    if dataset.inputs.shape[1] not in (1, 3) or not len(indices):
        return [None] * len(indices)
    low, high = _tone_range(dataset.inputs)
    return [_data_uri(dataset.inputs[index], low, high) for index in indices]


def _tone_range(inputs: NDArray[np.generic]) -> tuple[float, float]:
    """The values of black and white: bytes and unit floats as they are, anything else by the images' own range."""
    sample = inputs[:: max(1, len(inputs) // SAMPLE)]
    low, high = float(sample.min()), float(sample.max())
    if inputs.dtype == np.uint8 and high > 64:
        return 0.0, 255.0
    if low >= 0 and 0.5 < high <= 1:
        return 0.0, 1.0
    return (low, high) if high > low else (low, low + 1)


def _data_uri(image: NDArray[np.generic], low: float, high: float) -> str:
    from PIL import Image

    tones = np.clip((image.astype(np.float64) - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)
    picture = Image.fromarray(tones[0] if len(tones) == 1 else np.ascontiguousarray(tones.transpose(1, 2, 0)))
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def unusual_values(dataset: Dataset, indices: NDArray[np.int64]) -> list[Values]:
    """For each row its rarest features (binary tables) or its values farthest from the mean of its class."""
    names = dataset.feature_names or tuple(f"feature {j}" for j in range(dataset.inputs.shape[1]))
    classes = {int(label): _class_sample(dataset, int(label)) for label in np.unique(dataset.labels[indices])}
    binary = all(np.isin(sample, (0, 1)).all() for sample in classes.values())
    describe = _rarest if binary else _farthest
    return [describe(dataset.inputs[i], classes[int(dataset.labels[i])], names) for i in indices]


def _class_sample(dataset: Dataset, label: int) -> NDArray[np.float32]:
    members = np.flatnonzero(dataset.labels == label)
    return dataset.inputs[members[:: max(1, len(members) // SAMPLE)]].astype(np.float32)


def _rarest(row: NDArray[np.generic], sample: NDArray[np.float32], names: tuple[str, ...]) -> Values:
    """The set features that fewest records of the class have."""
    share = sample.mean(axis=0)
    present = np.flatnonzero(row)
    order = present[np.argsort(share[present], kind="stable")][:LISTED]
    heading = f"{len(present)} of {len(row)} features set; the rarest in its class:"
    return Values(heading, [(names[j], "", f"{percent(float(share[j]))} of the class") for j in order])


def _farthest(row: NDArray[np.generic], sample: NDArray[np.float32], names: tuple[str, ...]) -> Values:
    """The values that lie most standard deviations from the class mean."""
    mean, deviation = sample.mean(axis=0), sample.std(axis=0)
    values = row.astype(np.float64)
    # A column that is constant in the class says something only when this record breaks the rule.
    distance = np.abs(values - mean) / np.where(deviation > 0, deviation, 1e-9)
    order = [int(j) for j in np.argsort(-distance, kind="stable")[:LISTED] if distance[j] > 0]
    rows = [(names[j], number(float(f"{values[j]:.4g}")), f"class mean {number(float(mean[j]))}") for j in order]
    return Values("Most unusual for its class:", rows)

"""What a record looks like: images as small PNGs inside the page, rows of a table as their telling values."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Look:
    """What a record looks like: a picture as a data URI, or its telling values."""

    image: str | None = None
    values: Values | None = None


def looks(dataset: Dataset | None, ids: Sequence[str]) -> dict[str, Look]:
    """The looks of the records with these ids, as far as the data hold them; by identity, never by position."""
    if dataset is None or not ids:
        return {}
    found = places(dataset, ids)
    known = [ident for ident in ids if ident in found]
    indices = np.array([found[ident] for ident in known], np.int64)
    if dataset.kind == "image":
        pictures = thumbnails(dataset, indices)
        return {ident: Look(image=picture) for ident, picture in zip(known, pictures, strict=True)}
    return {ident: Look(values=v) for ident, v in zip(known, unusual_values(dataset, indices), strict=True)}


def pixelated(dataset: Dataset | None) -> bool:
    """Whether the data's images are so small that their pixels are shown as squares."""
    return dataset is not None and dataset.kind == "image" and max(dataset.inputs.shape[2:]) <= 64


def thumbnails(dataset: Dataset, indices: NDArray[np.int64]) -> list[str | None]:
    """PNG data URIs of the images at ``indices``; None for images that have neither one nor three channels."""
    return [None if image is None else data_uri(image) for image in tones(dataset, indices)]


def tones(dataset: Dataset, indices: NDArray[np.int64]) -> list[NDArray[np.uint8] | None]:
    """The images at ``indices`` as bytes ``(H, W, 1 or 3)``; None for other numbers of channels."""
    if dataset.inputs.shape[1] not in (1, 3) or not len(indices):
        return [None] * len(indices)
    low, high = _tone_range(dataset.inputs)
    return [_tones(dataset.inputs[index], low, high) for index in indices]


def places(dataset: Dataset, ids: Sequence[str]) -> dict[str, int]:
    """The rows of the records with these ids."""
    found = np.flatnonzero(np.isin(dataset.ids, np.array(ids, np.str_))) if len(ids) else np.empty(0, np.int64)
    return {str(dataset.ids[index]): int(index) for index in found}


def _tone_range(inputs: NDArray[np.generic]) -> tuple[float, float]:
    """The values of black and white: bytes and unit floats as they are, anything else by the images' own range."""
    sample = inputs[:: max(1, len(inputs) // SAMPLE)]
    low, high = float(sample.min()), float(sample.max())
    if inputs.dtype == np.uint8 and high > 64:
        return 0.0, 255.0
    if low >= 0 and 0.5 < high <= 1:
        return 0.0, 1.0
    return (low, high) if high > low else (low, low + 1)


def _tones(image: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    bytes_ = np.clip((image.astype(np.float64) - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)
    return np.ascontiguousarray(bytes_.transpose(1, 2, 0))


def data_uri(image: NDArray[np.uint8]) -> str:
    """A PNG data URI of ``(H, W, 1 or 3)`` bytes, reduced to at most ``LARGEST`` pixels an edge."""
    from PIL import Image

    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
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

"""From a record to the request that asks about it, and to the key that its answer is kept under."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import ConfigError
from memberscope.targets.http.config import Endpoint
from memberscope.targets.http.secrets import Secrets

# Raise it when a record is written another way: answers to the old requests then no longer count.
_VERSION = 1

_BODIES: dict[str, Any] = {
    "predictions": {"instances": ["$INPUT"]},
    "open_inference": {
        "inputs": [{"name": "$NAME", "shape": "$SHAPE", "datatype": "$DATATYPE", "data": "$FLAT"}],
    },
}


@dataclass(frozen=True)
class Request:
    """One request with its secrets in: never printed, never kept."""

    uri: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes | None

    def __repr__(self) -> str:
        return "Request(...)"


@dataclass(frozen=True)
class Question:
    """One thing to ask: a record, or a perturbed copy of it.

    Args:
        key: what the answer is kept under: a hash of everything that is sent, secrets by name.
        record: id of the record that the request is counted for.
        values: the input as JSON, by placeholder.
    """

    key: str
    record: str
    values: Mapping[str, Any]


class Template:
    """Writes requests for one endpoint."""

    def __init__(self, endpoint: Endpoint, feature_names: Sequence[str] = ()) -> None:
        self.endpoint = endpoint
        self.feature_names = tuple(feature_names)
        body = _BODIES[endpoint.protocol] if endpoint.protocol else endpoint.request
        own = {"$NAME": endpoint.input.name, "$DATATYPE": endpoint.input.datatype}
        self.body = _fill(body, own) if endpoint.protocol else body
        if endpoint.input.form == "object" and not self.feature_names:
            raise ConfigError(
                "named features for input.form object", "inputs without names", "Give the candidates as a table."
            )
        plan = [_VERSION, endpoint.method, endpoint.uri, sorted(endpoint.headers.items()), self.body]
        self.digest = _sha256(json.dumps(plan, sort_keys=True))

    def question(self, record: str, inputs: NDArray[Any]) -> Question:
        """What to ask about ``inputs``, one record without the records' axis."""
        values = self._values(inputs)
        return Question(_sha256(self.digest + json.dumps(values, sort_keys=True)), record, values)

    def request(self, question: Question, secrets: Secrets) -> Request:
        """The request itself. Secrets go in before inputs, so that no input can name one."""
        endpoint = self.endpoint
        texts = {
            key: quote(json.dumps(value, separators=(",", ":")), safe="") for key, value in question.values.items()
        }
        uri = _fill(secrets.fill(endpoint.uri), texts)
        headers = {name: secrets.fill(value) for name, value in endpoint.headers.items()}
        body: bytes | None = None
        if self.body is not None:
            filled = _fill(secrets.fill(self.body), question.values)
            if isinstance(filled, str):
                body = filled.encode()
            else:
                body = json.dumps(filled, allow_nan=False).encode()
                if not any(name.lower() == "content-type" for name in headers):
                    headers["Content-Type"] = "application/json"
        if not any(name.lower() == "accept" for name in headers):
            headers["Accept"] = "application/json"
        return Request(uri, tuple((name.encode(), value.encode()) for name, value in headers.items()), body)

    def _values(self, inputs: NDArray[Any]) -> dict[str, Any]:
        form = self.endpoint.input
        array = np.asarray(inputs)
        if form.form == "object":
            return {"$INPUT": dict(zip(self.feature_names, array.tolist(), strict=True))}
        if form.form == "png":
            return {"$INPUT": _png(array)}
        if array.ndim == 3 and form.layout == "hwc":
            array = np.moveaxis(array, 0, 2)
        values: dict[str, Any] = {"$INPUT": array.tolist()}
        if self.endpoint.protocol == "open_inference":
            values |= {"$FLAT": array.reshape(-1).tolist(), "$SHAPE": [1, *array.shape]}
        return values


def _fill(template: Any, values: Mapping[str, Any]) -> Any:
    """A template with its placeholders replaced: a whole text by the value, inside a text by the value as JSON."""
    if isinstance(template, str):
        if template in values:
            return values[template]
        for name, value in values.items():
            if name in template:
                template = template.replace(name, value if isinstance(value, str) else json.dumps(value))
        return template
    if isinstance(template, Mapping):
        return {str(key): _fill(part, values) for key, part in template.items()}
    if isinstance(template, list | tuple):
        return [_fill(part, values) for part in template]
    return template


def _png(image: NDArray[Any]) -> str:
    """A (channels, height, width) image as a PNG in base64."""
    from PIL import Image

    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ConfigError(
            "images (channels, height, width) of 1 or 3 channels for input.form png",
            f"inputs of shape {image.shape}",
            "Use input.form list.",
        )
    pixels = np.moveaxis(image, 0, 2)
    if pixels.dtype != np.uint8:
        scale = 255 if pixels.max() <= 1 else 1
        pixels = np.clip(np.round(pixels * scale), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

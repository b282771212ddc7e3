"""From the JSON of an answer to the scores or the class in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import ConfigError, MissingExtraError
from memberscope.targets.http.config import Endpoint
from memberscope.targets.http.errors import SHOWN, EndpointError

# What a class goes by in a list of {"label": …, "score": …}, in order of preference.
_LABEL_KEYS = ("label", "class", "class_name", "name", "category", "class_id", "id")
_SCORE_KEYS = ("score", "probability", "confidence", "prob", "value", "logit")


@dataclass(frozen=True, eq=False)
class Answer:
    """What the endpoint said about one record.

    Args:
        scores: ``(K,)`` float64, NaN where a class was not shown; None for a class alone.
        names: of the classes of ``scores`` where the answer names them, else None.
        label: predicted class as text, None with scores.
    """

    scores: NDArray[np.float64] | None = None
    names: tuple[str, ...] | None = None
    label: str | None = None


class Parser:
    """Finds scores or a class in answers.

    Raises:
        ConfigError: a JSONPath that is none.
        MissingExtraError: python-jsonpath is not installed.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.path = endpoint.scores or endpoint.label or _default_path(endpoint)
        self.find = compile_path(self.path)
        # A path that is said to lead to the class is taken at its word.
        self.only_label = endpoint.kind == "labels" or (endpoint.scores is None and endpoint.label is not None)

    def __call__(self, body: Any, record: str) -> Answer:
        """The answer in ``body``.

        Raises:
            EndpointError: the path finds nothing or something else, or a score is no finite number.
        """
        found = self.find(body)
        if not found:
            raise EndpointError(
                f"scores or a class at {self.path} in the answer",
                f"nothing there for record {record!r}: {_shown(body)}",
                "Mend the JSONPath (scores, label or output); the answer is kept, and is not asked for again.",
            )
        value = found[0] if len(found) == 1 else found
        answer = self._label(value) if self.only_label else self._scores(value)
        if answer is None:
            raise EndpointError(
                f"numbers, one a class, or a class at {self.path}",
                f"{_shown(value)} for record {record!r}",
                "Mend the JSONPath so that it leads to the scores themselves.",
            )
        if answer.scores is not None and np.isinf(answer.scores).any():
            raise EndpointError(
                "finite scores", f"infinity for record {record!r}", "Mend the model: it answers with no numbers."
            )
        return answer

    def _label(self, value: Any) -> Answer | None:
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, list):
            numbers = _numbers(value)
            # One-hot, or scores of which only the highest is wanted.
            return None if numbers is None or np.isnan(numbers).any() else Answer(label=str(int(numbers.argmax())))
        return Answer(label=class_text(value)) if isinstance(value, str | int | float) else None

    def _scores(self, value: Any) -> Answer | None:
        while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
            value = value[0]
        if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
            return _named_list(value)
        if isinstance(value, Mapping):
            numbers = _numbers(list(value.values()))
            return None if numbers is None or not value else Answer(numbers, tuple(str(key) for key in value))
        if isinstance(value, list):
            if len(value) == 1 and isinstance(value[0], str):
                return Answer(label=value[0])
            numbers = _numbers(value)
            if numbers is None or not len(numbers):
                return None
            if len(numbers) == 1 and isinstance(value[0], int) and self.endpoint.kind == "auto":
                return Answer(label=str(value[0]))
            return Answer(numbers)
        if isinstance(value, str):
            return Answer(label=value)
        if isinstance(value, bool) or (isinstance(value, int) and self.endpoint.kind == "auto"):
            return Answer(label=class_text(value))
        return Answer(np.array([float(value)])) if isinstance(value, int | float) else None


def compile_path(path: str) -> Callable[[Any], list[Any]]:
    """A JSONPath (RFC 9535) as a function that finds values.

    Raises:
        ConfigError: it is none.
        MissingExtraError: python-jsonpath is not installed.

    >>> compile_path("$.outputs[0].data")({"outputs": [{"data": [0.1, 0.9]}]})
    [[0.1, 0.9]]
    """
    try:
        import jsonpath
    except ImportError as error:
        raise MissingExtraError.of("python-jsonpath", "endpoint", "reading an endpoint's answers") from error
    try:
        if not path.startswith("$"):
            raise ValueError("a path begins with $")
        return jsonpath.compile(path).findall
    except (jsonpath.JSONPathError, ValueError) as error:
        raise ConfigError(
            "a JSONPath such as $.predictions[0]", f"{path!r} ({str(error).splitlines()[0]})", "Mend the path."
        ) from None


def class_text(value: str | int | float) -> str:
    """A class as text; JSON has one type of number, and 3.0 is class 3.

    >>> class_text(3.0), class_text(True), class_text("cat")
    ('3', '1', 'cat')
    """
    if isinstance(value, str):
        return value
    return str(int(value)) if float(value).is_integer() else str(value)


def _default_path(endpoint: Endpoint) -> str:
    if endpoint.protocol == "open_inference":
        name = endpoint.output
        return f"$.outputs[?@.name == {json.dumps(name)}].data" if name else "$.outputs[0].data"
    return "$.predictions[0]"


def _numbers(values: list[Any]) -> NDArray[np.float64] | None:
    """Numbers, null for what is not shown, as an array; None if anything else is among them."""
    if any(value is not None and (isinstance(value, bool) or not isinstance(value, int | float)) for value in values):
        return None
    try:
        return np.array([np.nan if value is None else float(value) for value in values], np.float64)
    except OverflowError:
        return None


def _named_list(values: list[Mapping[str, Any]]) -> Answer | None:
    """[{"label": "cat", "score": .9}, …], as many servers give their best classes."""
    label = next((key for key in _LABEL_KEYS if key in values[0]), None)
    score = next((key for key in _SCORE_KEYS if key in values[0]), None)
    if label is None or score is None or any(label not in value or score not in value for value in values):
        return None
    numbers = _numbers([value[score] for value in values])
    if numbers is None or any(not isinstance(value[label], str | int | float) for value in values):
        return None
    return Answer(numbers, tuple(class_text(value[label]) for value in values))


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"

"""What the endpoint lets a client see, found in its answers; and the answers as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memberscope.targets.http.config import Endpoint
from memberscope.targets.http.errors import EndpointError
from memberscope.targets.http.parse import Answer, Parser, class_text

Floats = NDArray[np.float64]
Level = Literal["label", "top_k", "rounded", "scores", "logits"]

# As for Signals: further off is no distribution, unless every probability was rounded by itself.
_SUM_TOLERANCE = 1e-3
_MOST_DIGITS = 6


@dataclass(frozen=True)
class Seen:
    """What clients of an endpoint see.

    Args:
        level: of access.
        classes: how many the answers distinguish (1 for a single score); 0 for labels without ``classes``.
        digits: decimals of rounded scores.
        shown: of top-k, how many classes are shown.
        names: classes that the answers name, else empty.
    """

    level: Level
    classes: int
    digits: int | None = None
    shown: int | None = None
    names: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What was found, for people."""
        many = f" of {self.classes} classes" if self.classes > 1 else ""
        return {
            "label": "the predicted class alone",
            "top_k": f"the scores of the best {self.shown}{many}",
            "rounded": f"probabilities{many} rounded to {self.digits} decimal{'s' * (self.digits != 1)}",
            "scores": f"probabilities{many} in full precision",
            "logits": f"logits{many}",
        }[self.level]


@dataclass(frozen=True, eq=False)
class Given:
    """Answers as arrays, what was not shown filled in as an attacker would.

    Args:
        kind: as for ``Signals``.
        outputs: ``(N, K)`` float64, or ``(N,)`` classes.
        names: of the classes, in order.
    """

    kind: Literal["logits", "probabilities", "labels"]
    outputs: NDArray[np.float64] | NDArray[np.int64]
    names: tuple[str, ...]


def detect(answers: Mapping[str, Answer], endpoint: Endpoint, class_names: Sequence[str]) -> Seen:
    """The access that ``answers`` (by record) give.

    Args:
        answers: at least one.
        endpoint: may say the kind and the classes.
        class_names: of the candidates.

    Raises:
        EndpointError: answers of several kinds or numbers of classes, or scores that are neither probabilities nor
            logits.
    """
    first_record, first = next(iter(answers.items()))
    for record, answer in answers.items():
        if (answer.scores is None) != (first.scores is None) or not _alike(answer, first):
            raise _changed(first, answer, record, first_record)
    if first.scores is None:
        _check_labels(answers, endpoint, class_names)
        return Seen("label", len(endpoint.classes))
    names = _names(answers, endpoint, class_names)
    index = {name: place for place, name in enumerate(names)}
    width = len(names) if first.names is not None else len(first.scores)
    if endpoint.classes and first.names is None and width not in (len(endpoint.classes), 1):
        raise EndpointError(
            f"{len(endpoint.classes)} scores, one for each of classes",
            f"{width} for record {first_record!r}",
            "Mend classes or the JSONPath.",
        )
    rows = np.stack([_row(answer, index, width) for answer in answers.values()])
    if endpoint.kind == "logits" or (endpoint.kind == "auto" and (np.nanmin(rows) < 0 or np.nanmax(rows) > 1 + 1e-3)):
        return _of_logits(rows, names, endpoint, answers)
    digits = decimals(rows)
    shown = (~np.isnan(rows)).sum(axis=1)
    if shown.min() < width:
        return Seen("top_k", width, digits, int(shown.max()), names)
    positive = (rows > 0).sum(axis=1)
    hidden = width > 2 and positive.max() < width and len(set(positive.tolist())) == 1
    totals = rows.sum(axis=1)
    allowed = _SUM_TOLERANCE + (0.0 if digits is None else 0.5 * 10.0**-digits * width)
    if width > 1 and hidden and (totals < 1 - allowed).any() and totals.max() <= 1 + allowed:
        return Seen("top_k", width, digits, int(positive.max()), names)
    if width > 1 and (np.abs(totals - 1) > allowed).any():
        bad = list(answers)[int(np.argmax(np.abs(totals - 1)))]
        raise EndpointError(
            "probabilities that sum to 1, or logits",
            f"scores between {rows.min():.4g} and {rows.max():.4g} that sum to {totals.min():.4g} to "
            f"{totals.max():.4g} (record {bad!r})",
            "Check the JSONPath; if they are logits say kind: logits, if one class is meant point at its score alone.",
        )
    if rows.min() < 0 or rows.max() > 1 + _SUM_TOLERANCE:
        raise EndpointError(
            "probabilities between 0 and 1",
            f"values from {rows.min():.4g} to {rows.max():.4g}",
            "Say kind: logits, or leave kind out.",
        )
    if digits == 0 and width > 1:
        return Seen("label", width, names=names)
    return Seen("scores" if digits is None else "rounded", width, digits, names=names)


class Watch:
    """Sees every answer as it comes, so that an endpoint that changes midway is not asked any further."""

    def __init__(self, parser: Parser, class_names: Sequence[str]) -> None:
        self.parser, self.class_names = parser, tuple(class_names)
        self._first: tuple[str, Answer] | None = None

    def __call__(self, record: str, body: Any) -> Answer:
        """The answer in ``body``.

        Raises:
            EndpointError: as the parser, or another kind of answer, another number of classes, or a class not known.
        """
        answer = self.parser(body, record)
        if self._first is None:
            self._first = record, answer
        first_record, first = self._first
        if (answer.scores is None) != (first.scores is None) or not _alike(answer, first):
            raise _changed(first, answer, record, first_record)
        if self.parser.endpoint.classes:
            _check_labels({record: answer}, self.parser.endpoint, self.class_names)
        if answer.names is not None:
            _names({record: answer}, self.parser.endpoint, self.class_names)
        return answer


def _check_labels(answers: Mapping[str, Answer], endpoint: Endpoint, class_names: Sequence[str]) -> None:
    """Predicted classes must be known where they were named, and at least one of them in any case."""
    said = {record: answer.label for record, answer in answers.items() if answer.label is not None}
    known = set(endpoint.classes) or set(class_names)
    strange = {record: label for record, label in said.items() if label not in known}
    if strange and (endpoint.classes or len(strange) == len(said)):
        record, label = next(iter(strange.items()))
        raise EndpointError(
            f"a class among {', '.join(sorted(known)[:12])}",
            f"{label!r} for record {record!r}",
            "Name every class in classes, in the order of the labels, as the endpoint calls them.",
        )


def _of_logits(rows: Floats, names: tuple[str, ...], endpoint: Endpoint, answers: Mapping[str, Answer]) -> Seen:
    if np.isnan(rows).any():
        raise EndpointError(
            "a logit for every class",
            f"none for some classes of record {list(answers)[int(np.argmax(np.isnan(rows).any(axis=1)))]!r}",
            "Ask for all classes, or for probabilities.",
        )
    totals = rows.sum(axis=1)
    if endpoint.kind == "auto" and rows.shape[1] > 1 and rows.min() >= 0 and np.ptp(totals) <= 1e-3 * totals.mean():
        raise EndpointError(
            "probabilities that sum to 1, or logits",
            f"scores that always sum to {totals.mean():.4g}",
            "If they are per cent, let the endpoint divide them; if they are logits say kind: logits.",
        )
    return Seen("logits", rows.shape[1], names=names)


def arrays(answers: Sequence[Answer], seen: Seen, class_names: Sequence[str]) -> Given:
    """Answers, in the order given, as arrays of the kind seen.

    Of top-k answers the classes not shown share what is left of 1 evenly, none more than the least that is shown.
    """
    if seen.level == "label":
        if answers and answers[0].scores is not None:
            index = {name: place for place, name in enumerate(seen.names)}
            rows = np.stack([_row(answer, index, seen.classes) for answer in answers])
            return Given("labels", rows.argmax(axis=1).astype(np.int64), _all_names(seen, class_names))
        known = list(class_names)
        known += sorted({str(answer.label) for answer in answers} - set(known))
        place = {name: number for number, name in enumerate(known)}
        labels = np.array([place[str(answer.label)] for answer in answers], np.int64)
        return Given("labels", labels, tuple(known))
    index = {name: number for number, name in enumerate(seen.names)}
    rows = np.stack([_row(answer, index, seen.classes) for answer in answers])
    if seen.level == "top_k":
        rows = fill_hidden(rows, seen.shown or 1)
    return Given("logits" if seen.level == "logits" else "probabilities", rows, _all_names(seen, class_names))


def fill_hidden(rows: Floats, shown: int) -> Floats:
    """Probabilities of which only the best are known, ``(N, K)`` with NaN or 0 for the others, made whole.

    >>> fill_hidden(np.array([[0.7, np.nan, 0.2, np.nan, np.nan]]), 2).round(3).tolist()
    [[0.7, 0.033, 0.2, 0.033, 0.033]]
    """
    rows = np.nan_to_num(rows, nan=0.0)
    hidden = rows <= 0
    count = np.maximum(hidden.sum(axis=1), 1)
    rest = np.maximum(1 - rows.sum(axis=1), 0.0)
    share = np.minimum(rest / count, np.where(hidden, np.inf, rows).min(axis=1))
    filled = np.where(hidden, share[:, None], rows)
    return np.asarray(filled / filled.sum(axis=1, keepdims=True), np.float64)


def only_best(probabilities: Floats, shown: int) -> Floats:
    """``(…, K)`` probabilities of which only the best are left, NaN for the others: as the target is seen."""
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    kept = np.full_like(probabilities, np.nan)
    best = order[..., :shown]
    np.put_along_axis(kept, best, np.take_along_axis(probabilities, best, axis=-1), axis=-1)
    return kept


def decimals(rows: Floats) -> int | None:
    """Decimals to which every number was rounded, None if they were not (more than six)."""
    known = rows[~np.isnan(rows)]
    for digits in range(_MOST_DIGITS + 1):
        if (np.abs(known - np.round(known, digits)) <= 4 * np.spacing(np.abs(known))).all():
            return digits
    return None


def _row(answer: Answer, index: Mapping[str, int], width: int) -> Floats:
    assert answer.scores is not None
    if answer.names is None:
        return answer.scores
    row = np.full(width, np.nan)
    row[[index[name] for name in answer.names]] = answer.scores
    return row


def _alike(answer: Answer, first: Answer) -> bool:
    if (answer.names is None) != (first.names is None):
        return False
    return (
        answer.names is not None
        or answer.scores is None
        or first.scores is None
        or (len(answer.scores) == len(first.scores))
    )


def _names(answers: Mapping[str, Answer], endpoint: Endpoint, class_names: Sequence[str]) -> tuple[str, ...]:
    """Classes in order where answers name them; empty where scores stand in order."""
    named = {name for answer in answers.values() for name in answer.names or ()}
    if not named:
        return ()
    known = tuple(endpoint.classes) or tuple(class_names)
    strange = sorted(named - set(known))
    if not strange:
        return known
    if endpoint.classes or not all(name.isdigit() for name in named):
        record = next(record for record, answer in answers.items() if set(answer.names or ()) & set(strange))
        raise EndpointError(
            f"classes among {', '.join(known[:12])}",
            f"{strange[0]!r} for record {record!r}",
            "Name every class in classes, in the order of the labels, as the endpoint calls them.",
        )
    return tuple(str(number) for number in range(max(int(name) for name in named | set(known)) + 1))


def _all_names(seen: Seen, class_names: Sequence[str]) -> tuple[str, ...]:
    if seen.names:
        return seen.names
    width = 2 if seen.classes == 1 else seen.classes
    return tuple(class_names) if len(class_names) >= width else tuple(str(k) for k in range(width))


def _changed(first: Answer, answer: Answer, record: str, first_record: str) -> EndpointError:
    def what(one: Answer) -> str:
        if one.scores is None:
            return f"the class {class_text(one.label or '')!r} alone"
        return f"{len(one.scores)} scores{' by name' if one.names is not None else ''}"

    return EndpointError(
        f"answers alike: {what(first)}, as for record {first_record!r}",
        f"{what(answer)} for record {record!r}",
        "The model behind the endpoint seems to have changed: audit one version, in a folder of its own (--out).",
    )

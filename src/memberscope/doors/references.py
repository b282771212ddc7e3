"""Reference models trained by code of the user's: in parallel, one thread each, kept as they finish."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from memberscope.data.membership import complementary_pairs
from memberscope.doors.candidates import Classes
from memberscope.doors.outputs import kind_of
from memberscope.errors import ConfigError, MemberscopeError, SignalsError
from memberscope.files import read_json, read_npy, sha256_arrays, sha256_file, sha256_json, write_json, write_npy
from memberscope.progress import progress
from memberscope.targets import Answers, as_target
from memberscope.targets.inputs import fingerprint, joined, take
from memberscope.training.engines import get_engine

Fit = Callable[[Any, Any, int], Any]
Kind = Literal["logits", "probabilities", "labels"]

SCHEMA = 1

# A reference of another size than the target's behaves differently (MS008).
_ALIKE = 0.05


def design(members: NDArray[np.bool_], references: int, seed: int) -> NDArray[np.bool_]:
    """Which records each reference trains on, ``(R, N)``.

    Complementary halves where the target was trained on half of the records, so that every record is IN in half of
    the references; elsewhere draws of the target's own number of records, each independent of the others.
    """
    n, size = len(members), int(members.sum())
    rng = np.random.default_rng([seed, 21])
    if abs(size - n / 2) <= _ALIKE * n / 2:
        return complementary_pairs(references + references % 2, n, rng)[:references]
    rows = np.zeros((references, n), np.bool_)
    for row in rows:
        row[rng.permutation(n)[:size]] = True
    return rows


@dataclass(frozen=True, eq=False)
class Clone:
    """Fits a copy of an estimator, its random state set to the seed."""

    estimator: Any

    @property
    def __name__(self) -> str:
        return f"clone of {type(self.estimator).__name__}"

    def __call__(self, inputs: Any, labels: Any, seed: int) -> Any:
        from sklearn.base import clone

        model = clone(self.estimator)
        settings = model.get_params(deep=True)
        # References run side by side, a thread each; results do not depend on n_jobs.
        fixed = {name: seed for name in settings if name.split("__")[-1] == "random_state"}
        fixed |= {name: 1 for name, value in settings.items() if name.split("__")[-1] == "n_jobs" and value is not None}
        return model.set_params(**fixed).fit(inputs, labels)

    def describe(self) -> Any:
        """What the fit depends on, for :func:`description`."""
        import sklearn

        settings = {name: repr(value) for name, value in self.estimator.get_params(deep=True).items()}
        return ["clone", type(self.estimator).__qualname__, sklearn.__version__, sorted(settings.items())]


def as_fits(fit: Any, model: Any) -> tuple[Fit, ...]:
    """The functions that train references.

    Raises:
        ConfigError: neither a function nor a list of them nor ``"clone"``, or a model that cannot be cloned.
    """
    given = list(fit) if isinstance(fit, list | tuple) else [fit]
    fits: list[Fit] = []
    for each in given:
        if each == "clone" or hasattr(each, "get_params"):
            source = model if isinstance(each, str) else each
            source = getattr(source, "model", source)
            if not hasattr(source, "get_params") or not hasattr(source, "fit"):
                raise ConfigError(
                    "an estimator of scikit-learn's kind to clone",
                    type(source).__name__,
                    "Give fit=, a function fit(X, y, seed) that returns a trained model.",
                )
            fits.append(Clone(source))
        elif callable(each):
            fits.append(each)
        else:
            raise ConfigError(
                "fit(X, y, seed), which returns a trained model, an estimator, 'clone', or a list of them",
                repr(each),
                "Give such a function.",
            )
    if not fits:
        raise ConfigError("at least one fit", "an empty list", "Give a function fit(X, y, seed).")
    return tuple(fits)


def description(fit: Any) -> Any:
    """What a fit is, as JSON: its code, its defaults and what it closes over; not the code that it calls."""
    if isinstance(fit, Clone):
        return fit.describe()
    inner = getattr(fit, "func", None)
    if inner is not None:
        return ["partial", description(inner), _content((fit.args, sorted(fit.keywords.items())))]
    function = fit if inspect.isfunction(fit) else vars(type(fit)).get("__call__")
    code = getattr(function, "__code__", None)
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    state = [_content(each) for each in (*cells, *(getattr(function, "__defaults__", None) or ()))]
    if not inspect.isfunction(fit):
        state.append(_content(getattr(fit, "__dict__", {})))
    return ["function", getattr(fit, "__qualname__", type(fit).__qualname__), _code(code), state]


def _code(code: CodeType | None) -> Any:
    if code is None:
        return None
    constants = [_code(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]


def _content(value: Any) -> str:
    if inspect.isfunction(value):
        return sha256_json(description(value))
    try:
        return fingerprint(value)
    except Exception:
        # What cannot be hashed by content is taken for what it calls itself.
        return type(value).__qualname__


@dataclass(frozen=True, eq=False)
class Training:
    """Trains one reference, asks it about every record, and writes what it says; sent to workers as it is.

    Args:
        inputs, labels: of the candidates, labels as a fit is given them.
        members: ``(R, N)`` of the references.
        stand_in: further records ``(X, y)`` of which each reference trains on a random half, None without.
        fits: taken in turn.
        seeds: one a reference.
        classes: of the target.
        kind: of the target's outputs, which the references' are brought to.
        width: number of the target's scores.
        ask: of estimators, how they are asked; None for the most.
        batch_size, device: as of the target.
        folder: where ``NNNNN.npy`` and what describes it go.
        content: hash of the records.
    """

    inputs: Any
    labels: NDArray[Any]
    members: NDArray[np.bool_]
    stand_in: tuple[Any, NDArray[Any]] | None
    fits: tuple[Fit, ...]
    seeds: tuple[int, ...]
    classes: Classes
    kind: Kind
    width: int
    ask: str | None
    batch_size: int
    device: str
    folder: Path
    content: str

    def path(self, row: int) -> Path:
        """Where the answers of a reference go."""
        return self.folder / f"{row + 1:05d}.npy"

    def source(self, row: int) -> dict[str, Any]:
        """What the answers depend on."""
        fit = self.fits[row % len(self.fits)]
        return {
            "schema": SCHEMA,
            "data": self.content,
            "members": sha256_arrays(self.members[row]),
            "seed": self.seeds[row],
            "fit": sha256_json(description(fit)),
            "classes": list(self.classes.names),
            "kind": self.kind,
            "width": self.width,
            "ask": self.ask,
        }

    def finished(self, row: int) -> bool:
        """Whether the answers are there and still right."""
        path = self.path(row)
        sidecar = path.with_suffix(".json")
        if not path.exists() or not sidecar.exists():
            return False
        known = read_json(sidecar)
        return bool(known.get("source") == self.source(row) and known.get("sha256") == sha256_file(path))

    def __call__(self, row: int) -> int:
        """Train, ask and write; the row."""
        fit = self.fits[row % len(self.fits)]
        index = np.flatnonzero(self.members[row])
        inputs, labels = take(self.inputs, index), self.labels[index]
        if self.stand_in is not None:
            more, their = self.stand_in
            half = np.sort(np.random.default_rng([self.seeds[row], 22]).permutation(len(their))[: len(their) // 2])
            inputs, labels = joined(inputs, take(more, half)), np.concatenate([labels, their[half]])
        name = getattr(fit, "__name__", type(fit).__name__)
        with threadpool_limits(1):
            try:
                model = fit(inputs, labels, self.seeds[row])
            except MemberscopeError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"{name} to train reference {row + 1} on {len(labels):,} records",
                    f"{type(error).__name__}: {error}",
                    "Make it work on any half of the records: fit(X, y, seed) -> model.",
                ) from error
            if model is None:
                raise ConfigError(f"a trained model from {name}", "None", "Return the model.")
            target = as_target(model, ask=self.ask if hasattr(model, "predict") else None, batch_size=self.batch_size,
                               device=self.device)  # fmt: skip
            values = self.aligned(target(self.inputs), target.classes, name)
        write_npy(self.path(row), values)
        write_json(
            self.path(row).with_suffix(".json"), {"source": self.source(row), "sha256": sha256_file(self.path(row))}
        )
        return row

    def aligned(self, answers: Answers, known: Sequence[Any] | None, name: str) -> NDArray[Any]:
        """A reference's answers as the target gives them: same classes, same kind."""
        return aligned(answers, known, self.classes, self.kind, self.width, name)


def aligned(
    answers: Answers, known: Sequence[Any] | None, classes: Classes, kind: Kind, width: int, name: str
) -> NDArray[Any]:
    """Answers with the classes and of the kind that are wanted.

    Args:
        answers: of one model.
        known: its classes, if it says so: a model that never saw a class has no score for it.
        classes: wanted.
        kind: wanted; ``"labels"`` ``(N, 1)``, else ``(N, 1, width)``.
        width: wanted number of scores.
        name: of the model, for errors.

    Raises:
        SignalsError: labels where scores are wanted, or another number of scores.
    """
    values = answers.values
    n, k = len(values), len(classes.names)
    if answers.kind == "labels":
        if kind != "labels":
            raise SignalsError(
                f"{kind} from {name}, as from the target",
                "predicted classes alone",
                "Return a model that gives scores.",
            )
        return classes.encode(values, f"predictions of {name}")[:, None]
    scores = np.asarray(values, values.dtype)
    found = answers.kind if answers.kind != "scores" else kind_of(scores, _row_names(n), name)
    own = k if known is None else len(known)
    if scores.shape[1] == 1 and own <= 2 and (width != 1 or kind == "labels"):
        scores = np.concatenate([1 - scores if found == "probabilities" else np.zeros_like(scores), scores], axis=1)
    if known is not None and scores.shape[1] == own and scores.shape[1] > 1:
        place = classes.encode(np.array([str(each) for each in known]), f"classes of {name}")
        if not np.array_equal(place, np.arange(k)):
            # A class that the model never saw: no probability, or the lowest of the scores.
            spread = np.zeros((n, k), scores.dtype)
            if found == "logits":
                spread += scores.min(axis=1, keepdims=True)
            spread[:, place] = scores
            scores = spread
    if kind == "labels":
        return np.asarray(scores.argmax(axis=1), np.int64)[:, None]
    if scores.shape[1] != width:
        raise SignalsError(
            f"{width} scores a record from {name}, as from the target",
            f"{scores.shape[1]}",
            "Return models of the same classes as the target.",
        )
    if found == "logits" and kind == "probabilities":
        scores = _softmax(scores)
    elif found == "probabilities" and kind == "logits":
        scores = _log_odds(scores)
    return scores[:, None, :]


def _row_names(n: int) -> NDArray[np.str_]:
    return np.arange(n).astype(np.str_)


def _softmax(z: NDArray[Any]) -> NDArray[np.float64]:
    z = np.asarray(z, np.float64)
    if z.shape[1] == 1:
        return np.asarray(1 / (1 + np.exp(-z)))
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _log_odds(p: NDArray[Any]) -> NDArray[np.float64]:
    p = np.asarray(p, np.float64)
    positive = p[p > 0]
    least = max(float(positive.min()) / 2 if positive.size else 0.5, float(np.finfo(np.float64).tiny))
    if p.shape[1] == 1:
        return np.asarray(np.log(np.maximum(p, least)) - np.log(np.maximum(1 - p, least)))
    return np.asarray(np.log(np.maximum(p, least)))


def train_references(training: Training, workers: int | None, quiet: bool) -> list[NDArray[Any]]:
    """Every reference's answers; what is finished is kept, however the last run ended.

    Raises:
        ConfigError: a fit that fails, or that returns the same model every time.
    """
    count = len(training.members)
    todo = [row for row in range(count) if not training.finished(row)]
    engine = get_engine("serial" if workers == 1 or len(todo) <= 1 else "processes", workers)
    done = count - len(todo)
    with (
        progress(f"training {count} references", count, done=done, quiet=quiet) as show,
        closing(engine.run(training, todo, threads=1)) as results,
    ):
        for _ in results:
            done += 1
            show(done)
    return [read_npy(training.path(row), mmap=True) for row in range(count)]


def check_different(answers: Sequence[NDArray[Any]], target: NDArray[Any], names: Sequence[str]) -> None:
    """Raise a ConfigError where references are one model, or the target itself.

    Labels alone agree between good models, and are not looked at.
    """
    if target.ndim < 3 or not answers:
        return
    same = [bool(np.array_equal(each, target)) for each in answers]
    if all(same):
        raise ConfigError(
            f"models trained on the records given to {names[0]}",
            "the target's own answers from every one",
            "Make fit(X, y, seed) train a new model; do not return the audited one.",
        )
    first = answers[0]
    if len(answers) > 1 and all(np.array_equal(first, each) for each in answers[1:]):
        raise ConfigError(
            f"a model of its own for every reference from {names[0]}",
            f"the same answers from all {len(answers)}",
            "Make fit(X, y, seed) train on the X and y it is given: each reference gets other records.",
        )


def seeds_of(seed: int, references: int) -> tuple[int, ...]:
    """A seed a reference, below 2³¹; more references begin with the seeds of fewer."""
    drawn = np.random.default_rng([seed, 23]).integers(0, 2**31 - 1, references)
    return tuple(int(each) for each in drawn)


def facts(training: Training) -> Mapping[str, Any]:
    """How references were trained, for the findings."""
    names = [getattr(fit, "__name__", type(fit).__name__) for fit in training.fits]
    return {"references_by": names, "reference_records": int(training.members[0].sum())}

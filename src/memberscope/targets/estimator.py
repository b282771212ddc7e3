"""A scikit-learn estimator, or anything that answers like one; from disk through skops alone."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from memberscope.errors import ConfigError, DataError, MissingExtraError, SignalsError
from memberscope.targets.inputs import count, plain
from memberscope.targets.interface import Answers, checked

Method = Literal["predict_proba", "decision_function", "predict"]
# Types of scikit-learn's own that skops does not vouch for, reviewed here: they hold arrays and plain settings, import
# nothing and call nothing when they are loaded. (A damaged tree can still end the process.)
REVIEWED = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)

METHODS: tuple[Method, ...] = ("predict_proba", "decision_function", "predict")


@dataclass(frozen=True, eq=False)
class Estimator:
    """A fitted classifier.

    Args:
        model: with ``predict_proba``, ``decision_function`` or at least ``predict``.
        asked: which of them is asked.
    """

    model: Any
    asked: Method

    @classmethod
    def of(cls, model: Any, ask: str | None = None) -> Estimator:
        """The estimator, asked for the most it gives, or for ``ask``.

        Raises:
            ConfigError: not fitted, no classifier, or no such method.
        """
        name = type(model).__name__
        if ask is not None and ask not in METHODS:
            raise ConfigError(f"ask among {', '.join(METHODS)}", repr(ask), "Leave it out to ask for the most.")
        _check_fitted(model, name)
        method = next((m for m in METHODS if (ask in (None, m)) and hasattr(model, m)), None)
        if method is None:
            raise ConfigError(
                f"an estimator with {ask or 'predict'}", f"{name} without it", "Leave ask= out, or give a classifier."
            )
        return cls(model, method)

    @property
    def name(self) -> str:
        """See :class:`~memberscope.targets.interface.Target`."""
        return type(self.model).__name__

    @property
    def classes(self) -> tuple[Any, ...] | None:
        """See :class:`~memberscope.targets.interface.Target`."""
        found = getattr(self.model, "classes_", None)
        if isinstance(found, list):
            raise ConfigError(
                "a classifier with one output", f"{self.name} with {len(found)}", "Audit each output by itself."
            )
        return None if found is None else tuple(np.asarray(found).tolist())

    def __call__(self, inputs: Any) -> Answers:
        """See :class:`~memberscope.targets.interface.Target`."""
        try:
            answer = getattr(self.model, self.asked)(inputs)
        except Exception as error:
            raise DataError(
                f"records that {self.name} takes",
                f"shape {tuple(inputs.shape)}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                "Prepare the records as for training, with the same columns.",
            ) from error
        if isinstance(answer, list):
            raise ConfigError(
                "a classifier with one output", f"{self.name} with {len(answer)}", "Audit each output by itself."
            )
        values = plain(answer)
        if self.asked == "predict":
            return Answers("labels", values.reshape(-1))
        found = checked(values, count(inputs), self.name)
        classes = self.classes
        width = found.values.shape[1]
        if classes is not None and width != len(classes) and not (width == 1 and len(classes) == 2):
            raise SignalsError(
                f"{len(classes)} scores a record from {self.name}.{self.asked}",
                f"{width}",
                "For one score a pair of classes set decision_function_shape='ovr', or give ask='predict'.",
            )
        return Answers("probabilities" if self.asked == "predict_proba" else "logits", found.values)


def _check_fitted(model: Any, name: str) -> None:
    try:
        from sklearn.base import BaseEstimator, is_regressor
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted
    except ImportError as error:  # pragma: no cover - the core depends on it
        raise MissingExtraError.of("scikit-learn", "sklearn", "auditing an estimator") from error
    if isinstance(model, type):
        raise ConfigError("a fitted estimator", f"the class {model.__name__}", "Make an instance and fit it.")
    if not isinstance(model, BaseEstimator):
        return
    try:
        check_is_fitted(model)
    except (NotFittedError, TypeError) as error:
        raise ConfigError(
            "a fitted estimator", f"{name} that was not fitted", "Fit it on the members first, then audit it."
        ) from error
    if is_regressor(model):
        raise ConfigError("a classifier", f"the regressor {name}", "Membership attacks need classes.")


def load_skops(path: Path, trusted: Sequence[str] = ()) -> Any:
    """The estimator that ``skops.io.dump`` wrote to ``path``.

    Args:
        path: the file.
        trusted: types that you have reviewed, beside :data:`REVIEWED` and those that skops itself vouches for.

    Raises:
        MissingExtraError: skops is not installed.
        DataError: another file; a pickle is refused, never loaded.
        ConfigError: the file holds types that are on no list.
    """
    check_saved(path)
    try:
        import skops.io as sio
    except ImportError as error:
        raise MissingExtraError.of("skops", "sklearn", f"loading {path.name}") from error
    if not zipfile.is_zipfile(path):
        raise DataError(f"a file that skops.io.dump wrote at {path}", "another kind of file", "Save it with skops.")
    try:
        allowed = {*REVIEWED, *trusted}
        found = set(sio.get_untrusted_types(file=path))
        unknown = sorted(found - allowed)
        if unknown:
            raise ConfigError(
                f"types in {path} that are known to be safe",
                ", ".join(unknown[:8]),
                "Review them, since loading runs their code, and name them in trusted=.",
            )
        return sio.load(path, trusted=sorted(found))
    except ConfigError:
        raise
    except Exception as error:
        raise DataError(
            f"a whole skops file at {path}", f"{type(error).__name__}: {error}", "Save the estimator again with skops."
        ) from error


def check_saved(path: Path) -> None:
    """Refuse a missing file and anything that only unpickling could read.

    Raises:
        DataError: no such file, or a pickle.
    """
    if not path.is_file():
        raise DataError(f"a model file {path}", "a folder" if path.is_dir() else "no such file", "Check the path.")
    with path.open("rb") as file:
        start = file.read(2)
    pickled = start[:1] == b"\x80" or path.suffix.lower() in (".pkl", ".pickle", ".joblib", ".dill")
    if pickled:
        raise DataError(
            f"a model file that can be loaded safely at {path}",
            "a pickle, which is never loaded because it can run code",
            "Save scikit-learn models with skops.io.dump, PyTorch ones as safetensors, others as ONNX; or load it "
            "yourself and pass the model to audit_model.",
        )

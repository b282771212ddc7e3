"""What the leaking records are and why: every analysis that the audit has what it needs for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from memberscope.analysis.embedding import embedding
from memberscope.analysis.outlier_scores import ModelView
from memberscope.analysis.outliers import outliers
from memberscope.analysis.trajectory import loss_trace, trajectory
from memberscope.analysis.vulnerability import VulnerableSet, vulnerability, vulnerable_set
from memberscope.auditing import Examination
from memberscope.errors import MemberscopeError, SignalsError
from memberscope.progress import progress
from memberscope.signals.distributions import resolution
from memberscope.signals.references import design
from memberscope.training.engines import Engine
from memberscope.training.traces import Traces
from memberscope.types import Dataset, Pool, Signals
from memberscope.types.analyses import Analyses, Embedding
from memberscope.types.base import NotRun

T = TypeVar("T")

# In the order in which they are made and shown.
ANALYSES = ("trajectory", "vulnerability", "outliers", "embedding", "attribution")
TITLES = {
    "trajectory": "leakage over the epochs",
    "vulnerability": "vulnerable records",
    "outliers": "whether they are outliers",
    "embedding": "t-SNE map",
    "attribution": "where the model looks",
}

# Models whose features are read: every record of a paired design is held out of half of them.
VIEWS = 8


@dataclass(frozen=True)
class Material:
    """What an audit has beyond its signals; what is missing leaves out the analyses that need it.

    Args:
        dataset: the records behind the signals.
        pool: the models behind them.
        folder: where features of the pool's models are kept.
        device: on which models are asked.
        engine: who asks them.
        workers: processes at once.
    """

    dataset: Dataset | None = None
    pool: Pool | None = None
    folder: Path | None = None
    device: str = "cpu"
    engine: str | Engine = "serial"
    workers: int | None = None


def analyse(
    signals: Signals,
    found: Examination,
    material: Material | None = None,
    *,
    chosen: Sequence[str] = ANALYSES,
    seed: int = 0,
    quiet: bool = True,
) -> Analyses:
    """All analyses of an audit.

    Args:
        signals: what was audited.
        found: what the audit found.
        material: records and models, where there are any.
        chosen: names among :data:`ANALYSES`.
        seed: of samples, bootstraps and maps.
        quiet: show no progress.

    Returns:
        The analyses; ``not_done`` says which were not made, and why.
    """
    material = material or Material()
    work = _Work(signals, found, material, seed)
    done: dict[str, object] = {}
    missing: list[NotRun] = []
    # OpenMP's threads spin while they wait, and cost a busy machine more than they bring to arrays this small.
    with threadpool_limits(1, "openmp"), progress("analyses", len(chosen), quiet=quiet) as show:
        for count, name in enumerate((name for name in ANALYSES if name in chosen), 1):
            try:
                done[name] = getattr(work, name)()
            except MemberscopeError as error:
                reason = f"expected {error.expected}, got {error.got}. {error.fix}"
                missing.append(NotRun(name=TITLES[name], reason=reason))
            show(count, TITLES[name])
    maps = done.pop("embedding", [])
    return Analyses.model_validate({**done, "embeddings": maps, "not_done": missing})


class _Work:
    """The analyses of one audit, each a method; what several of them need is made once."""

    def __init__(self, signals: Signals, found: Examination, material: Material, seed: int) -> None:
        self.signals, self.found, self.material, self.seed = signals, found, material, seed
        self.targets = next(iter(found.scores.values())).targets
        self.target = self.targets[0]
        self._made: dict[str, object] = {}

    def _once(self, name: str, make: Callable[[], T]) -> T:
        if name not in self._made:
            self._made[name] = make()
        made: T = self._made[name]  # type: ignore[assignment]
        return made

    def traces(self) -> Mapping[int, Traces]:
        """What the trainings left; empty without a pool of ours."""
        from memberscope.training.pool import read_traces

        pool = self.material.pool
        return self._once("traces", lambda: {} if pool is None else read_traces(pool))

    def vulnerable(self) -> VulnerableSet:
        """The records that are vulnerable by the default definition."""
        proof = self.found.evidence
        if proof is None:
            raise SignalsError(
                "an attack whose scores can name records", "none that ran", "Leave 'attacks' out to run every one."
            )
        return self._once("vulnerable", lambda: vulnerable_set(self.signals, self.found.scores[proof.attack], proof))

    def rows(self) -> list[int]:
        """The rows whose features are read: the target's pair first, then other pairs."""
        twins = design(self.signals).twin
        rows: list[int] = []
        for row in (*self.targets, *range(len(self.signals))):
            rows += [other for other in (row, int(twins[row])) if other >= 0 and other not in rows]
        return rows[:VIEWS]

    def features(self) -> dict[int, NDArray[np.float32]]:
        """Penultimate features by row; empty without models and records."""
        material = self.material
        if material.pool is None or material.dataset is None or material.folder is None:
            return {}
        from memberscope.signals.features import collect_features

        pool, dataset, folder = material.pool, material.dataset, material.folder
        return self._once(
            "features",
            lambda: collect_features(
                pool,
                dataset,
                self.rows(),
                folder=folder,
                engine=material.engine,
                workers=material.workers,
                device=material.device,
                quiet=True,
            ),
        )

    def trajectory(self) -> object:
        """See :func:`memberscope.analysis.trajectory.trajectory`."""
        made = trajectory(self.traces(), self.signals, self.targets, seed=self.seed)
        if made is None:
            raise SignalsError(
                "answers kept at chosen epochs",
                "none: the models were not trained here, or the recipe's trajectory is empty",
                "Train with a recipe that has trajectory: [1, 2, 5, …].",
            )
        return made

    def vulnerability(self) -> object:
        """See :func:`memberscope.analysis.vulnerability.vulnerability`."""
        self.vulnerable()
        proof = self.found.evidence
        assert proof is not None
        traces = self.traces()
        return vulnerability(
            self.signals,
            self.targets,
            self.found.scores[proof.attack],
            proof,
            traces or None,
            seed=self.seed,
            why_no_traces="" if traces else "the models were not trained here, so that no loss traces were kept",
        )

    def outliers(self) -> object:
        """See :func:`memberscope.analysis.outliers.outliers`."""
        vulnerable = self.vulnerable()
        self._needs_logits()
        features, traces = self.features(), self.traces()
        rows = self.rows()
        kept = [row for row in self.targets if row in traces and traces[row].loss is not None]
        iqr = loss_trace(traces, self.signals.members, kept[:1])[0] if kept else None
        views = (ModelView(row, features.get(row), self._logits(row)) for row in rows)
        return outliers(views, self.signals, self.target, vulnerable, iqr, self._class_names(), seed=self.seed)

    def embedding(self) -> list[Embedding]:
        """Maps of the target's members, by features where models are there, and by logits."""
        vulnerable = self.vulnerable()
        self._needs_logits()
        signals, target = self.signals, self.target
        spaces = {"features": self.features().get(target), "logits": self._logits(target)}
        candidates = signals.members[target] & ~signals.population
        return [
            embedding(
                points,
                of,  # type: ignore[arg-type]
                signals.labels,
                signals.ids,
                signals.members[target],
                vulnerable.vulnerable,
                candidates,
                target=target,
                seed=self.seed,
            )
            for of, points in spaces.items()
            if points is not None
        ]

    def attribution(self) -> object:
        """See :func:`memberscope.analysis.gradcam.attribution`."""
        vulnerable = self.vulnerable()
        features = self.features()
        if not features:
            raise SignalsError(
                "the models and the records",
                "their outputs alone",
                "Audit from a configuration that trains the models.",
            )
        from memberscope.analysis.gradcam import attribution

        assert self.material.pool is not None and self.material.dataset is not None
        return attribution(
            self.material.pool,
            self.target,
            self.material.dataset,
            vulnerable.vulnerable,
            vulnerable.protected,
            features[self.target],
            seed=self.seed,
            device=self.material.device,
        )

    def _needs_logits(self) -> None:
        if self.signals.kind == "labels":
            raise SignalsError("scores or logits", "predicted classes only", "Give the scores of the models.")

    def _logits(self, row: int) -> NDArray[np.float32]:
        """``(N, K)`` with K at least 2, the first answer to each record; probabilities as logits log p."""
        values = np.asarray(self.signals.outputs[row][:, 0], np.float64)
        if self.signals.kind == "probabilities":
            values = np.concatenate([1 - values, values], axis=1) if values.shape[1] == 1 else values
            values = np.log(np.maximum(values, resolution(self.signals)))
        elif values.shape[1] == 1:
            values = np.concatenate([np.zeros_like(values), values], axis=1)
        return values.astype(np.float32)

    def _class_names(self) -> tuple[str, ...]:
        names = self.found.findings.data["class_names"]
        return tuple(names)

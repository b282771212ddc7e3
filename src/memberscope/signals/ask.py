"""Ask models of a pool about every record, in streams, a file a model: what logits and features have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import PoolError, SignalsError
from memberscope.files import atomic, read_json, sha256_file, write_json
from memberscope.progress import progress
from memberscope.training.engines import Engine
from memberscope.training.rows import Shard
from memberscope.training.store import ModelPlan
from memberscope.types import Dataset, Pool

if TYPE_CHECKING:
    from torch import Tensor

What = Literal["logits", "features"]

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Question:
    """Writes one model's answers; sent to workers as it is.

    Models answer in float32, without noise, dropout or augmentation, whatever the recipe's training precision:
    scaled logits of confident records differ by less than bfloat16 resolves.

    Args:
        what: ``"logits"`` ``(N, 1, K)`` or ``"features"`` ``(N, D)``, the penultimate activations.
        inputs: of the data set.
        plan: of the pool.
        folder: where ``NNNNN.npy`` and what describes it go.
        fingerprint: of the data set.
        device: ``"cpu"`` or ``"cuda"``.
    """

    what: What
    inputs: NDArray[Any]
    plan: ModelPlan
    folder: Path
    fingerprint: str
    device: str

    def path(self, row: int) -> Path:
        """Where the answers of ``row`` go."""
        return answers_path(self.folder, row)

    def source(self, model: str) -> dict[str, Any]:
        """What the answers of the model file with hash ``model`` depend on."""
        source = {
            "schema": SCHEMA,
            "model": model,
            "dataset": self.fingerprint,
            "precision": "fp32",
            "device": self.device,
        }
        return source if self.what == "logits" else source | {"what": self.what}

    def finished(self, row: int, model: str) -> str:
        """The hash of a row that is there and still right, or an empty string."""
        path = self.path(row)
        sidecar = path.with_suffix(".json")
        if not path.exists() or not sidecar.exists():
            return ""
        described = read_json(sidecar)
        right = described.get("source") == self.source(model) and sha256_file(path) == described.get("sha256")
        return str(described["sha256"]) if right else ""

    def __call__(self, task: tuple[int, Path, str]) -> tuple[int, str]:
        """Row and SHA-256 of its file. Answers do not travel: for a million records they are too large."""
        row, path, model = task
        with atomic(self.path(row)) as file:
            written = _Hashing(file)
            for place, answers in self.answers(path, model):
                if not place.start:
                    shape = (len(self.inputs), *answers.shape[1:])
                    np.lib.format.write_array_header_1_0(
                        written, {"descr": "<f4", "fortran_order": False, "shape": shape}
                    )
                written.write(answers.tobytes())
        digest = written.digest.hexdigest()
        write_json(self.path(row).with_suffix(".json"), {"source": self.source(model), "sha256": digest})
        return row, digest

    def keep(self, row: int, content: bytes, description: Mapping[str, Any]) -> None:
        """Write what a worker without this disk sent for ``row``."""
        with atomic(self.path(row)) as file:
            file.write(content)
        write_json(self.path(row).with_suffix(".json"), description)

    def answers(self, path: Path, sha256: str) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """What the model in ``path`` says, batch after batch, each with its place."""
        import torch

        from memberscope.training.inputs import Encoder
        from memberscope.training.loop import reproducible
        from memberscope.training.store import load_model

        recipe = self.plan.recipe
        with reproducible(recipe.threads, self.device), torch.no_grad():
            model = load_model(path, sha256, self.plan, self.device)
            ask = model.features if self.what == "features" else lambda batch: model(batch)[:, None]
            encode = Encoder.of(self.plan.normalisation, self.inputs.ndim == 4, recipe.channels_last, self.device)
            for place, batch in encode.stream(self.inputs, recipe.evaluation_batch_size):
                answers: Tensor = ask(batch)
                if not answers.isfinite().all():
                    raise SignalsError(
                        f"finite {self.what}",
                        f"NaN or infinity from {path.name} for records {place.start} to {place.stop - 1}",
                        "A diverged model cannot be audited: train the pool with a lower learning rate.",
                    )
                yield place, answers.cpu().numpy().astype("<f4")


def answers_path(folder: Path, row: int) -> Path:
    """Where the answers of ``row`` lie in ``folder``."""
    return folder / f"{row:05d}.npy"


def ask_models(
    question: Question, pool: Pool, rows: Sequence[int], runner: Engine, *, quiet: bool = False
) -> dict[int, str]:
    """Every row's answers on disk; the SHA-256 of each file. What is there and still right is kept.

    The caller holds the folder's lock.

    Raises:
        PoolError: no such row, a model file that is missing or altered, a folder that cannot be written.
        SignalsError: answers that are not finite.
    """
    models = [(row, pool.model_path(row), model_hash(pool, row)) for row in rows]
    done = {row: digest for row, _, model in models if (digest := question.finished(row, model))}
    todo = [model for model in models if model[0] not in done]
    noun = "" if question.what == "logits" else f" for {question.what}"
    # Where workers may not see this disk, models go there and answers come back by value.
    by_value = getattr(runner, "by_value", False)
    function: Any = _Sent(question) if by_value else question
    tasks: Sequence[Any] = [(row, _Reading(path), model) for row, path, model in todo] if by_value else todo
    with (
        progress(f"asking {len(models)} models{noun}", len(models), done=len(done), quiet=quiet) as show,
        closing(runner.run(function, tasks, threads=question.plan.recipe.threads)) as results,
    ):
        for row, digest, *content in results:
            if content:
                question.keep(row, *content)
            done[row] = digest
            show(len(done))
    return done


def model_hash(pool: Pool, row: int) -> str:
    """The SHA-256 of a model file as it was written; the rest of the pool need not be finished.

    Raises:
        PoolError: the model has not been trained yet.
    """
    path = pool.model_path(row)
    if "files" in pool.manifest:
        return str(pool.manifest["files"][path.name])
    if not path.exists():
        raise PoolError(f"the model file {path}", "no such file", "Train this shard first.")
    described = read_json(path.with_suffix(".json"))
    if described.get("plan_hash") != pool.manifest["plan_hash"]:
        raise PoolError(f"a model of this pool in {path}", "one of another plan", "Use another folder.")
    return str(described["sha256"])


class _Reading:
    """A file's content, read only when the task is sent away: a pool need not fit the memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (self.path.read_bytes(),)


@dataclass(frozen=True, eq=False)
class _Sent:
    """A question for workers that may not see the caller's disk: all it needs comes by value, as does the answer."""

    question: Question

    def __call__(self, task: tuple[int, bytes, str]) -> tuple[int, str, bytes, dict[str, Any]]:
        """Row, SHA-256 and content of its file, and what is written beside it."""
        row, content, model = task
        with TemporaryDirectory(prefix="memberscope-") as place:
            path = Path(place) / "model.safetensors"
            path.write_bytes(content)
            question = replace(self.question, folder=Path(place))
            _, digest = question((row, path, model))
            return row, digest, question.path(row).read_bytes(), read_json(question.path(row).with_suffix(".json"))


def check_pool(pool: Pool, dataset: Dataset, what: str, shard: Shard | None = None) -> None:
    """Raise a PoolError unless ``pool`` is finished and was trained on the records of ``dataset``.

    Args:
        what: the function that needs them, as messages name it.
        shard: of a shard, the others need not be finished.
    """
    if shard is None and len(pool.manifest.get("files", ())) < len(pool):
        raise PoolError("a finished pool", f"{pool.folder} without all its models", "Run train_pool again, it goes on.")
    if dataset.fingerprint != pool.manifest["plan"]["data"]["fingerprint"]:
        raise PoolError(
            f"the records that the models in {pool.folder} were trained on ({pool.manifest['data_name']!r})",
            f"other records or another order ({dataset.name!r})",
            f"Give {what} the same data set as train_pool.",
        )


def clear_leftovers(folder: Path) -> None:
    """Remove what killed writers left in ``folder``; the caller holds its lock."""
    for leftover in folder.rglob(".*.part"):
        leftover.unlink(missing_ok=True)


class _Hashing:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self.file.write(content)

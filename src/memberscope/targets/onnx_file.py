"""An ONNX file, asked through onnxruntime (extra ``onnx``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import DataError, MissingExtraError
from memberscope.targets.estimator import check_saved
from memberscope.targets.inputs import batches, count
from memberscope.targets.interface import Answers, checked

_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
}


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A model with one input and scores, or predicted classes, among its outputs.

    Args:
        path: of the file.
        session: of onnxruntime.
        output: name of the output that is asked for.
        batch_size: records at once; the model's own where it has a fixed one.
        classes: as the file names them, None where it does not.
    """

    path: Path
    session: Any
    output: str
    batch_size: int = 1024
    classes: tuple[Any, ...] | None = None

    @classmethod
    def of(cls, path: Path, *, output: str | None = None, batch_size: int = 1024) -> OnnxFile:
        """The model in ``path``.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            DataError: no ONNX file, several inputs, or no output of scores or classes.
        """
        check_saved(path)
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError.of("onnxruntime", "onnx", f"asking {path.name}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise DataError(
                f"an ONNX model in {path}", str(error).splitlines()[0][:200], "Export the model again."
            ) from error
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _TYPES:
            raise DataError(
                f"an ONNX model with one input of numbers in {path}",
                f"{len(inputs)} inputs: " + ", ".join(f"{each.name} {each.type}" for each in inputs[:6]),
                "Export it with a single input, or wrap onnxruntime in a function and audit that.",
            )
        fixed = inputs[0].shape[0] if inputs[0].shape and isinstance(inputs[0].shape[0], int) else 0
        return cls(path, session, _output(session, output, path), fixed or batch_size)

    @property
    def name(self) -> str:
        """See :class:`~memberscope.targets.interface.Target`."""
        return self.path.name

    @property
    def asked(self) -> str:
        """See :class:`~memberscope.targets.interface.Target`."""
        return f"output {self.output}"

    def __call__(self, inputs: Any) -> Answers:
        """See :class:`~memberscope.targets.interface.Target`."""
        wanted = self.session.get_inputs()[0]
        shape = tuple(inputs.shape)
        free = list(wanted.shape[1:])
        if len(free) + 1 != len(shape) or any(
            isinstance(axis, int) and axis > 0 and axis != length for axis, length in zip(free, shape[1:], strict=False)
        ):
            raise DataError(
                f"records of shape {tuple(axis if isinstance(axis, int) else '?' for axis in free)} for {self.name}",
                f"shape {shape[1:]}",
                "Prepare the records as the exported model takes them.",
            )
        parts: list[NDArray[Any]] = []
        for batch in batches(inputs, self.batch_size):
            array = np.ascontiguousarray(batch.to_numpy() if hasattr(batch, "to_numpy") else batch, _TYPES[wanted.type])
            missing = self.batch_size - len(array) if wanted.shape and isinstance(wanted.shape[0], int) else 0
            if missing > 0:
                array = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
            try:
                answer = self.session.run([self.output], {wanted.name: array})[0]
            except Exception as error:
                raise DataError(
                    f"records that {self.name} takes", str(error).splitlines()[0][:200], "Prepare them as for training."
                ) from error
            parts.append(np.asarray(answer)[: len(batch)])
        return checked(np.concatenate(parts), count(inputs), self.name)


def _output(session: Any, wanted: str | None, path: Path) -> str:
    """The output of scores if there is one, else that of predicted classes."""
    outputs = session.get_outputs()
    names = [str(each.name) for each in outputs]
    if wanted is not None:
        if wanted not in names:
            raise DataError(f"an output of {path} among {', '.join(names)}", repr(wanted), "Mend the name.")
        return wanted
    floats = [str(each.name) for each in outputs if each.type in ("tensor(float)", "tensor(double)", "tensor(float16)")]
    maps = [str(each.name) for each in outputs if each.type.startswith("seq(map(")]
    named = [name for name in floats if any(word in name.lower() for word in ("prob", "logit", "score", "output"))]
    if maps:
        raise DataError(
            f"scores as a tensor in {path}",
            f"a list of maps in output {maps[0]!r}",
            "Export it with options={'zipmap': False}.",
        )
    if len(floats) == 1 or len(named) == 1:
        return named[0] if named else floats[0]
    if floats:
        raise DataError(f"one output of scores in {path}", ", ".join(floats), "Name the one to ask in output=.")
    classes = [str(each.name) for each in outputs if each.type in ("tensor(int64)", "tensor(int32)", "tensor(string)")]
    if len(classes) != 1:
        raise DataError(f"an output of scores or classes in {path}", ", ".join(names), "Export it with one.")
    return classes[0]

"""Signals as a client sees them once an output policy stands before every model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memberscope.errors import SignalsError
from memberscope.files import atomic, sha256_arrays, sha256_json, write_json
from memberscope.outputs.policy import OutputPolicy
from memberscope.types import Signals


def apply_policy(signals: Signals, policies: Sequence[OutputPolicy], *, folder: Path | None = None) -> Signals:
    """What an attacker sees of models served through policies: targets and references alike.

    Args:
        signals: logits.
        policies: one a model row, in the order of the rows.
        folder: where the answers are kept as memory maps, ``logits/NNNNN.npy``, and derived scalars are cached;
            in memory alone when omitted. Rows already there and of the same content are not written again.

    Returns:
        Signals of kind ``logits`` whose fingerprint is that of the outputs and of the policies.

    Raises:
        SignalsError: not logits, or another number of policies than models.
        PoolError: the folder cannot be written.
    """
    if signals.kind != "logits":
        raise SignalsError("logits, which a policy acts on", signals.kind, "Collect logits from the models.")
    if len(policies) != len(signals):
        raise SignalsError(
            f"{len(signals)} policies, one a model", f"{len(policies)}", "Fit a policy to each model of the pool."
        )
    content = signals.fingerprint or sha256_arrays(*signals.outputs)
    outputs = []
    for row, policy in enumerate(policies):
        source = {"signals": content, "row": row, "policy": policy.fingerprint}
        outputs.append(_row(signals, row, policy, None if folder is None else folder / "logits", source))
    return Signals(
        tuple(outputs),
        "logits",
        signals.members,
        signals.labels,
        signals.ids,
        signals.population,
        signals.class_names,
        folder,
        sha256_json([content, [policy.fingerprint for policy in policies]]),
    )


def _row(
    signals: Signals, row: int, policy: OutputPolicy, folder: Path | None, source: dict[str, object]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    logits = signals.outputs[row]
    n, queries, classes = logits.shape

    def answer() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        flat = policy(np.asarray(logits).reshape(n * queries, classes))
        return np.ascontiguousarray(flat).reshape(n, queries, classes)

    if folder is None:
        return answer()
    from memberscope.files import read_json, read_npy, sha256_file

    path = folder / f"{row:05d}.npy"
    sidecar = path.with_suffix(".json")
    known = read_json(sidecar) if path.exists() and sidecar.exists() else {}
    if known.get("source") != source or sha256_file(path) != known.get("sha256"):
        with atomic(path) as file:
            np.lib.format.write_array(file, answer(), allow_pickle=False)
        write_json(sidecar, {"source": source, "sha256": sha256_file(path)})
    return read_npy(path, mmap=True)

"""Doors 2 and 3: an audit of a model that can be asked, and of one whose training can be repeated."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from memberscope.attacks import Attack
from memberscope.doors.candidates import Candidates, Classes, candidates, classes_of, labels_for, side
from memberscope.doors.conclude import (
    Gates,
    Story,
    Wanted,
    accuracy_sentence,
    as_gates,
    conclude,
    numeric_dataset,
    seen_access,
)
from memberscope.doors.outputs import Kind, check_kind, check_probabilities, kind_of
from memberscope.doors.references import (
    Training,
    aligned,
    as_fits,
    check_different,
    design,
    facts,
    seeds_of,
    train_references,
)
from memberscope.errors import ConfigError
from memberscope.files import writer_lock
from memberscope.targets import Answers, Target, as_target
from memberscope.targets.inputs import fingerprint
from memberscope.types import Findings, Signals
from memberscope.work import Clock

# References that are trained when a fit is given and their number is not.
REFERENCES = 16


def audit_model(
    model: Any,
    *,
    members: Any,
    nonmembers: Any,
    fit: Any = None,
    references: int | None = None,
    stand_in: Any = None,
    kind: Kind = "auto",
    class_names: Sequence[str] = (),
    ask: str | None = None,
    batch_size: int = 1024,
    device: str = "cpu",
    workers: int | None = None,
    attacks: Sequence[str | Attack] | None = None,
    gate: Gates = (),
    analyses: Sequence[str] | None = None,
    name: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    quiet: bool = True,
) -> Findings:
    """Audit a model by asking it about members and non-members, with references trained like it if that can be done.

    Args:
        model: a fitted scikit-learn estimator, a ``torch.nn.Module``, a function of a batch of records, an ``.onnx``
            or ``.skops`` file, or a :class:`~memberscope.targets.Target`.
        members: records that the model was trained on, as ``(X, y)``, ``(X, y, ids)`` or a data set.
        nonmembers: records from the same source that it was not trained on, likewise.
        fit: ``fit(X, y, seed) -> model`` trains a reference on records as they were given; an unfitted estimator or
            ``"clone"`` does so by copying; a list of such takes turns, where the target's training is unknown.
        references: how many; 16 with ``fit``, else none. An estimator is cloned if it is given without ``fit``.
        stand_in: further records ``(X, y)`` of your own to train references on, beside the candidates.
        kind: what the model's scores are; found when ``"auto"``.
        class_names: the classes in the order of the scores, where the model does not name them.
        ask: of an estimator the method, of an ONNX file the output; the one that tells most when None.
        batch_size: records at once.
        device: of modules.
        workers: references trained at once, one thread each; one a core when None, 1 for this process alone.
        attacks, gate, name, seed, out, quiet: as in :func:`~memberscope.run.audit`; ``analyses`` as in a
            configuration, all when None. With ``out`` each reference's
            answers are kept as they finish, and the same call goes on after a kill; what ``fit`` calls must not
            change meanwhile.

    Returns:
        The findings; ids of records without any are ``member-0`` … and ``nonmember-0`` …

    Raises:
        DataError: records or labels that do not fit the model.
        ConfigError: an estimator that is not fitted, a fit that fails or returns the same model every time.
        SignalsError: answers that cannot be audited.
    """
    check_kind(kind)
    if references is not None and references < 0:
        raise ConfigError("0 references or more", str(references), "Give a number, or leave it out.")
    clock = Clock()
    given = candidates(members, nonmembers)
    target = as_target(model, ask=ask, batch_size=batch_size, device=device)
    folder = None if out is None else Path(out)
    called = name or target.name
    with clock("ask"):
        asked = ask_target(target, given, kind, class_names)
    count = references if references is not None else (REFERENCES if fit is not None else 0)
    fits = as_fits("clone" if fit is None else fit, model) if count else ()
    with ExitStack() as stack:
        rows, training = [asked.outputs], None
        if count:
            place = folder / "references" if folder else Path(stack.enter_context(TemporaryDirectory()))
            labels = np.array(asked.classes.values)[asked.labels]
            more = None if stand_in is None else _stand_in(stand_in, asked.classes)
            content = fingerprint(given.inputs, labels, given.ids, *(() if more is None else more))
            training = Training(
                given.inputs, labels, design(given.members, count, seed), more, fits, seeds_of(seed, count),
                asked.classes, asked.kind, asked.width, ask, batch_size, device, place, content,
            )  # fmt: skip
            with writer_lock(place), clock("train"):
                answers = train_references(training, workers, quiet)
            names = [getattr(each, "__name__", type(each).__name__) for each in fits]
            check_different(answers, asked.outputs, names)
            rows += answers
        shown = asked.classes.shown or asked.classes.names
        held = [given.members] if training is None else [given.members, *training.members]
        signals = Signals(
            tuple(rows), asked.kind, np.array(held), asked.labels, given.ids, class_names=shown,
            folder=None if folder is None else folder / "signals",
        )  # fmt: skip
        dataset = numeric_dataset(
            given.inputs, asked.labels, given.ids, asked.classes.names, called, given.feature_names
        )
        config = {
            "name": called,
            "model": {"type": target.name, "asked": target.asked, "references": count, "fit": [_name(f) for f in fits]},
            "gate": [each.model_dump() for each in as_gates(gate)],
            "seed": seed,
            "out": None if folder is None else str(folder),
        }
        wanted = Wanted(attacks, as_gates(gate), called, seed, folder, quiet, config, analyses)
        return conclude(signals, wanted, _story(target, signals, training, fits, clock), dataset)


@dataclass(frozen=True, eq=False)
class Asked:
    """The target's answers as they enter the signals."""

    outputs: NDArray[Any]
    kind: Literal["logits", "probabilities", "labels"]
    labels: NDArray[np.int64]
    classes: Classes
    width: int


def ask_target(target: Target, given: Candidates, kind: Kind, class_names: Sequence[str]) -> Asked:
    """The target's answers about every candidate, and the candidates' labels as places among its classes.

    Raises:
        DataError: a label that the model does not know.
        SignalsError: answers that are none, or are not of the kind that was named.
    """
    answers = target(given.inputs)
    scores = None if answers.kind == "labels" else answers.values
    width = None if scores is None else int(scores.shape[1])
    classes = classes_of(target.classes, width, given, class_names)
    labels = classes.encode(labels_for(given, target.classes), "labels")
    found: Any = answers.kind
    if scores is not None:
        if kind == "probabilities":
            check_probabilities(scores, given.ids, f"the answers of {target.name}")
        if kind != "auto":
            found = kind
        elif answers.kind == "scores":
            found = kind_of(scores, given.ids, f"the answers of {target.name}")
        if found != "labels":
            answers = Answers(found, scores)
    elif kind not in ("auto", "labels"):
        raise ConfigError(f"{kind} from {target.name}", "predicted classes alone", "Leave kind= out.")
    kind_found = cast(Literal["logits", "probabilities", "labels"], found)
    outputs = aligned(answers, target.classes, classes, kind_found, width or 1, target.name)
    return Asked(outputs, kind_found, labels, classes, width or 1)


def _stand_in(given: Any, classes: Classes) -> tuple[Any, NDArray[Any]]:
    more = side(given, "stand_in")
    return more.inputs, np.array(classes.values)[classes.encode(labels_for(more, classes.values), "stand-in labels")]


def _name(fit: Any) -> str:
    return str(getattr(fit, "__name__", type(fit).__name__))


def _story(target: Target, signals: Signals, training: Training | None, fits: Sequence[Any], clock: Clock) -> Story:
    access, seen = seen_access(signals)
    threat = {
        "access": f"The attacker sees {seen}, one answer a record ({target.asked}).",
        "assumptions": "The membership given is true. Candidates are members or non-members drawn from the same "
        "source; half of them are members unless stated otherwise.",
    }
    sentences = [f"{target.name} was asked by {target.asked}: {seen}; access level {access}."]
    if training is not None:
        count, names = len(training.members), ", ".join(dict.fromkeys(_name(each) for each in fits))
        own = accuracy_sentence(signals, [0])
        theirs = accuracy_sentence(signals, range(1, count + 1))
        where = " and on the auditor's own stand-in records" if training.stand_in is not None else ""
        if len(fits) > 1 or training.stand_in is not None:
            threat["knowledge"] = (
                f"The attacker has candidate records with their labels, does not know how the model was trained, and "
                f"trained {count} reference models by {len(set(map(_name, fits)))} recipes ({names})."
            )
            said = "The target's architecture and training were taken as unknown"
        else:
            said = f"References were trained by {names}; that the target was trained in the same way is assumed"
        threat["assumptions"] += (
            f" {said}. Each reference saw a random {int(training.members[0].sum()):,} of the {len(signals.labels):,} "
            f"candidates{where}. Accuracy of the target: {own}; of the references: {theirs}."
        )
        sentences.append(f"{said}. Accuracy of the target: {own}; of the {count} references: {theirs}.")
    model: dict[str, Any] = {"name": target.name, "asked": target.asked}
    cost: dict[str, Any] = {}
    if training is not None:
        model |= dict(facts(training))
        cost["models_trained"] = len(training.members)
    return Story(
        sentences, threat, {"data": {"access": access, "outputs": signals.kind}, "model": model, "cost": cost},
        clock=clock,
    )  # fmt: skip

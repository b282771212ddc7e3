"""Door 1: an audit of saved predictions, with nothing else at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memberscope.attacks import Attack
from memberscope.data.tables import encode
from memberscope.doors.conclude import Gates, Story, Wanted, as_gates, conclude, seen_access
from memberscope.doors.outputs import Kind, check_kind, check_probabilities, filled, kind_of, most_given
from memberscope.errors import ConfigError, SignalsError, nearest
from memberscope.large import pieces, release, working_array
from memberscope.targets.predictions import Predictions, as_members, canonical, read_predictions
from memberscope.targets.tables import Reading, open_table
from memberscope.types import Findings, Signals
from memberscope.work import Clock


def audit_predictions(
    predictions: str | Path,
    references: Sequence[str | Path] | str | Path = (),
    *,
    membership: str | Path | None = None,
    kind: Kind = "auto",
    class_names: Sequence[str] = (),
    id: str | None = None,
    label: str | None = None,
    member: str | None = None,
    ignore: Sequence[str] = (),
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    attacks: Sequence[str | Attack] | None = None,
    gate: Gates = (),
    analyses: Sequence[str] | None = None,
    name: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    quiet: bool = True,
) -> Findings:
    """Audit a model by its saved predictions on members and non-members.

    A table (CSV or other delimited text, Parquet) is wide: ``id``, ``label``, ``member`` and a column of scores a
    class, a single score of two classes, or ``predicted`` alone; or long: ``id``, ``class``, ``value`` on one line a
    record and class, with ``label`` and ``member`` repeated, classes that the model did not answer left out. An NPZ
    holds ``logits``, ``probabilities`` or ``predicted_labels``, ``labels``, ``members`` and ``ids``. Text is read in
    pieces.

    Args:
        predictions: the target's file.
        references: files of reference models on the same ids, each with its own membership.
        membership: a table with ``id`` and a column a file, named like the file without its ending (``member``
            for the target's), for files that have none.
        kind: ``"logits"``, ``"probabilities"`` or ``"labels"``; found when ``"auto"``.
        class_names: the classes in the order of the columns, where these do not name them.
        id, label, member: columns, where they go by other names.
        ignore: columns that are no scores.
        delimiter, decimal, encoding: of text tables; found when omitted.
        attacks, gate, name, seed, out, quiet: as in :func:`~memberscope.run.audit`; ``analyses`` as in a
            configuration, all when None.

    Returns:
        The findings. The access level is in ``data["access"]`` and decides the attacks; ``not_run`` lists the others.

    Raises:
        DataError, SignalsError: a file that cannot be read or files that do not fit together; the record or line is
            named.
        ConfigError: an unknown attack, gate or kind.
    """
    path = Path(predictions)
    files = [Path(references)] if isinstance(references, str | Path) else [Path(each) for each in references]
    reading = Reading(id, label, member, tuple(ignore), delimiter, decimal, encoding)
    folder = None if out is None else Path(out)
    config = {
        "name": name or path.stem,
        "predictions": {
            "path": str(path),
            "references": [str(each) for each in files],
            "membership": None if membership is None else str(membership),
            "kind": kind,
            "class_names": list(class_names),
            **{key: value for key, value in vars(reading).items() if value},
        },
        "gate": [each.model_dump() for each in as_gates(gate)],
        "seed": seed,
        "out": None if folder is None else str(folder),
    }
    wanted = Wanted(attacks, as_gates(gate), name or path.stem, seed, folder, quiet, config, analyses)
    clock = Clock()
    with clock("read"):
        loaded = load_predictions(
            path, files, membership, kind=kind, class_names=class_names, reading=reading, folder=folder
        )
    return conclude(loaded.signals, wanted, _story(loaded, path, files, clock))


@dataclass(frozen=True, eq=False)
class Loaded:
    """Predictions as signals, target first; ``top_k`` is how many scores a record had where some were not given."""

    signals: Signals
    top_k: int | None


def load_predictions(
    path: Path,
    references: Sequence[Path] = (),
    membership: str | Path | None = None,
    *,
    kind: Kind = "auto",
    class_names: Sequence[str] = (),
    reading: Reading | None = None,
    folder: Path | None = None,
) -> Loaded:
    """Signals from files of predictions; arguments as in :func:`audit_predictions`.

    Args:
        reading: what is known of the tables.
        folder: where scores lie that do not fit into memory.
    """
    check_kind(kind)
    reading = reading or Reading()
    work = None if folder is None else folder / "signals"
    target = read_predictions(path, reading, folder=work)
    if target.labels is None:
        raise SignalsError(
            f"true labels in {path}", "no column of them", "Add a column 'label', or name it with label=."
        )
    others = [read_predictions(each, reading, folder=work) for each in references]
    _same_form(target, others)
    orders = [_order(target, other) for other in others]
    members = _members([target, *others], [np.arange(len(target)), *orders], membership, reading)
    for other, order in zip(others, orders, strict=True):
        _same_labels(target, other, order)
    if target.scores is None:
        return Loaded(_of_labels(target, others, orders, members, class_names), None)
    if kind == "labels":
        raise SignalsError(f"predicted classes alone in {path}", "scores", "Name the column 'predicted'.")
    labels, names = _classes(target, class_names)
    rows = [target.scores]
    for other, order in zip(others, orders, strict=True):
        rows.append(_aligned(target, other, order, work))
    found, top_k = _kind(kind, target, others, rows)
    if top_k is not None:
        rows = [filled(row, work) for row in rows]
    types = {row.dtype for row in rows}
    if len(types) > 1:
        rows = [row.astype(np.float64) for row in rows]
    signals = Signals(tuple(rows), found, members, labels, target.ids, class_names=names, folder=work, checked=True)
    return Loaded(signals, top_k)


def _story(loaded: Loaded, path: Path, references: Sequence[Path], clock: Clock) -> Story:
    access, seen = seen_access(loaded.signals, loaded.top_k)
    threat = {
        "access": f"The attacker sees {seen}, one answer a record, as saved in {path.name}.",
        "assumptions": "The membership that the files state is true. Candidates are members or non-members drawn from "
        "the same source; half of them are members unless stated otherwise.",
    }
    if references:
        threat["assumptions"] += (
            f" The {len(references)} reference model{'s were' if len(references) > 1 else ' was'} trained as the "
            "target was; nothing but their answers was seen."
        )
    return Story(
        [f"{path.name} holds {seen}: access level {access}."],
        threat,
        {"data": {"access": access, "outputs": loaded.signals.kind, "source": "saved predictions"}},
        clock=clock,
    )


def _same_form(target: Predictions, others: Sequence[Predictions]) -> None:
    for other in others:
        if (other.scores is None) != (target.scores is None):
            forms = ["predicted classes" if each.scores is None else "scores" for each in (target, other)]
            raise SignalsError(
                f"{forms[0]} in {other.path}, as in {target.path}", forms[1], "Save the same of every model."
            )
    if others:
        for each in (target, *others):
            if each.numbered:
                raise SignalsError(
                    f"an array 'ids' in {each.path}", "none", "Save ids: models' answers are matched by them."
                )


def _order(target: Predictions, other: Predictions) -> NDArray[np.int64]:
    """Where each of the target's records stands in the other file."""
    by_id = np.argsort(other.ids)
    place = np.searchsorted(other.ids[by_id], target.ids)
    order = by_id[np.minimum(place, len(by_id) - 1)]
    missing = np.flatnonzero(other.ids[order] != target.ids)
    if len(missing) or len(other) != len(target):
        got = (
            f"{len(missing):,} missing, for example {str(target.ids[missing[0]])!r}"
            if len(missing)
            else f"{len(other) - len(target):,} more, for example "
            f"{str(other.ids[~np.isin(other.ids, target.ids)][0])!r}"
        )
        raise SignalsError(
            f"the same {len(target):,} ids in {other.path} as in {target.path}",
            got,
            "Ask the reference model about the very same records.",
        )
    return np.asarray(order, np.int64)


def _same_labels(target: Predictions, other: Predictions, order: NDArray[np.int64]) -> None:
    if other.labels is None or target.labels is None:
        return
    wrong = np.flatnonzero(other.labels[order] != target.labels)
    if len(wrong):
        place = int(wrong[0])
        raise SignalsError(
            f"the labels of {target.path} in {other.path}",
            f"{str(other.labels[order][place])!r} for {str(target.ids[place])!r}, there {str(target.labels[place])!r} "
            f"({len(wrong):,} differ)",
            "Write the true label of the record, the same in every file.",
        )


def _members(
    files: Sequence[Predictions], orders: Sequence[NDArray[np.int64]], membership: str | Path | None, reading: Reading
) -> NDArray[np.bool_]:
    """``(M, N)``, from the files or from the table of membership."""
    ids = files[0].ids
    given = {} if membership is None else _membership_table(Path(membership), ids, reading)
    rows = []
    for row, (each, order) in enumerate(zip(files, orders, strict=True)):
        found = given.get(each.path.stem, given.get("member") if row == 0 else None)
        if found is None and each.members is not None:
            found = each.members[order]
        if found is None:
            known = f" or {membership}" if membership is not None else ""
            raise SignalsError(
                f"which records {each.path.name} was trained on, in a column 'member'{known}",
                "none",
                f"Add the column, or a table of membership with a column {each.path.stem!r}.",
            )
        if found.all() or not found.any():
            raise SignalsError(
                f"members and non-members in {each.path}",
                f"only {'members' if found.all() else 'non-members'}",
                "Save the answers on both: an audit compares them.",
            )
        rows.append(found)
    return np.array(rows)


def _membership_table(path: Path, ids: NDArray[np.str_], reading: Reading) -> dict[str, NDArray[np.bool_]]:
    table = open_table(
        path, Reading(id=None if reading.id is None else reading.id, encoding=reading.encoding), scores=False
    )
    texts = replace(table, columns=replace(table.columns, scores=(), label=""))
    names = table.columns.scores
    held: dict[str, list[NDArray[np.str_]]] = {name: [] for name in (table.columns.id, *names)}
    for name in names:
        # A column at a time keeps the readers as they are: they read text and numbers, not words of all kinds.
        held[table.columns.id] = []
        for piece, _ in replace(texts, columns=replace(texts.columns, category=name)).pieces():
            held[table.columns.id].append(piece[table.columns.id])
            held[name].append(piece[name])
    listed = np.concatenate(held[table.columns.id]) if held[table.columns.id] else np.empty(0, np.str_)
    if len(np.unique(listed)) < len(listed):
        raise SignalsError(f"every id once in {path}", "an id twice", "Write one line a record.")
    order = np.argsort(listed)
    place = np.minimum(np.searchsorted(listed[order], ids), max(len(listed) - 1, 0))
    if not len(listed) or (listed[order][place] != ids).any():
        missing = ids[0] if not len(listed) else ids[int(np.argmax(listed[order][place] != ids))]
        raise SignalsError(f"every record in {path}", f"none with id {str(missing)!r}", "Add a line for it.")
    return {name: as_members(np.concatenate(held[name]), listed, path)[order][place] for name in names}


def _classes(target: Predictions, class_names: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as numbers, and the classes' names in the order of the columns."""
    assert target.labels is not None and target.scores is not None
    distinct, index = np.unique(target.labels, return_inverse=True)
    columns = target.scores.shape[1]
    if class_names:
        names = tuple(canonical(str(each)) for each in class_names)
        if len(names) != (2 if columns == 1 else columns):
            raise ConfigError(f"{max(2, columns)} class_names", f"{len(names)}", "Name the classes of every column.")
    elif columns == 1:
        names = _two_classes(target.classes[0], distinct.tolist(), target.path)
    else:
        names = _names(target.classes, distinct.tolist())
    place = {each: k for k, each in enumerate(names)}
    for value in distinct.tolist():
        if value not in place:
            record = str(target.ids[int(np.argmax(target.labels == value))])
            raise SignalsError(
                f"labels among the classes of {target.path}: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}",
                f"{value!r} for record {record!r}{nearest(value, names)}",
                "Name every class's column like its label, add the missing column, or give class_names=.",
            )
    return np.array([place[value] for value in distinct.tolist()], np.int64)[index], names


def _names(columns: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Class names from column names: as they are, or without what they all begin with."""
    plain = tuple(canonical(each) for each in columns)
    candidates = [plain]
    start = columns[0]
    for each in columns:
        while not each.startswith(start):
            start = start[:-1]
    for cut in range(len(start), 0, -1):
        candidates.append(tuple(canonical(each[cut:]) for each in columns))
    return max(candidates, key=lambda names: sum(label in names for label in labels))


def _two_classes(column: str, labels: Sequence[str], path: Path) -> tuple[str, ...]:
    """The negative and the positive class of a single score."""
    if set(labels) <= {"0", "1"}:
        return ("0", "1")
    if len(labels) == 2:
        named = [label for label in labels if column == label or column.endswith(f"_{label}")]
        if len(named) == 1:
            return tuple(sorted(labels, key=lambda label: label == named[0]))
        if all(label.lstrip("-").isdigit() for label in labels):
            return tuple(sorted(labels, key=float))
    raise SignalsError(
        f"two classes for the single score {column!r} of {path}",
        f"labels {', '.join(labels[:6])}",
        "Name the column like the class whose score it is, give class_names=[negative, positive], or save a column a "
        "class.",
    )


def _aligned(
    target: Predictions,
    other: Predictions,
    order: NDArray[np.int64],
    folder: Path | None,
) -> NDArray[Any]:
    """The other model's scores in the target's order of records and classes."""
    assert other.scores is not None
    if sorted(other.classes) != sorted(target.classes):
        odd = sorted(set(other.classes) ^ set(target.classes))
        raise SignalsError(
            f"the classes of {target.path} in {other.path}",
            f"{len(other.classes)} columns; {odd[0]!r} stands in one of the files only",
            "Save the scores of the same classes, under the same names.",
        )
    where = np.array([other.classes.index(each) for each in target.classes])
    same = (where == np.arange(len(where))).all()
    if same and (order == np.arange(len(order))).all():
        return other.scores
    result = working_array(other.scores.shape, other.scores.dtype, folder)
    for piece in pieces(len(order), max(1, (1 << 21) // len(where))):
        part = other.scores[order[piece]]
        result[piece] = part if same else part[:, where]
        release(result[piece])
        release(other.scores)
    return result


def _kind(
    kind: Kind, target: Predictions, others: Sequence[Predictions], rows: Sequence[NDArray[Any]]
) -> tuple[Literal["logits", "probabilities"], int | None]:
    """What the scores are, the same in every file, and how many of a record's there are if not all."""
    kinds: list[Literal["logits", "probabilities"]] = []
    given: list[int] = []
    for each, values in zip((target, *others), rows, strict=True):
        if (most := most_given(values)) is not None:
            given.append(most)
        if kind == "probabilities" or (kind == "auto" and each.said == "probabilities"):
            check_probabilities(values, target.ids, str(each.path))
            kinds.append("probabilities")
        elif kind == "logits" or each.said == "logits":
            kinds.append("logits")
        else:
            kinds.append(kind_of(values, target.ids, str(each.path)))
        if kinds[-1] != kinds[0]:
            raise SignalsError(
                f"{kinds[0]} in {each.path}, as in {target.path}", kinds[-1], "Save the same of every model."
            )
    if given and kinds[0] == "logits":
        raise SignalsError(
            f"the logits of every class in {target.path}",
            "some missing",
            "Save all logits, or the highest probabilities.",
        )
    return kinds[0], max(given) if given else None


def _of_labels(
    target: Predictions,
    others: Sequence[Predictions],
    orders: Sequence[NDArray[np.int64]],
    members: NDArray[np.bool_],
    class_names: Sequence[str],
) -> Signals:
    assert target.labels is not None and target.predicted is not None
    said = [target.predicted]
    for other, order in zip(others, orders, strict=True):
        assert other.predicted is not None
        said.append(other.predicted[order])
    words = sorted({*np.unique(target.labels).tolist(), *(word for row in said for word in np.unique(row).tolist())})
    codes, names = encode(words, [canonical(str(each)) for each in class_names], str(target.path))
    known = np.array(words)

    def numbers(values: NDArray[np.str_]) -> NDArray[np.int64]:
        return np.asarray(codes[np.searchsorted(known, values)], np.int64)

    return Signals(
        tuple(numbers(row) for row in said), "labels", members, numbers(target.labels), target.ids, class_names=names
    )


def configured(values: Mapping[str, Any], **options: Any) -> Findings:
    """An audit as the section ``predictions`` of a configuration says."""
    given = dict(values)
    path = given.pop("path")
    return audit_predictions(path, given.pop("references", ()), **given, **options)

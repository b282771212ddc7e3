"""Slow oracle of the learned likelihood ratio: the game of references playing target, record by record."""

from __future__ import annotations

import math
import statistics

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from oracles import Oracle, densities, shrunk

SEED = 20_261_122


def _place(o: Oracle, i: int) -> NDArray[np.float64]:
    """Mean of the models' centred log outputs, at unit length."""
    total = np.zeros(len(o.numbers(0, i, 0)))
    for model in range(len(o.member)):
        values = o.numbers(model, i, 0)
        if o.signals.kind == "probabilities":
            values = [math.log(max(v, 1e-6)) for v in values]
        total += np.array(values)
    total -= total.mean()
    length = math.sqrt(float(total @ total))
    return np.float32(total / length if length else total).astype(np.float64)


def _from_the_others(basis: NDArray[np.float64], values: list[float]) -> list[float]:
    """Ridge regression (penalty 30) fitted again for each record, without it."""
    y, result = np.array(values), []
    for i in range(len(y)):
        rest, size = np.delete(basis, i, axis=0), basis.shape[1]
        weights = np.linalg.solve(rest.T @ rest + 30 * np.eye(size), rest.T @ np.delete(y, i))
        result.append(float(basis[i] @ weights))
    return result


def _surroundings(o: Oracle, records: list[int], residual: list[float], member: list[float]) -> list[list[float]]:
    places = np.array([_place(o, i) for i in records])
    anywhere = _from_the_others(places, residual)
    columns = [[0.0] * 4 for _ in records]
    centred = [v - statistics.fmean(member) for v in member]
    for label in {o.label[i] for i in records}:
        chosen = [k for k, i in enumerate(records) if o.label[i] == label]
        around = places[chosen] - places[chosen].mean(axis=0)
        length = math.sqrt(float((around**2).sum(axis=1).mean()))
        around = around / (length if length > 1e-6 else 1.0)
        basis = np.hstack([np.full((len(chosen), 1), math.sqrt(2)), around])
        first = _from_the_others(basis, [residual[k] for k in chosen])
        second = _from_the_others(basis, [centred[k] for k in chosen])
        total = math.fsum(residual[k] for k in chosen)
        for place, k in enumerate(chosen):
            mean = (total - residual[k]) / (len(chosen) - 1 + 30)
            columns[k] = [mean, first[place], anywhere[k], second[place]]
    return columns


def _table(o: Oracle, player: int, rows: dict[int, list[int]], records: list[int]) -> NDArray[np.float32]:
    """Features of every record with ``player`` as target and ``rows`` as its references."""
    each = []
    for q in o.queries:
        sides = []
        for trained in (True, False):
            fits = []
            for i in records:
                values = [o.phi(m, i, q) for m in rows[i] if o.member[m][i] == trained]
                mean = statistics.fmean(values) if values else math.nan
                fits.append((len(values), mean, statistics.variance(values) if len(values) > 1 else math.nan))
            sides.append(fits)
        inside, outside = shrunk(sides)
        table, residual, member = [], [], []
        for k, i in enumerate(records):
            x = o.phi(player, i, q)
            (log_in, z_in), (log_out, z_out) = densities(inside[k], x), densities(outside[k], x)
            p = 0.5 if math.isnan(log_in) else 1 / (1 + math.exp(min(log_out - log_in, 700.0)))
            member.append(p)
            residual.append(0.0 if math.isnan(log_in) else p * z_in + (1 - p) * z_out)
            scales = [0.5 * math.log(outside[k][1]), 0.5 * math.log(inside[k][1])]
            table.append([x, log_in - log_out, outside[k][0], inside[k][0], *scales, z_out, z_in])
        each.append(np.hstack([np.array(table), np.array(_surroundings(o, records, residual, member))]))
    return (np.round(np.mean(each, axis=0), 6) + 0.0).astype(np.float32)


def _rows_of_player(o: Oracle, player: int, speaks: dict[int, list[int]], records: list[int]) -> dict[int, list[int]]:
    """Who speaks when ``player`` plays target: not its twin, or one drawn among those of opposite membership."""
    models = range(len(o.member))
    audited = [i for i in range(len(o.member[0])) if not o.population[i]]
    twins = [m for m in models if all(o.member[m][i] != o.member[player][i] for i in audited)]
    if twins:
        return {i: [m for m in speaks[i] if m not in (player, twins[0])] for i in records}
    rest = {i: [m for m in speaks[i] if m != player] for i in records}
    if len({sum(o.member[m][i] for m in models) for i in audited}) > 1:
        return rest
    draw = np.random.default_rng([SEED, o.target, player]).random((len(o.member), len(records)))
    for k, i in enumerate(records):
        opposite = [m for m in rest[i] if o.member[m][i] != o.member[player][i]]
        if opposite:
            rest[i] = [m for m in rest[i] if m != max(opposite, key=lambda m: float(draw[m, k]))]
    return rest


def lira_learned(o: Oracle) -> list[float]:
    """For pools of at most twelve pairs and twenty-four players, where every unit is a fold of its own."""
    records = [i for i in sorted(o.records, key=lambda i: str(o.signals.ids[i])) if not o.population[i]]
    speaks = {i: [m for m in o.references[i] if m != o.target] for i in records}
    tables, truth = [], []
    for player in sorted({m for rows in speaks.values() for m in rows}):
        table = _table(o, player, _rows_of_player(o, player, speaks, records), records)
        for k, i in enumerate(records):
            if player in speaks[i] and np.isfinite(table[k]).all():
                tables.append(table[k])
                truth.append(o.member[player][i])
    model = HistGradientBoostingClassifier(
        max_iter=80,
        learning_rate=0.08,
        max_leaf_nodes=10,
        min_samples_leaf=min(max(len(truth) // 200, 5), 100),
        l2_regularization=1.0,
        early_stopping=False,
        random_state=0,
    ).fit(np.array(tables), np.array(truth))
    result = [math.nan] * len(o.label)
    for i, row in zip(records, _table(o, o.target, {i: o.references[i] for i in records}, records), strict=True):
        if np.isfinite(row).all():
            result[i] = float(model.decision_function(row[None])[0])
    return result

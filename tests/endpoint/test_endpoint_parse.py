"""Answers in every shape, and the access found in them; requests and their keys."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memberscope.doors.endpoint_queries import copies
from memberscope.targets.http.config import Endpoint, Robustness
from memberscope.targets.http.detect import arrays, decimals, detect, fill_hidden, only_best
from memberscope.targets.http.errors import EndpointError
from memberscope.targets.http.pace import retry_after
from memberscope.targets.http.parse import Answer, Parser
from memberscope.targets.http.secrets import Secrets
from memberscope.targets.http.template import Template

BASE = {"uri": "http://host/predict", "request": {"x": "$INPUT"}, "scores": "$.s"}


def endpoint(**changes: Any) -> Endpoint:
    return Endpoint.parse({key: value for key, value in (BASE | changes).items() if value is not None})


def seen(*answers: Any, classes: tuple[str, ...] = ("a", "b", "c"), **changes: Any) -> Any:
    described = endpoint(**changes)
    parse = Parser(described)
    return detect({f"r{i}": parse({"s": answer}, f"r{i}") for i, answer in enumerate(answers)}, described, classes)


SHAPES = [
    ([[0.2, 0.31234567, 0.48765433]], {}, "scores", 3),
    ([[[0.2, 0.31234567, 0.48765433]]], {}, "scores", 3),
    ([{"a": 0.21234567, "b": 0.3, "c": 0.48765433}], {}, "scores", 3),
    ([[{"label": "a", "score": 0.71234567}, {"label": "c", "score": 0.2}]], {}, "top_k", 3),
    ([[0.71234567, None, 0.2]], {}, "top_k", 3),
    ([[0.71234567, 0.0, 0.2]], {}, "top_k", 3),
    ([[0.2, 0.31, 0.49]], {}, "rounded", 3),
    # Three roundings of at most half the last decimal each.
    ([[0.33, 0.33, 0.33]], {}, "rounded", 3),
    ([[1, 0, 0], [0, 1, 0]], {}, "label", 3),
    ([[-3.2, 0.1, 5.0]], {}, "logits", 3),
    ([[0.2, 0.3, 0.4]], {"kind": "logits"}, "logits", 3),
    ([0.7123456789], {}, "scores", 1),
    ([[0.7123456789]], {}, "scores", 1),
    ([2], {}, "label", 0),
    ([[2]], {}, "label", 0),
    (["b"], {}, "label", 0),
    ([["b"]], {}, "label", 0),
]


@pytest.mark.parametrize(("answers", "changes", "level", "width"), SHAPES, ids=range(len(SHAPES)))
def test_shapes(answers: list[Any], changes: dict[str, Any], level: str, width: int) -> None:
    classes = ("0", "1", "2") if isinstance(answers[0], int) or answers[0] == [2] else ("a", "b", "c")
    found = seen(*answers, classes=classes, **changes)
    assert (found.level, found.classes) == (level, width)


@pytest.mark.parametrize(
    "answer", [None, [], {}, "", True, [True, False], [1, "a"], {"a": "b"}, [[1, 2], [3, 4]], [{}]]
)
def test_what_is_no_answer(answer: Any) -> None:
    parse = Parser(endpoint())
    if answer in ("", True):
        assert parse({"s": answer}, "r").label is not None
    else:
        with pytest.raises(EndpointError, match="numbers, one a class"):
            parse({"s": answer}, "r")


@given(st.integers(2, 8), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_rounding_is_found_whatever_the_digits(classes: int, digits: int, seed: int) -> None:
    p = np.random.default_rng(seed).dirichlet(np.ones(classes), 20)
    assert decimals(p) is None
    found = decimals(np.round(p, digits))
    assert found is not None and found <= digits


@given(st.integers(3, 10), st.integers(0, 2**32 - 1), st.data())
def test_hidden_scores_are_filled_in_within_what_is_possible(classes: int, seed: int, data: st.DataObject) -> None:
    shown = data.draw(st.integers(1, classes - 1))
    p = np.random.default_rng(seed).dirichlet(np.ones(classes), 6)
    filled = fill_hidden(only_best(p, shown), shown)
    assert np.allclose(filled.sum(axis=1), 1)
    for row, full in zip(filled, p, strict=True):
        best = np.argsort(-full)[:shown]
        # The shown ones keep their order and their share; no hidden one passes the least of them.
        assert (np.argsort(-row[best], kind="stable") == np.arange(shown)).all()
        hidden = np.setdiff1d(np.arange(classes), best)
        assert row[hidden].max() <= row[best].min() + 1e-12 and np.ptp(row[hidden]) < 1e-12


def test_scores_by_name_go_to_their_classes() -> None:
    described = endpoint()
    answers = [Answer(np.array([0.7, 0.2, 0.1]), ("c", "a", "b")), Answer(np.array([0.5, 0.3, 0.2]), ("b", "a", "c"))]
    found = detect({"1": answers[0], "2": answers[1]}, described, ("a", "b", "c"))
    given_ = arrays(answers, found, ("a", "b", "c"))
    assert given_.outputs.tolist() == [[0.2, 0.1, 0.7], [0.3, 0.5, 0.2]] and given_.names == ("a", "b", "c")


def test_keys_follow_what_is_sent_and_nothing_else() -> None:
    row = np.array([1.5, 2.0])
    one = Template(endpoint()).question("r1", row)
    assert one.key == Template(endpoint(timeout=3, concurrency=9)).question("another", row.copy()).key
    others = [
        Template(endpoint()).question("r1", np.array([1.5, 2.1])),
        Template(endpoint(uri="http://host/other")).question("r1", row),
        Template(endpoint(request={"y": "$INPUT"})).question("r1", row),
        Template(endpoint(headers={"X-Version": "2"})).question("r1", row),
        Template(endpoint(method="PUT")).question("r1", row),
    ]
    assert len({one.key, *(other.key for other in others)}) == 6


def test_requests() -> None:
    secrets = Secrets({"TOKEN": "secret-1"})
    row = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])

    def sent(**changes: Any) -> Any:
        template = Template(endpoint(**changes), ["${TOKEN}", "b"])
        values = np.array([1.0, 2.0]) if "object" in str(changes) else row
        return template.request(template.question("r", values), secrets)

    assert sent(request={"x": "$INPUT", "k": "${TOKEN}"}).body == (
        b'{"x": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]], "k": "secret-1"}'
    )
    assert sent(input={"layout": "hwc"}).body == b'{"x": [[[1, 5], [2, 6]], [[3, 7], [4, 8]]]}'
    # A feature's name is data, and never a secret's name.
    assert sent(input={"form": "object"}).body == b'{"x": {"${TOKEN}": 1.0, "b": 2.0}}'
    assert sent(request="rows=$INPUT").body == b"rows=[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]"
    body = sent(uri="http://h/v2/models/m/infer", protocol="open_inference", request=None, scores=None).body
    assert b'"shape": [1, 2, 2, 2]' in body and b'"data": [1, 2, 3, 4, 5, 6, 7, 8]' in body
    assert dict(sent(headers={"Authorization": "Bearer ${TOKEN}"}).headers)[b"Authorization"] == b"Bearer secret-1"
    assert "secret-1" not in repr(sent(request={"x": "$INPUT", "k": "${TOKEN}"}))


def test_images_as_png() -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (3, 5, 4), dtype=np.uint8)
    values = Template(endpoint(input={"form": "png"})).question("r", image).values
    with Image.open(io.BytesIO(base64.b64decode(values["$INPUT"]))) as read:
        assert (np.asarray(read) == np.moveaxis(image, 0, 2)).all()


def test_copies_depend_on_the_record_alone() -> None:
    how = Robustness(copies=5, noise=0.5)
    row, spread = np.array([0.0, 1.0, 2.0]), np.array([1.0, 10.0, 0.0])
    made = copies(row, how, spread, 0)
    assert all((a == b).all() for a, b in zip(made, copies(row.copy(), how, spread, 0), strict=True))
    assert not (made[0] == copies(row + 1, how, spread, 0)[0] - 1).all()
    assert not (made[0] == made[1]).all() and all(copy[2] == 2.0 for copy in made)
    bits = np.random.default_rng(0).integers(0, 2, 4000)
    turned = copies(bits, Robustness(copies=3, flips=0.1), spread[:1], 0)
    assert all(set(np.unique(copy)) <= {0, 1} and 0.07 < (copy != bits).mean() < 0.13 for copy in turned)
    image = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    moved = copies(image, Robustness(copies=4, shift=1, mirror=True), spread[:1], 0)
    assert all(copy.dtype == np.uint8 and sorted(copy.ravel()) == sorted(image.ravel()) for copy in moved)


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("0", None, 0.0),
        (" 7 ", None, 7.0),
        ("-5", None, None),
        ("1.5", None, None),
        ("", None, None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None, 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:27:00 GMT", 60.0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None, None),
    ],
)
def test_retry_after(value: str, date: str | None, seconds: float | None) -> None:
    assert retry_after(value, date) == seconds

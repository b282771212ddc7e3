"""Numbers as printed: never a wrong digit, never a rounding that changes what is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memberscope.report import format as fmt
from memberscope.report.views.context import pairs
from memberscope.types import Figure


def back(text: str) -> float:
    return float(text.replace("−", "-").replace("\u202f", "").rstrip("%"))


@given(st.floats(1e-4, 0.999))
def test_percentages_keep_two_digits_and_their_order_of_size(value: float) -> None:
    assert back(fmt.percent(value)) / 100 == pytest.approx(value, rel=0.06)


@given(st.floats(0, 1), st.floats(0, 1))
def test_percentages_never_swap_order(one: float, other: float) -> None:
    low, high = sorted((one, other))
    texts = [fmt.percent_number(value) for value in (low, high)]
    if not any(text.startswith(">") for text in texts):
        assert float(texts[0]) <= float(texts[1]) + 1e-9


def test_nearly_all_is_never_printed_as_all() -> None:
    assert fmt.percent_number(0.999999) == "> 99.99"
    assert fmt.percent_number(0.9995) == "99.95"


@given(st.floats(0, 1))
def test_decimals_are_the_rounded_value(value: float) -> None:
    assert float(fmt.decimal(value)) == pytest.approx(value, abs=5.1e-4)


@given(st.floats(1e-5, 1))
def test_one_in_is_close_to_the_share(share: float) -> None:
    words = fmt.one_in(share)
    if words in ("all", "nearly all"):
        assert share >= 0.95
    else:
        above, below = words.replace("\u202f", "").split(" in ")
        assert int(above) / int(below) == pytest.approx(share, rel=0.26)


@given(st.floats(1e-12, 0.99))
def test_p_values_keep_two_digits(value: float) -> None:
    text = fmt.p_value(value).replace(" × 10", "e").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    assert float(text) == pytest.approx(value, rel=0.06)


@given(st.integers(-(10**12), 10**12))
def test_grouping_loses_no_digit(value: int) -> None:
    assert int(fmt.grouped(value).replace("\u202f", "")) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "none"),
        (True, "yes"),
        (False, "no"),
        ([], "none"),
        ([1, 2], "1, 2"),
        (list(range(20)), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 … (20 in all)"),
        ("text", "text"),
        (1.0e-9, "1 × 10⁻⁹"),
    ],
)
def test_free_form_values_become_text(value: object, words: str) -> None:
    assert fmt.text(value) == words


def test_free_form_mappings_keep_their_figures_and_their_nesting() -> None:
    found = pairs(
        {
            "test_accuracy": {"value": 0.774, "low": 0.762, "high": 0.786},
            "train_accuracy": Figure.not_measurable("no labels"),
            "recipe": {"epochs": 30, "learning_rate": 0.1},
            "hashes": {"run": "a" * 64},
            "empty": {},
        }
    )
    assert next((label, fmt.THIN in str(value)) for label, value in found) == ("Test accuracy", True)
    assert dict(found)["Train accuracy"] == "no labels"
    assert dict(found)["Recipe"] == "epochs 30, learning rate 0.1"
    assert dict(found)["Hashes"] == [("Run", "a" * 64)]
    assert "Empty" not in dict(found)


def test_unknown_attacks_and_access_levels_are_named_in_words() -> None:
    assert fmt.attack_title("loss_trace") == "Loss trace"
    assert fmt.access_label("whatever_else") == "whatever else"
    assert fmt.access_label("label") == "predicted label"

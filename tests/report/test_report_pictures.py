"""Records as they are drawn or listed: the right record by its id, its true pixels, its truly rare values."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from memberscope.report import render
from memberscope.report.pictures import thumbnails, unusual_values
from memberscope.types import Dataset
from report.builder import ANIMALS, build, images, table


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_beside_an_id_is_that_records_image(channels: int) -> None:
    data = images(700, channels)
    # Positions in the data say nothing about ids: the order is shuffled.
    data = data.take(np.random.default_rng(0).permutation(len(data)))
    html = render(build(), dataset=data)
    found = re.findall(r'<img src="([^"]+)" alt="Record ([^,]+), class', html)
    assert len(found) == 60
    for uri, ident in found:
        wanted = data.inputs[int(np.flatnonzero(data.ids == ident)[0])]
        got = pixels(uri)
        assert np.array_equal(got if channels == 1 else got.transpose(2, 0, 1), wanted[0] if channels == 1 else wanted)
    assert 'class="pixelated"' in html


def test_tones_of_other_number_types_are_spread_from_black_to_white() -> None:
    inputs = np.zeros((3, 1, 4, 4))
    inputs[0, 0, 0, 0], inputs[1, 0, 0, 0] = 1.0, 0.5
    unit = Dataset(inputs, np.zeros(3, int))
    assert pixels(str(thumbnails(unit, np.array([1]))[0]))[0, 0] == 128
    sixteenths = Dataset((inputs * 16).astype(np.uint8), np.zeros(3, int))
    assert pixels(str(thumbnails(sixteenths, np.array([0]))[0])).max() == 255
    centred = Dataset(inputs * 4 - 2, np.zeros(3, int))
    assert pixels(str(thumbnails(centred, np.array([1]))[0]))[0].tolist() == [128, 0, 0, 0]
    flat = Dataset(np.full((2, 1, 4, 4), 7.0), np.zeros(2, int))
    assert pixels(str(thumbnails(flat, np.array([0]))[0])).max() == 0


def test_large_images_are_reduced_and_odd_channels_left_out() -> None:
    large = Dataset(np.random.default_rng(0).integers(0, 256, (2, 3, 300, 200), np.uint8), np.zeros(2, int))
    assert pixels(str(thumbnails(large, np.array([0]))[0])).shape == (96, 64, 3)
    odd = Dataset(np.zeros((2, 4, 8, 8)), np.zeros(2, int))
    assert thumbnails(odd, np.array([0, 1])) == [None, None]
    assert thumbnails(large, np.array([], int)) == []


def test_binary_rows_list_their_rarest_features_in_the_class() -> None:
    rng = np.random.default_rng(1)
    inputs = (rng.random((400, 30)) < 0.3).astype(np.uint8)
    labels = np.arange(400) % 2
    inputs[labels == 0, 7] = 0
    inputs[0, [7, 3]] = 1
    names = tuple(f"item {j}" for j in range(30))
    values = unusual_values(Dataset(inputs, labels, feature_names=names), np.array([0]))[0]
    share = inputs[labels == 0].mean(axis=0)
    order = sorted(np.flatnonzero(inputs[0]), key=lambda j: share[j])[:5]
    assert [row[0] for row in values.rows] == [f"item {j}" for j in order]
    assert values.rows[0][0] == "item 7"
    assert f"{inputs[0].sum()} of 30" in values.heading


def test_numeric_rows_list_the_values_farthest_from_their_class() -> None:
    rng = np.random.default_rng(2)
    inputs = rng.normal(10, 1, (500, 12))
    inputs[4, 9] = 99.0
    values = unusual_values(Dataset(inputs, np.zeros(500, int)), np.array([4]))[0]
    assert values.rows[0][:2] == ("feature 9", "99")
    assert values.rows[0][2].startswith("class mean 10.2")


def test_a_class_of_one_record_and_constant_columns_do_no_harm() -> None:
    inputs = np.ones((3, 4)) * 2.5
    values = unusual_values(Dataset(inputs, np.array([0, 1, 1])), np.array([0, 1]))
    assert [v.rows for v in values] == [[], []]


@pytest.mark.parametrize("binary", [True, False])
def test_tables_show_their_features_in_the_page(binary: bool) -> None:
    data = table(binary=binary)
    html = render(build(kind="table", analyses=None), dataset=data)
    first = data.inputs[int(np.flatnonzero(data.ids == "train/00017")[0])]
    assert "<img" not in html
    assert html.count('<ul class="values">') == 12
    assert ("features set; the rarest in its class" in html) == binary
    assert (f"{int(first.sum())} of 40 features set" in html) == binary
    assert ANIMALS[0] in html

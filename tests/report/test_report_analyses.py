"""The sections on what the leaking records are: every number, sentence and id, and nothing where nothing was done."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from memberscope.report import format as fmt
from memberscope.report import render
from memberscope.types import Findings
from report.builder import ANIMALS, build, images, table
from report.made import FEW, SCORES, TRACELESS, embedding, made, rewritten
from report.page import figure_texts, part, plain, read


@pytest.fixture(scope="module")
def findings() -> Findings:
    return build()


@pytest.fixture(scope="module")
def html(findings: Findings) -> str:
    return render(findings, dataset=images())


def row_of(source: str, epoch: int) -> str:
    """What the row of an epoch reads."""
    row = re.findall(rf'<tr><th scope="row">{epoch}</th>.*?</tr>', source, re.S)[0]
    return read(f"<table>{row}</table>").text


def test_every_epoch_stands_in_its_row_with_its_intervals(findings: Findings, html: str) -> None:
    source = part(html, "trajectory")
    page, trajectory = read(source), made(findings).trajectory
    assert trajectory is not None and trajectory.sentence in page.text
    first, further = source.split("<details>")
    for point in trajectory.points:
        assert point.reference_auc is not None and point.reference_tpr_at_fpr is not None
        line = [
            *figure_texts(point.train_accuracy, "share"), *figure_texts(point.test_accuracy, "share"),
            *figure_texts(point.auc, "score"), *figure_texts(point.advantage, "score"),
            *figure_texts(point.tpr_at_fpr["0.01"], "share"), *figure_texts(point.reference_auc, "score"),
            *figure_texts(point.reference_tpr_at_fpr["0.01"], "share"),
        ]  # fmt: skip
        assert row_of(first, point.epoch) == f"{point.epoch} {' '.join(line)}"
        low, high = (figure_texts(p["0.1"], "share") for p in (point.tpr_at_fpr, point.reference_tpr_at_fpr))
        cells = f"{' '.join(low)} not measurable1 {' '.join(high)} not measurable1"
        assert row_of(further, point.epoch) == f"{point.epoch} {cells}"
        assert page.ids[f"growth-histogram-{point.epoch}-title"] == 1
    assert f"Not measurable: {FEW}" in page.text


def test_without_a_reference_attack_no_column_and_no_line_of_it_is_left(findings: Findings) -> None:
    trajectory = made(findings).trajectory
    assert trajectory is not None
    bare = [p.model_copy(update={"reference_auc": None, "reference_tpr_at_fpr": None}) for p in trajectory.points]
    alone = trajectory.model_copy(update={"points": bare, "reference_attack": None})
    source = part(render(rewritten(findings, trajectory=alone)), "trajectory")
    assert "eference" not in source and source.count("#00735a") == 0
    assert part(render(findings), "trajectory").count("#00735a") > 0


def test_of_many_epochs_eight_are_drawn_and_all_listed(findings: Findings) -> None:
    trajectory = made(findings).trajectory
    assert trajectory is not None
    points = [trajectory.points[k % 4].model_copy(update={"epoch": k + 1}) for k in range(30)]
    source = part(
        render(rewritten(findings, trajectory=trajectory.model_copy(update={"points": points}))), "trajectory"
    )
    drawn = [
        int(e) for e in re.findall(r'id="growth-histogram-(\d+)"|growth-histogram-(\d+)-title"', source) for e in e if e
    ]
    assert len(set(drawn)) == 8 and {1, 30} <= set(drawn)
    assert "8 of the 30 kept epochs are drawn" in source
    assert all(f'<th scope="row">{e}</th>' in source for e in range(1, 31))


def test_definitions_triage_and_counts_stand_in_the_page(findings: Findings, html: str) -> None:
    text, v, o = read(part(html, "outliers")).text, made(findings).vulnerability, made(findings).outliers
    assert v is not None and o is not None
    for words in (
        v.sentence,
        o.sentence,
        v.definition,
        "137",
        "8403",
        "of 9871 judged",
        "1.4 %",
        "Partly",
        "1370 controls",
    ):
        assert words in text, words
    for cell in v.paper:
        for words in (
            cell.sentence,
            f"{cell.selected}",
            *figure_texts(cell.share, "share"),
            *figure_texts(cell.agreement, "share"),
        ):
            assert words in text
        assert plain(fmt.rate(cell.percentile)) in text and plain(fmt.rate(cell.base_rate)) in text
    for score in v.triage:
        row = text[text.index(score.title) :]
        wanted = [
            *figure_texts(score.auroc, "score"),
            *(t for f in score.precision.values() for t in figure_texts(f, "share")),
        ]
        places = [row.find(words) for words in wanted]
        assert max(places) < 260 and min(places) > 0
    text = read(
        part(
            render(
                rewritten(
                    findings, vulnerability=v.model_copy(update={"triage": [], "triage_reason": "training was clipped"})
                )
            ),
            "outliers",
        )
    ).text
    assert "Not done: training was clipped" in text and "Spread of the loss trace (free)" not in text


def test_every_score_of_both_views_stands_in_the_page(findings: Findings, html: str) -> None:
    source, outliers = part(html, "outliers"), made(findings).outliers
    assert outliers is not None
    text = read(source).text
    for score in outliers.scores:
        wanted = [
            *figure_texts(score.auroc, "score"), *figure_texts(score.spearman, "score"),
            *figure_texts(score.effect, "score"),
            *(t for f in score.precision.values() for t in figure_texts(f, "share")),
        ]  # fmt: skip
        assert score.title in text and all(words in text for words in wanted)
        if score.adjusted_p_value is not None and score.p_value is not None:
            assert fmt.p_value(score.adjusted_p_value) in text and fmt.p_value(score.p_value) in text
    assert f"Not measurable: {TRACELESS}" in text
    main = source[: source.index("<details>")]
    assert re.findall(r'<tr><th scope="row">([^<]+)</th>\s*<td data-label="AUROC"', main) == list(SCORES.values())


def test_scores_are_ranked_and_the_target_stands_in_where_there_is_nothing_else(findings: Findings) -> None:
    outliers = made(findings).outliers
    assert outliers is not None
    own = [s for s in outliers.scores if s.view == "target"][::-1]
    source = part(render(rewritten(findings, outliers=outliers.model_copy(update={"scores": own}))), "outliers")
    main = source[: source.index("<details>")]
    assert re.findall(r'<tr><th scope="row">([^<]+)</th>\s*<td data-label="AUROC"', main) == list(SCORES.values())
    assert "read from the target itself" in main and "from target" not in main


def test_listed_records_keep_their_id_class_nearest_class_and_percentiles(findings: Findings, html: str) -> None:
    text, outliers = read(part(html, "outliers")).text, made(findings).outliers
    assert outliers is not None and len(outliers.top) == 40
    for row in outliers.top:
        cells = "".join(fmt.percentile(share) for share in row.percentiles.values())
        assert plain(f"{row.id}{row.label_name}{row.nearest_class}{cells}") in text
    # The first six by mean percentile, and the last six.
    titles = re.findall(r'<p class="id" title="([^"]+)"', part(html, "outliers"))
    assert titles == [row.id for row in outliers.top[:6] + outliers.top[-6:]]
    assert text.count("lies nearest to its own class") == 6


def test_cards_of_exposed_records_name_the_class_that_they_lie_nearest_to(findings: Findings, html: str) -> None:
    outliers = made(findings).outliers
    assert outliers is not None
    text = read(part(html, "records")).text
    for row in outliers.top[:12]:
        near = f"{row.id} {row.label_name}"
        told = f"{near}, lies nearest to {row.nearest_class}"
        assert (told in text) == (row.nearest_class != row.label_name) and near in text


def test_maps_tell_their_counts_purity_and_note(findings: Findings, html: str) -> None:
    source = part(html, "embedding")
    text = read(source).text
    for place, e in enumerate(made(findings).embeddings):
        for words in (*figure_texts(e.purity_vulnerable, "share"), *figure_texts(e.purity_others, "share"), e.note):
            assert words in text
        drawn = source[source.index(f'aria-labelledby="map-{place}-title') :]
        drawn = drawn[: drawn.index("</svg>")]
        assert drawn.count("h0") == len(e.ids) == 123
        assert drawn.count("a5.2 5.2 0 1 0 10.4 0a") == 2 * sum(e.vulnerable) == 36
    assert "123 of 492 records, 62 of them in its training data, 18 vulnerable; perplexity 30" in text
    first = made(findings).embeddings[0]
    for label, name in enumerate(ANIMALS):
        shown = first.label.count(label)
        ringed = sum(v for v, k in zip(first.vulnerable, first.label, strict=True) if k == label)
        assert f"{name} ({ringed} of {shown} vulnerable)" in text and f"{name}, {ringed} of {shown} vulnerable" in text


def test_more_classes_than_colours_are_grey_with_the_most_vulnerable_drawn_one_by_one(findings: Findings) -> None:
    names = tuple(f"cluster {k}" for k in range(100))
    ids = [f"r{i}" for i in range(700)]
    labels = [i % 100 for i in range(700)]
    e = embedding(ids, labels, "features")
    e = e.model_copy(update={"vulnerable": [k >= 60 and i % 3 == 0 for i, k in enumerate(labels)]})
    source = part(render(rewritten(build(class_names=names), embeddings=[e])), "embedding")
    counted = {k: sum(v for v, label in zip(e.vulnerable, labels, strict=True) if label == k) for k in range(100)}
    drawn = [int(k) for k in re.findall(r'id="map-0-class-(\d+)-title"', source)]
    assert len(drawn) == 30 and min(counted[k] for k in drawn) >= max(counted[k] for k in counted if k not in drawn)
    assert "The 30 classes with most vulnerable records" in source
    assert set(re.findall(r"stroke:var\(--dot,(#\w+)\)", source)) == {"#9aa4b1"}
    assert source.count("<option") == 101 and 'data-maps="grey"' in source


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_the_map_lies_over_the_very_image_that_stands_beside_it(findings: Findings) -> None:
    data = images()
    data = data.take(np.random.default_rng(1).permutation(len(data)))
    source = part(render(findings, dataset=data), "attribution")
    attribution = made(findings).attribution
    assert attribution is not None
    pairs = re.findall(r'<img src="([^"]+)" alt="Image of ([^,]+), class [^"]+"[^>]*>\s*<img src="([^"]+)"', source)
    assert [ident for _, ident, _ in pairs] == [m.id for m in attribution.maps]
    for (image, ident, heat), item in zip(pairs, attribution.maps, strict=True):
        own = data.inputs[int(np.flatnonzero(data.ids == ident)[0])].transpose(1, 2, 0)
        assert np.array_equal(pixels(image), own)
        shown = pixels(heat).astype(float)
        assert shown.shape == (96, 96, 3)
        # Without the image's part what is left is brightest where the map is: same row and column.
        left = shown - 0.45 * np.kron(own, np.ones((3, 3, 1)))
        row, column = np.unravel_index(np.argmax(left.sum(axis=2)), (96, 96))
        peak = np.unravel_index(np.argmax(item.map), (7, 7))
        assert abs(row / 96 - (peak[0] + 0.5) / 7) < 0.09 and abs(column / 96 - (peak[1] + 0.5) / 7) < 0.09


def test_maps_stand_alone_where_the_images_are_not_given(findings: Findings) -> None:
    source = part(render(findings), "attribution")
    assert source.count("<img") == 8 and "the maps stand alone" in source and "Image of" not in source
    assert pixels(re.findall(r'<img src="([^"]+)"', source)[0]).shape == (91, 91, 3)


def test_explained_records_keep_their_words_and_focus_its_numbers(findings: Findings, html: str) -> None:
    text, attribution = read(part(html, "attribution")).text, made(findings).attribution
    assert attribution is not None
    assert attribution.sentence in text and "stage3.conv2" in text
    order = [
        text.index(title)
        for title in ("Vulnerable, nearest", "Vulnerable, farthest", "Protected, nearest", "Protected, farthest")
    ]
    assert order == sorted(order)
    for k, item in enumerate(attribution.maps):
        verdict = f"taken for {item.predicted_name}" if item.predicted_name != item.label_name else "predicted so"
        words = (
            f"{item.id} {item.label_name}, {verdict} distance to the middle of its class {fmt.number(item.distance)}"
        )
        assert order[k // 2] < text.index(words) < [*order, len(text)][k // 2 + 1]
    for row in attribution.focus:
        assert row.title in text
        for figure in (row.vulnerable, row.controls, row.difference):
            assert all(words in text for words in figure_texts(figure, "score"))
        for p in (row.p_value, row.adjusted_p_value):
            assert p is None or fmt.p_value(p) in text
    assert "not measurable" in text


def test_tables_get_bars_whose_side_and_length_are_the_attribution() -> None:
    findings = build(kind="table")
    source = part(render(findings, dataset=table()), "attribution")
    attribution = made(findings).attribution
    assert attribution is not None and "<img" not in source
    end = max(abs(a) for item in attribution.maps for _, _, a in item.features)
    bars = re.findall(
        r'<span class="feature">([^<]+) = (\d)</span><svg[^>]*>'
        r'<rect x="([\d.]+)" y="3" width="([\d.]+)"[^>]*class="(\w+)"',
        source,
    )
    wanted = [feature for item in attribution.maps for feature in item.features[:8]]
    assert len(bars) == len(wanted) == 64
    for (name, value, x, width, side), (feature, number, attributed) in zip(bars, wanted, strict=True):
        assert (name, float(value)) == (feature, number)
        assert float(width) == pytest.approx(100 * abs(attributed) / end, abs=0.1)
        assert float(x) == pytest.approx(100 if attributed > 0 else 100 - float(width), abs=0.11)
        assert side == ("for" if attributed > 0 else "against")
    assert source.count("and 2 more features that count less") == 8


def test_tables_list_the_values_of_the_records_that_stand_out() -> None:
    source = part(render(build(kind="table"), dataset=table()), "outliers")
    assert source.count("features set; the rarest in its class") == 6 and "<img" not in source

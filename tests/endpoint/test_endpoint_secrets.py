"""No secret in any file, log, error or output, even where the server sends it back."""

from __future__ import annotations

import base64
import json
import logging
from urllib.parse import quote

import pytest
from endpoint_site import SECRET, Site
from hypothesis import given
from hypothesis import strategies as st

from commands import command
from memberscope.doors.endpoint import attack_endpoint
from memberscope.errors import ConfigError
from memberscope.targets.http.secrets import HIDDEN, Secrets

HEADERS = {"Authorization": "Bearer ${MODEL_TOKEN}"}
FORMS = [SECRET, SECRET.upper(), quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode().rstrip("=")]
# Half of it is half of the way.
HALF = SECRET[: len(SECRET) // 2]

ROUTES = ["echo", "echo-denied", "echo-html", "echo-class", "echo-redirect"]


@pytest.mark.parametrize("route", ROUTES)
def test_an_endpoint_that_echoes_the_secret(
    site: Site, route: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scores = "$.class" if route == "echo-class" else "$.scores"
    described = site.describe(route, headers=HEADERS, scores=scores, classes=["0", "1"])
    status, said, noise = command(
        ["attack", str(described), "--candidates", str(site.candidates(20)), "--out", str(site.out)], capsys
    )
    assert status == (0 if route == "echo" else 2), noise
    # It was really sent, and would be there.
    assert site.server.headers[0]["authorization"] == f"Bearer {SECRET}"
    assert any("httpcore" in record.name for record in caplog.records)
    everything = said + noise + "".join(f"{r.getMessage()}{r.args}{r.exc_text}" for r in caplog.records)
    for form in (*FORMS, HALF):
        assert form.lower() not in everything.lower()
        assert site.files_with(form) == []
    if route == "echo":
        kept = (site.out / "endpoint/transcript.jsonl").read_text()
        assert HIDDEN in kept and "${MODEL_TOKEN}" in (site.out / "config.yaml").read_text()


def test_secrets_in_the_address_and_the_body(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    values = site.values("rounded?api_key=${MODEL_TOKEN}", request={"x": "$INPUT", "auth": "${MODEL_TOKEN}"})
    attack_endpoint(values, site.candidates(20), out=site.out)
    assert json.loads(next(iter(site.server.by_content["rounded"])))["auth"] == SECRET
    assert all(site.files_with(form) == [] for form in FORMS)
    assert not any(form in record.getMessage() for record in caplog.records for form in FORMS)


def test_another_secret_asks_nothing_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    values = site.values("rounded", headers=HEADERS)
    attack_endpoint(values, site.candidates(20), out=site.out)
    monkeypatch.setenv("MODEL_TOKEN", "rotated-token-0001")
    attack_endpoint(values, site.candidates(20), out=site.out)
    assert site.server.asked["rounded"] == 20


@pytest.mark.parametrize(
    ("value", "says"), [("", "an empty variable"), ("abc", "3 characters"), ("line\nbreak-in-it", "a line break")]
)
def test_a_secret_that_is_none(site: Site, monkeypatch: pytest.MonkeyPatch, value: str, says: str) -> None:
    monkeypatch.setenv("MODEL_TOKEN", value)
    with pytest.raises(ConfigError, match=says) as raised:
        attack_endpoint(site.values("rounded", headers=HEADERS), site.candidates(20), out=site.out)
    assert "MODEL_TOKEN" in str(raised.value) and "break-in" not in str(raised.value)
    assert not site.server.asked


def test_other_letters_than_ascii_in_a_secret(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_TOKEN", "pässwörd-12345")
    attack_endpoint(site.values("rounded", headers=HEADERS), site.candidates(20), out=site.out)
    assert site.server.asked["rounded"] == 20 and site.files_with("ssw\u00f6rd") == []


SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=6, max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(max_size=10), parts, max_size=4),
    max_leaves=12,
)


@given(SECRETS, st.text(max_size=20), st.text(max_size=20), JSON)
def test_cleaning_leaves_nothing_and_touches_nothing_else(secret: str, before: str, after: str, other: object) -> None:
    kept = Secrets({"TOKEN": secret})
    encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
    for form in (secret, quote(secret, safe=""), encoded, json.dumps(secret)[1:-1]):
        cleaned = kept.clean(before + form + after)
        assert HIDDEN in cleaned and (form not in cleaned or form in HIDDEN or form in before + HIDDEN + after)
    assert secret not in repr(kept) or secret in "Secrets(TOKEN)"
    nested = {"a": [secret, {secret: other}]}
    assert secret not in [kept.clean_json(nested)["a"][0], *kept.clean_json(nested)["a"][1]]
    assert Secrets({}).clean_json(other) == other

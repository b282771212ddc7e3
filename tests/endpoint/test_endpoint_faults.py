"""Every way an endpoint or its description can be wrong: expected, got, do this; nothing asked in vain."""

from __future__ import annotations

import shutil
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endpoint_servers import Running
from endpoint_site import Site

from commands import command
from memberscope.doors.endpoint import attack_endpoint
from memberscope.targets.http.errors import EndpointError


@dataclass(frozen=True)
class Case:
    """A route or a change of the description, what must be said, and how many requests may be sent to learn it."""

    name: str
    route: str
    says: str
    at_most: int = 5
    changes: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case("HTML", "html", "an HTML page: '<!DOCTYPE html><title>Log in</title>'", 1),
    Case("no JSON", "text", "text/plain", 1),
    Case("HTML midway", "turns-html", "an HTML page", 26),
    Case("changes its classes", "changes", "got: 3 scores for record", 26),
    Case("turns to labels", "turns-label", "the class 'benign' alone", 26),
    Case("redirect", "redirect", "a redirect to /predict", 1),
    Case("redirects for ever", "loop", "again and again", 3, {"redirects": "same_origin"}),
    Case("NaN", "nan", "NaN for record", 1),
    Case("infinity", "huge", "infinity for record", 1),
    Case("unnormalised", "unnormalised", "that sum to 0.7 to 0.7"),
    Case("per cent", "percent", "divide them"),
    Case("not found", "nowhere", "status 404", 1),
    Case("wrong method", "predict", "status 405", 1, {"method": "PUT"}),
    Case("server error", "refuses-some", "status 500", 1, {"request": {"y": "$INPUT"}, "retry_codes": [503]}),
    Case("refuses a record", "refuses-some", "add 422 to skip_codes", 60),
    Case("always 500", "down", "5 failures in a row, the last: status 500", 5, {"give_up_after": 5}),
    Case("always limited", "always-limited", "Set requests_per_minute", 5, {"give_up_after": 5, "backoff": 0.001}),
    Case("an hour's wait", "hour", "asks to wait 3600 seconds", 1),
    Case("timeout", "hangs", "no answer within 0.2 seconds", 3, {"timeout": 0.2, "give_up_after": 3}),
    Case("too long", "long", "at most 1,000 bytes", 1, {"max_answer_bytes": 1000}),
    Case("wrong JSONPath", "rounded", "nothing there for record", 1, {"scores": "$.socres"}),
    Case("path to an object", "predict", "numbers, one a class", 1, {"scores": "$"}),
    Case("path that is none", "rounded", "'$.a[' (", 0, {"scores": "$.a["}),
    Case("path without root", "rounded", "a path begins with $", 0, {"scores": "scores"}),
    Case("unknown class", "named-label", "Name every class in classes", 5, {"scores": "$.class"}),
    Case("class not listed", "named-label", "for record 'patient-", 1, {"scores": "$.class", "classes": ["0", "1"]}),
    Case("other number of classes", "rounded", "3 scores, one for each", 5, {"classes": ["0", "1", "2"]}),
    Case("TLS to plain HTTP", "rounded", "write http:// in uri", 0, {"uri": "https://127.0.0.1:{port}/rounded"}),
    Case("no such host", "rounded", "Check uri", 0, {"uri": "http://no-such-host.invalid/"}),
    Case("nobody listens", "rounded", "connection refused", 0, {"uri": "http://127.0.0.1:{free}/"}),
    Case("unset secret", "rounded", "export NO_SUCH_TOKEN", 0, {"headers": {"Authorization": "${NO_SUCH_TOKEN}"}}),
    Case("object form of images", "object", "named features", 0, {"input": {"form": "object"}}),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fault(site: Site, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    changes = dict(case.changes)
    if "uri" in changes:
        changes["uri"] = changes["uri"].format(port=site.port, free=free_port())
    candidates = site.candidates()
    if case.name == "object form of images":
        candidates = site.folder / "images.npz"
        np.savez(candidates, inputs=np.zeros((8, 1, 4, 4)), labels=np.arange(8) % 2, member=np.arange(8) % 2)
    described = site.describe(case.route, **changes)
    status, said, noise = command(
        ["attack", str(described), "--candidates", str(candidates), "--out", str(site.out)], capsys
    )
    assert status == 2 and said == ""
    assert case.says in noise, noise
    assert "expected" in noise and "do this" in noise and "Traceback" not in noise and "internal" not in noise
    assert sum(site.server.asked.values()) <= case.at_most
    assert not (site.out / "findings.json").exists()


def test_a_mended_path_asks_nothing_again(site: Site) -> None:
    with pytest.raises(EndpointError, match="Mend the JSONPath"):
        attack_endpoint(site.values("rounded", scores="$.wrong"), site.candidates(20), out=site.out)
    attack_endpoint(site.values("rounded"), site.candidates(20), out=site.out)
    assert site.server.asked["rounded"] == 20


def test_answers_under_way_are_kept_when_the_run_fails(site: Site) -> None:
    with pytest.raises(EndpointError, match="seems to have changed"):
        attack_endpoint(site.values("changes", concurrency=6), site.candidates(), out=site.out)
    lines = (site.out / "endpoint/transcript.jsonl").read_text().splitlines()
    assert sum('"answer"' in line for line in lines) == site.server.asked["changes"]


DESCRIPTIONS = [
    ("", "an empty file"),
    ("- a list", "list"),
    ("uri: [", "in line"),
    ("uri: http://x/\nurl: y", "unknown key 'url' (did you mean 'uri'?)"),
    ("scores: $.a\nrequest: $INPUT", "a key 'uri'"),
    ("uri: ftp://x/\nscores: $.a\nrequest: $INPUT", "begin with http:// or https://"),
    ("uri: http://x/\nrequest: $INPUT", "scores or label"),
    ("uri: http://x/\nscores: $.a\nrequest: {x: 1}", "must hold $INPUT"),
    ("uri: http://x/\nscores: $.a\nrequest: $INPUT\nmethod: PATCH", "method"),
    ("uri: http://x/\nscores: $.a\nrequest: $INPUT\nbudget: {requests: 0}", "budget.requests"),
    ("uri: http://x/\nscores: $.a\nrequest: $INPUT\nbudget: {request: 5}", "did you mean 'requests'"),
    ("uri: http://x/\nscores: $.a\nrequest: $INPUT\nrequests_per_minute: -1", "greater than 0"),
    ("uri: http://x/\nscores: $.a\nrequest: $INPUT\nrobustness: {copies: 3}", "one of noise, flips"),
    ("uri: http://x/\nscores: $.a\nrequest: $INPUT\nrobustness: {copies: 8, noise: 1}", "at least 9"),
    ("uri: http://x/\nscores: $.a\nrequest: $INPUT\nskip_codes: [429]", "asked again"),
    ("uri: http://x/\nprotocol: open_inference", "must end in /v2/models/NAME/infer"),
    ("uri: http://x/\nprotocol: predictions\nrequest: $INPUT", "leave one of the two out"),
    ("uri: http://x/\nprotocol: grpc", "'predictions' or 'open_inference'"),
    ("uri: http://x/?q=$INPUT\nscores: $.a\nmethod: GET\nrequest: $INPUT", "GET has no body"),
    ("uri: http://x/\nscores: $.a\nrequest: $INPUT\nheaders: {X-Api-Key: hunter2secret}", "${API_TOKEN}"),
    ("uri: http://u:hunter2secret@x/\nscores: $.a\nrequest: $INPUT", "uri (password)"),
    ("uri: http://x/?api_key=hunter2secret\nscores: $.a\nrequest: $INPUT", "uri (api_key)"),
    ("uri: http://x/\nscores: $.a\nrequest: $INPUT\nheaders: [hunter2secret]", "headers"),
    ("uri: http://x/\nscores: $.a\nrequest: $INPUT\nheaders: {Authorization: 'hunter2secret", "in line"),
]


@pytest.mark.parametrize(("text", "says"), DESCRIPTIONS, ids=range(len(DESCRIPTIONS)))
def test_description(site: Site, text: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = site.folder / "endpoint.yaml"
    path.write_text(text)
    status, said, noise = command(["attack", str(path), "--candidates", str(site.candidates())], capsys)
    assert status == 2 and said == "" and says in noise, noise
    assert "do this" in noise and "Traceback" not in noise and "hunter2secret" not in noise


CANDIDATES = [
    ("id,label,member,a\nr1,0,maybe,1\n", "'maybe' for record 'r1'"),
    ("id,label,member,a\nr1,0,1,1\nr1,1,0,2\n", "a different id"),
    ("id,member,a\nr1,1,1\n", "label"),
    ("id,label,member,a\nr1,0,1,x\n", "'x' in line 2"),
    ("", "header"),
]


@pytest.mark.parametrize(("text", "says"), CANDIDATES, ids=range(len(CANDIDATES)))
def test_candidates(site: Site, text: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = site.folder / "records.csv"
    path.write_text(text)
    status, said, noise = command(["attack", str(site.describe("rounded")), "--candidates", str(path)], capsys)
    assert status == 2 and said == "" and says in noise, noise
    assert not site.server.asked


def test_a_population_of_members_or_of_another_shape(site: Site) -> None:
    members = site.candidates(20, name="members.csv")
    with pytest.raises(Exception, match="non-members alone"):
        attack_endpoint(site.values("rounded"), site.candidates(member=False), population=members, out=site.out)
    other = site.folder / "other.csv"
    other.write_text("id,label,a\nq1,0,1\nq2,1,2\n")
    with pytest.raises(Exception, match="Write both files alike"):
        attack_endpoint(site.values("rounded"), site.candidates(member=False), population=other, out=site.out)
    assert not site.server.asked


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Key and self-signed certificate for localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, which makes the certificate")
    folder = tmp_path_factory.mktemp("tls")
    key, own = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(own)],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, own


def test_certificates_are_verified(site: Site, certificate: tuple[Path, Path]) -> None:
    key, own = certificate
    with Running(site.server.app, ssl_keyfile=str(key), ssl_certfile=str(own)) as port:
        values = site.values("rounded", uri=f"https://localhost:{port}/rounded")
        with pytest.raises(EndpointError, match="ca_file; certificates are always verified"):
            attack_endpoint(values, site.candidates(20), out=site.out)
        assert not site.server.asked
        attack_endpoint(values | {"ca_file": str(own)}, site.candidates(20), out=site.out)
        assert site.server.asked["rounded"] == 20
        with pytest.raises(EndpointError, match="broken connection"):
            attack_endpoint(
                site.values("rounded", uri=f"http://localhost:{port}/rounded", give_up_after=2),
                site.candidates(20),
                out=site.out / "plain",
            )


def test_a_server_that_stops_midway(site: Site) -> None:
    """A real server that ends after some answers: what it answered is kept, and asked of its successor no more."""
    with Running(site.server.app) as port:
        values = site.values("rounded", uri=f"http://127.0.0.1:{port}/rounded")
        attack_endpoint(values, site.candidates(20), out=site.out)
    with pytest.raises(EndpointError, match="nothing that was answered is asked twice"):
        attack_endpoint(values, site.candidates(40), out=site.out)
    attack_endpoint(values, site.candidates(20), out=site.out)
    assert site.server.asked["rounded"] == 20

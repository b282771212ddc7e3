"""Killed with SIGKILL at any instant: the run goes on, asks no answered question twice, keeps its budget."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from endpoint_site import Site

from memberscope.doors.endpoint import attack_endpoint
from memberscope.errors import PoolError
from memberscope.run_folder import read_findings

CONCURRENCY = 4


def start(site: Site, described: Path, candidates: Path) -> subprocess.Popen[bytes]:
    arguments = ["attack", str(described), "--candidates", str(candidates), "--out", str(site.out), "-q"]
    return subprocess.Popen(
        [sys.executable, "-c", f"from memberscope.cli import main; main({arguments!r})"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("per_record", [5, 1])
def test_sigkill(site: Site, per_record: int) -> None:
    described = site.describe("slow", concurrency=CONCURRENCY, budget={"requests": 100, "per_record": per_record})
    candidates = site.candidates(60)
    kills = (3, 30)
    for asked in kills:
        process = start(site, described, candidates)
        until = time.monotonic() + 60
        while site.server.asked["slow"] < asked:
            assert process.poll() is None and time.monotonic() < until, process.stderr and process.stderr.read()
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not (site.out / "findings.json").exists()
    findings = attack_endpoint(described, candidates, out=site.out)
    # Only what was under way at a kill, and so never answered as far as anybody knows, may come again.
    counts = site.server.by_content["slow"]
    under_way = CONCURRENCY * len(kills)
    if per_record == 1:
        assert max(counts.values()) == 1
        assert findings.populations["audit_records"] >= 60 - under_way
    else:
        assert findings.populations["audit_records"] == 60 and sum(counts.values()) <= 60 + under_way
        plain = attack_endpoint(described, candidates, out=site.folder / "plain")
        assert plain.attacks == findings.attacks and plain.records == findings.records
        assert (site.folder / "plain/records.csv").read_bytes() == (site.out / "records.csv").read_bytes()
    assert read_findings(site.out) == findings
    # A request counts before it is sent; one that the kill kept from leaving was counted all the same.
    assert sum(counts.values()) <= findings.cost["requests"] + 60 * (per_record == 5)


def test_every_torn_last_line_is_dropped(site: Site) -> None:
    """A transcript cut off at any byte is one that a kill may have left."""
    values = site.values("rounded", concurrency=1)
    attack_endpoint(values, site.candidates(8), out=site.out)
    path = site.out / "endpoint/transcript.jsonl"
    whole = path.read_bytes()
    asked = site.server.asked["rounded"]
    for cut in range(len(whole) - 1, len(whole) - 120, -17):
        path.write_bytes(whole[:cut])
        answered = sum(json.loads(line)["event"] == "answer" for line in whole[:cut].split(b"\n")[:-1])
        attack_endpoint(values, site.candidates(8), out=site.out)
        asked += 8 - answered
        assert site.server.asked["rounded"] == asked


def test_a_damaged_line_in_the_middle_is_named(site: Site) -> None:
    values = site.values("rounded", concurrency=1)
    attack_endpoint(values, site.candidates(8), out=site.out)
    path = site.out / "endpoint/transcript.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"{broken\n", *lines[3:]]))
    with pytest.raises(PoolError, match="line 4, which is damaged"):
        attack_endpoint(values, site.candidates(8), out=site.out)


def test_only_ever_appended_and_for_its_owner_alone(site: Site) -> None:
    values = site.values("rounded")
    attack_endpoint(values, site.candidates(8), out=site.out)
    path = site.out / "endpoint/transcript.jsonl"
    before = path.read_bytes()
    attack_endpoint(values, site.candidates(16), out=site.out)
    assert path.read_bytes().startswith(before) and path.stat().st_mode & 0o077 == 0


def test_two_at_once_are_refused(site: Site) -> None:
    described = site.describe("slow", concurrency=1)
    process = start(site, described, site.candidates(100))
    while site.server.asked["slow"] < 2:
        assert process.poll() is None
        time.sleep(0.01)
    with pytest.raises(PoolError, match="it is being written by"):
        attack_endpoint(described, site.candidates(100), out=site.out)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

"""Downloads against a real HTTP server on the loopback interface that misbehaves on demand."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from memberscope.data import fetch, load
from memberscope.data.archives import Archive
from memberscope.data.download import download
from memberscope.errors import ConfigError, DataError, PoolError
from memberscope.files import writer_lock

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8).tobytes()
WRONG = bytes(len(CONTENT))
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server does, and what it was asked for."""

    port: int = 0
    content: bytes = CONTENT
    ranges: bool = True
    drop_after: int | None = None
    drops: int = 0
    statuses: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)

    def archive(self, checksum: str = MD5) -> Archive:
        return Archive("file.bin", f"http://127.0.0.1:{self.port}/file.bin", checksum)


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append(asked)
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            start, total = 0, len(state.content)
            if asked and state.ranges:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= total:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{total}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(total - start))
            self.end_headers()
            end = total
            if state.drop_after is not None and state.drops > 0:
                state.drops -= 1
                end = min(total, start + state.drop_after)
            self.wfile.write(state.content[start:end])
            if end < total:
                self.connection.shutdown(socket.SHUT_RDWR)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_comes_once_and_is_then_kept(site: Site, tmp_path: Path) -> None:
    path = download(site.archive(), tmp_path / "deep" / "er", quiet=True)
    assert path == tmp_path / "deep" / "er" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert download(site.archive(), path.parent, quiet=True) == path
    assert site.asked == [None]
    assert [entry.name for entry in path.parent.iterdir() if entry.name != ".lock"] == ["file.bin"]
    # A damaged file of that name is replaced.
    path.write_bytes(CONTENT[:-1])
    assert download(site.archive(), path.parent, quiet=True).read_bytes() == CONTENT


def test_a_dropped_connection_is_resumed_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.drop_after, site.drops = 700_000, 3
    assert download(site.archive(), tmp_path, wait=0.0, quiet=True).read_bytes() == CONTENT
    assert site.asked[0] is None
    starts = [int(str(asked)[6:-1]) for asked in site.asked[1:]]
    assert len(starts) == 3
    assert starts == sorted(set(starts))
    assert starts[0] > 0


def test_a_killed_download_is_resumed_by_the_next_call(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1_234_567])
    assert download(site.archive(), tmp_path, quiet=True).read_bytes() == CONTENT
    assert site.asked == ["bytes=1234567-"]


def test_a_part_that_was_complete_is_only_checked(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert download(site.archive(), tmp_path, quiet=True).read_bytes() == CONTENT
    assert site.asked == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("stale", [WRONG[:1000], WRONG, WRONG + b"more"])
def test_a_stale_beginning_gets_one_fresh_start(site: Site, tmp_path: Path, stale: bytes) -> None:
    (tmp_path / "file.bin.part").write_bytes(stale)
    assert download(site.archive(), tmp_path, wait=0.0, quiet=True).read_bytes() == CONTENT
    assert site.asked == [f"bytes={len(stale)}-", None]


def test_a_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    assert download(site.archive(), tmp_path, quiet=True).read_bytes() == CONTENT


def test_wrong_bytes_are_never_placed(site: Site, tmp_path: Path) -> None:
    site.content = WRONG
    with pytest.raises(DataError) as caught:
        download(site.archive(), tmp_path, wait=0.0, quiet=True)
    message = str(caught.value)
    assert MD5.removeprefix("md5:") in message
    assert hashlib.md5(WRONG).hexdigest() in message
    assert f"put it at {tmp_path / 'file.bin'} (MD5" in message
    assert len(site.asked) == 1
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != ".lock"] == []


def test_a_truncated_answer_without_checksum_is_not_taken_for_the_file(site: Site, tmp_path: Path) -> None:
    site.drop_after, site.drops = 100_000, 10**9
    site.content = CONTENT[:250_000]
    assert download(site.archive(""), tmp_path, wait=0.0, quiet=True).read_bytes() == CONTENT[:250_000]
    site.drop_after = 0
    with pytest.raises(DataError, match=r"Download it where there is a network"):
        download(Archive("other.bin", site.archive().url), tmp_path, attempts=3, wait=0.0, quiet=True)
    assert not (tmp_path / "other.bin").exists()


def test_temporary_refusals_are_tried_again_and_final_ones_are_not(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429]
    assert download(site.archive(), tmp_path, wait=0.0, quiet=True).read_bytes() == CONTENT
    assert len(site.asked) == 3
    site.statuses = [404] * 5
    with pytest.raises(DataError, match=r"got HTTP 404"):
        download(Archive("gone.bin", site.archive().url), tmp_path, wait=0.0, quiet=True)
    assert len(site.asked) == 4


def test_without_a_network_the_error_says_which_file_to_put_where(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/file.bin"
        with pytest.raises(DataError) as caught:
            download(Archive("file.bin", url, MD5), tmp_path, attempts=2, wait=0.0, quiet=True)
    message = str(caught.value)
    assert f"expected to download {url}" in message
    assert "refused" in message
    assert f"put it at {tmp_path / 'file.bin'} (MD5 {MD5[4:]})" in message


def test_unwritable_and_busy_folders(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PoolError, match=r"a writable folder"):
        download(site.archive(), tmp_path / "file", quiet=True)
    with writer_lock(tmp_path / "busy"), pytest.raises(PoolError, match=r"only writer"):
        download(site.archive(), tmp_path / "busy", quiet=True)


def test_progress_goes_to_standard_error(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    download(site.archive(), tmp_path)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "file.bin (MiB)" in captured.err


def test_fetch_knows_what_can_be_fetched() -> None:
    with pytest.raises(ConfigError, match=r"comes with memberscope"):
        fetch("digits")
    with pytest.raises(ConfigError, match=r"did you mean 'cifar10'"):
        fetch("cifar1O")


@pytest.mark.realdata
def test_an_official_archive_put_in_its_place_needs_no_network(shared: Path, home: Path) -> None:
    place = home / "location30" / "dataset_location.tgz"
    place.parent.mkdir(parents=True)
    shutil.copyfile(shared / "dataset_location.tgz", place)
    assert fetch("location30", quiet=True) == place
    assert len(load("location30")) == 5010

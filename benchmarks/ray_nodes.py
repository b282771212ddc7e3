"""A Ray cluster of several machines, played by addresses of the loopback range on this one."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

# Small: the object store of every node lies in shared memory.
STORE = 200_000_000


@contextlib.contextmanager
def ray_nodes(
    count: int = 2, cpus: int = 1, environments: Mapping[int, Mapping[str, str]] | None = None
) -> Iterator[str]:
    """The address of a cluster whose nodes are 127.0.0.2, 127.0.0.3, …, each of ``cpus`` processors.

    Only who has this process's token (:func:`use_own_token`) may use it.

    Args:
        environments: of single nodes, from 0, changes to the environment.
    """
    # Sockets of Ray lie below it, and their paths may not be long.
    place = Path(tempfile.mkdtemp(prefix="ms-ray-", dir="/tmp"))
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        address = f"127.0.0.2:{free.getsockname()[1]}"
    nodes: list[subprocess.Popen[bytes]] = []
    use_own_token()
    try:
        for node in range(count):
            host = f"127.0.0.{node + 2}"
            where = (
                ["--head", f"--port={address.split(':')[1]}", f"--temp-dir={place}", "--include-dashboard=false"]
                if not node
                else [f"--address={address}"]
            )
            command = [
                str(Path(sys.executable).parent / "ray"),
                "start",
                *where,
                f"--node-ip-address={host}",
                f"--num-cpus={cpus}",
                "--num-gpus=0",
                f"--object-store-memory={STORE}",
                "--min-worker-port=0",
                "--max-worker-port=0",
                "--disable-usage-stats",
                "--block",
            ]
            # Ray's workers are nice by default, and starve where anything else is at work.
            ours = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
            environment = os.environ | ours | dict((environments or {}).get(node, {}))
            environment.pop("RAY_ADDRESS", None)
            log = place / f"node{node}.log"
            with log.open("wb") as output:
                nodes.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment))
            _await(nodes[-1], log)
        yield address
    finally:
        # Each ends its own children; the head goes last.
        for process in reversed(nodes):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()
        shutil.rmtree(place, ignore_errors=True)


@cache
def use_own_token() -> None:
    """Have clusters of this process and its children ask for a token that is made up here.

    Once a process and before it imports Ray, which reads the environment then and never again.
    """
    if "ray" in sys.modules:
        raise RuntimeError("Ray was imported before its token was set")
    descriptor, name = tempfile.mkstemp(prefix="ms-ray-token-")
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    atexit.register(Path(name).unlink, missing_ok=True)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": name}


def _await(process: subprocess.Popen[bytes], log: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while b"Ray runtime started" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"a Ray node did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.1)

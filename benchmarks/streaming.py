"""An audit at size: 1,000,000 records × 64 models × 100 classes, every attack on every row as target.

``--make`` writes synthetic signals as ``collect`` does (one float32 .npy a model, about 26 GB) and is done before
any clock starts. The audit then runs in a process of its own under the kernel's own account of memory (maximum
resident set, file-backed pages included), and again beside it the plain reading of the same files, each file once.
What counts is the audit's wall time beyond the reading's.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Result, in_child, parser, show
from numpy.typing import NDArray

from memberscope.attacks import ATTACKS
from memberscope.auditing import Plan, examine
from memberscope.data.membership import complementary_pairs
from memberscope.files import sha256_arrays, sha256_file, sha256_json, write_json, write_npy
from memberscope.run_folder import write_run
from memberscope.signals.ask import SCHEMA, answers_path
from memberscope.signals.collect import load_collected

FOLDER = Path(__file__).resolve().parent.parent / "runs" / "streaming"
FULL = (1_000_000, 64, 100)
PIECE = 10_000

# All that score a record by a formula; docs/scoring.md says why the one that trains a classifier is apart.
ATTACKS_RUN = [kind.name for kind in ATTACKS if kind.name != "lira_learned"]


def make(folder: Path, records: int, models: int, classes: int) -> Path:
    """Signals of a pool in complementary pairs: records differ in difficulty, members' own logit rises a little."""
    if (folder / "manifest.json").exists():
        return folder
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, records)
    difficulty = rng.standard_normal(records).astype(np.float32)
    members = complementary_pairs(models, records, 0)
    rows = []
    for row in range(models):
        path = answers_path(folder / "logits", row)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": (records, 1, classes)}
            )
            for start in range(0, records, PIECE):
                where = slice(start, min(start + PIECE, records))
                logits = 2 * rng.standard_normal((where.stop - start, classes), np.float32)
                logits[np.arange(len(logits)), labels[where]] += 6 + 2 * difficulty[where] + members[row, where]
                file.write(logits.tobytes())
        rows.append(sha256_file(path))
    tables: dict[str, NDArray[np.generic]] = {
        "members": members,
        "labels": labels,
        "ids": np.arange(records).astype(np.str_),
        "population": np.zeros(records, np.bool_),
    }
    for name, array in tables.items():
        write_npy(folder / f"{name}.npy", array)
    content = sha256_arrays(*tables.values())
    write_json(
        folder / "manifest.json",
        {
            "schema": SCHEMA,
            "kind": "logits",
            "models": models,
            "records": records,
            "queries": 1,
            "classes": classes,
            "class_names": [str(k) for k in range(classes)],
            "data_name": "synthetic",
            "rows": rows,
            "tables": content,
            "fingerprint": sha256_json([rows, content]),
        },
    )
    return folder


def forget(folder: Path) -> None:
    """Ask the kernel to drop the files from its cache, so that each side reads them from the disk."""
    for path in sorted((folder / "logits").glob("*.npy")):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(folder: Path) -> dict[str, float]:
    """Read every file once."""
    buffer = memoryview(bytearray(1 << 22))
    started = time.perf_counter()
    size = 0
    for path in sorted((folder / "logits").glob("*.npy")):
        with path.open("rb", buffering=0) as file:
            while got := file.readinto(buffer):
                size += got
    return {"seconds": time.perf_counter() - started, "gb": size / 1e9}


def audit(folder: Path) -> dict[str, float]:
    """Every attack of the table below on every row: scores, figures, p-values, classes; and the run folder's files."""
    started = time.perf_counter()
    signals = load_collected(folder, verify=False)
    found = examine(signals, Plan(attacks=ATTACKS_RUN, advise=False))
    examined = time.perf_counter() - started
    cpu = time.process_time()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        write_run(Path(out), found, signals)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": examined,
        "cpu": cpu,
        "written": time.perf_counter() - started,
        "mb": used.ru_maxrss / 1024,
        "attacks": len(found.scores),
    }


def results(records: int, models: int, classes: int) -> list[Result]:
    """Audit and reading in turn, both from the disk."""
    folder = make(FOLDER / f"{records}x{models}x{classes}", records, models, classes)
    shutil.rmtree(folder / "derived", ignore_errors=True)
    forget(folder)
    plain = in_child(__file__, "--child", "read", str(folder))
    forget(folder)
    ours = in_child(__file__, "--child", "audit", str(folder))
    shutil.rmtree(folder / "derived", ignore_errors=True)
    beyond = max(0.0, ours["seconds"] - plain["seconds"])
    size = f"{records:,} × {models} × {classes}"
    full = (records, models, classes) == FULL
    note = (
        f"{ours['attacks']} attacks, all targets; {ours['seconds']:.0f} s in all, "
        f"{ours['cpu']:.0f} s of processor time; reading {plain['gb']:.1f} GB alone {plain['seconds']:.0f} s; "
        f"run folder written after {ours['written']:.0f} s"
    )
    return [
        Result(
            f"audit beyond reading, {size}", beyond, None, "s", None, beyond, beyond,
            120.0 if full else None, note=note,
        ),
        Result(
            f"maximum resident set, {size}", ours["mb"], None, "MB", None, ours["mb"], ours["mb"],
            2048.0 if full else None, ours["mb"], "file-backed pages and the interpreter included",
        ),
    ]  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps({"read": read, "audit": audit}[sys.argv[2]](Path(sys.argv[3]))))
        return
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--make", action="store_true", help="write the signals of the full size and stop")
    arguments = options.parse_args()
    if arguments.make:
        make(FOLDER / "x".join(map(str, FULL)), *FULL)
        return
    if arguments.quick:
        sizes = [(20_000, 8, 100), (40_000, 8, 100)]
    else:
        sizes = [(100_000, 32, 100), FULL]
    show([row for size in sizes for row in results(*size)], as_json=arguments.json)


if __name__ == "__main__":
    main()

"""Records and scores of a run as CSV, and typed as Parquet; both are streamed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from memberscope.errors import MissingExtraError, PoolError
from memberscope.exports.interface import Exported, Run
from memberscope.files import atomic

_TYPES = {"target": "int32", "label": "int64", "id": "string", "member": "bool", "flagged": "bool"}


def write_csv(run: Run, out: str, options: Exported) -> str:
    """Copy the run's records.csv: ``target, id, label, member``, a column an attack, p-values, ``flagged``."""
    with _source(run).open("rb") as source, atomic(Path(out)) as file:
        shutil.copyfileobj(source, file)
    return out


def write_parquet(run: Run, out: str, options: Exported) -> str:
    """The same columns as Parquet: ids are text, membership and flags boolean, scores float64 and null if not scored.

    Raises:
        MissingExtraError: pyarrow is not installed.
        PoolError: the run has no records.csv, or it was damaged.
    """
    try:
        import pyarrow as pa
        import pyarrow.csv as arrow_csv
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError.of("pyarrow", "parquet", "Parquet") from error
    path = _source(run)
    with path.open(encoding="utf-8", newline="") as lines:
        names = lines.readline().strip().split(",")
    types: dict[str, Any] = {name: pa.type_for_alias(_TYPES.get(name, "float64")) for name in names}
    convert = arrow_csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=False)
    parse = arrow_csv.ParseOptions(newlines_in_values=True)
    try:
        with (
            arrow_csv.open_csv(path, convert_options=convert, parse_options=parse) as reader,
            atomic(Path(out)) as file,
            pq.ParquetWriter(file, reader.schema) as writer,
        ):
            for batch in reader:
                writer.write_batch(batch)
    except pa.ArrowInvalid as error:
        raise PoolError(f"{path} as the audit wrote it", str(error).splitlines()[0], "Run the audit again.") from error
    return out


def _source(run: Run) -> Path:
    path = None if run.folder is None else run.folder / "records.csv"
    if path is None or not path.exists():
        raise PoolError(
            "records.csv in the run folder",
            "none" if path is None else f"no {path}",
            "Name the folder of a run, not its findings.json.",
        )
    return path

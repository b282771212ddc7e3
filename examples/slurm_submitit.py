"""Train the pool of an audit as a Slurm array, one shard a job, then audit: with submitit, or locally to try it.

    python examples/slurm_submitit.py c.yaml --shards 8 --partition gpu --minutes 240
    python examples/slurm_submitit.py c.yaml --shards 2 --local

Needs `pip install submitit`; memberscope itself does not. The folder of the run (`out:` in the configuration, or
--out) has to be on a disk that all jobs share. A job that was preempted or killed is submitted again by starting
this script again: finished models are kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def shard(config: str, number: int, shards: int, out: str) -> str:
    """Train and ask one shard; what is still missing, as a sentence."""
    from memberscope.config import AuditConfig
    from memberscope.work import run_shard

    path = Path(config)
    read = AuditConfig.parse(AuditConfig.read(path).model_dump() | {"out": out})
    return str(run_shard(read, (number, shards), base=path.parent)["sentence"])


def audit(config: str, out: str) -> str:
    """The audit itself, when nothing is left to train."""
    import memberscope as ms

    return ms.audit(config, out=out).headline


def main() -> int:
    """Submit, wait, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--out", type=Path, help="folder of the run, on a shared disk")
    parser.add_argument("--local", action="store_true", help="on this machine, without Slurm")
    parser.add_argument("--partition")
    parser.add_argument("--minutes", type=int, default=240)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--gpus", type=int, default=0)
    given = parser.parse_args()
    try:
        import submitit
    except ModuleNotFoundError:
        print("this example needs submitit: pip install submitit", file=sys.stderr)
        return 2
    out = str((given.out or Path("runs") / given.config.stem).resolve())
    config = str(given.config.resolve())
    logs = Path(out) / "slurm"
    executor = submitit.AutoExecutor(folder=logs, cluster="local" if given.local else None)
    executor.update_parameters(timeout_min=given.minutes, cpus_per_task=given.cpus, gpus_per_node=given.gpus or None)
    if given.partition:
        executor.update_parameters(slurm_partition=given.partition)
    numbers = range(1, given.shards + 1)
    jobs = executor.map_array(
        shard, [config] * given.shards, numbers, [given.shards] * given.shards, [out] * given.shards
    )
    print(f"{len(jobs)} jobs, logs in {logs}", flush=True)
    for job in jobs:
        print(job.result(), flush=True)
    print(executor.submit(audit, config, out).result())
    print(f"Report: {Path(out) / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

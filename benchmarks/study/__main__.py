# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Run studies: every job that has no result yet, each in a process of its own.

python -m benchmarks.study shapes peers [--runs runs/study] [--jobs 2]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from benchmarks.study.data import FOLDERS, prepare
from benchmarks.study.jobs import Job
from benchmarks.study.studies import PARENT, STUDIES


def ready(job: Job, runs: Path) -> bool:
    """Whether what a job starts from is there."""
    return all((runs / name / "result.json").is_file() for name in job.before)


def run(job: Job, runs: Path, threads: int, failed: Event) -> None:
    """One job in a process, unless one before it has failed; its output goes to a file beside its result."""
    while not ready(job, runs) and not failed.wait(2):
        pass
    if failed.is_set():
        return
    (runs / job.name).mkdir(parents=True, exist_ok=True)
    log = runs / f"{job.name}.log"
    # two spinning threads beside another busy process make a step many times slower
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.study.jobs", job.name, "--runs", str(runs)]
    began = time.monotonic()
    with log.open("w") as out:
        code = subprocess.run(command, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
    line = log.read_text().strip().splitlines()[-1:] or [""]
    print(f"{job.name}: {'done' if code == 0 else f'failed ({code}), see {log}'} after "
          f"{time.monotonic() - began:.0f} s  {line[0][:200]}", flush=True)  # fmt: skip
    if code:
        failed.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", choices=sorted(STUDIES), metavar="study", help=", ".join(STUDIES))
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--jobs", type=int, default=2, help="at a time; the cores are shared among them")
    args = parser.parse_args()
    runs = args.runs.resolve()
    wanted = [job for study in args.studies for job in STUDIES[study]()]
    parents = [PARENT] if any(PARENT.name in job.before for job in wanted) else []
    jobs = {job.name: job for job in [*parents, *wanted]}
    todo = [job for job in jobs.values() if not (runs / job.name / "result.json").is_file()]
    for name in {j.data for j in todo if j.parent} & FOLDERS.keys():
        prepare(name, runs)
    failed = Event()
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    with ThreadPoolExecutor(args.jobs) as pool:
        for future in [pool.submit(run, job, runs, threads, failed) for job in todo]:
            future.result()
    sys.exit(int(failed.is_set()))


if __name__ == "__main__":
    main()

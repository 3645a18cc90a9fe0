# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Run studies: every job that has no result yet, each in a process of its own.

python -m benchmarks.study shapes baselines [--runs runs/study] [--jobs 2]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from benchmarks.study.data import FOLDERS, prepare
from benchmarks.study.job import ON_BRIDGE, Job
from benchmarks.study.minitron_baseline import bridge_python
from benchmarks.study.studies import PARENT, STUDIES


def ready(job: Job, runs: Path) -> bool:
    """Whether what a job starts from is there."""
    return all((runs / name / "result.json").is_file() for name in job.before)


def run(job: Job, runs: Path, threads: int) -> bool:
    """One job in a process, and whether it went well; its output goes to a file beside its result."""
    (runs / job.name).mkdir(parents=True, exist_ok=True)
    log = runs / f"{job.name}.log"
    # two spinning threads beside another busy process make a step many times slower
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    python = (
        [bridge_python(), "-W", "ignore", "-m", "tests.support.bridge"]
        if job.kind in ON_BRIDGE
        else [sys.executable, "-W", "ignore"]
    )
    command = [*python, "-m", "benchmarks.study.jobs", job.name, "--runs", str(runs)]
    began = time.monotonic()
    with log.open("w") as out:
        code = subprocess.run(command, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
    line = log.read_text().strip().splitlines()[-1:] or [""]
    print(f"{job.name}: {'done' if code == 0 else f'failed ({code}), see {log}'} after "
          f"{time.monotonic() - began:.0f} s  {line[0][:200]}", flush=True)  # fmt: skip
    return code == 0


def run_all(todo: list[Job], runs: Path, at_a_time: int, threads: int) -> bool:
    """Jobs in their order, those that wait for others passed by, until one fails; whether all went well."""
    todo, going, well = list(todo), set[Future[bool]](), True
    with ThreadPoolExecutor(at_a_time) as pool:
        while well:
            for job in [job for job in todo if ready(job, runs)][: at_a_time - len(going)]:
                todo.remove(job)
                going.add(pool.submit(run, job, runs, threads))
            if not going:
                break
            done, going = wait(going, return_when=FIRST_COMPLETED)
            well = all(future.result() for future in done)
    for job in todo if well else ():
        print(f"{job.name}: not run, for {', '.join(job.before)} has no result", flush=True)
    return well and not todo


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
    if any(job.kind in ("searched", *ON_BRIDGE) for job in todo):
        bridge_python()  # it is missed now, not after hours
    for name in {j.data for j in todo if j.parent} & FOLDERS.keys():
        prepare(name, runs)
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    sys.exit(0 if run_all(todo, runs, args.jobs, threads) else 1)


if __name__ == "__main__":
    main()

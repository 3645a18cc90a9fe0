# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A recipe's rehearsal, its jobs run by forks of one process that has NeMo imported; for test_rehearse.py.

python -m tests.rehearsal.in_forks RECIPE[+FORMAT][@BLOCK] FOLDER: leaves FOLDER/rehearsal.json. Only how
processes start differs from `nemo-elastic rehearse`, and there are fewer of them. FORMAT is that of a stage 3 in low
precision, BLOCK a block of conf/ in place of the recipe's.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from recipes.families import family

ROOT = Path(__file__).parents[2]
RANKS, STEPS = 2, 18
SECONDS = 1500


def run_here(job: Any) -> None:
    """What a job's process does."""
    import fiddle

    from nemo_elastic.hosts.common.experiment import job as as_job

    os.environ["LOCAL_WORLD_SIZE"] = os.environ["WORLD_SIZE"]
    as_job(fiddle.build(job))


def main(name: str, folder: Path) -> None:
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)
    from nemo_elastic.errors import ElasticError
    from nemo_elastic.rehearsal.run import rehearsal_of
    from nemo_elastic.rehearsal.short import Short
    from tests.parallel import forks

    os.environ.setdefault("NEMO_ELASTIC_HF_PYTHON", str(ROOT / ".venv-hf" / "bin" / "python"))
    short = Short(ranks=RANKS, steps=STEPS, candidates=8, depth_samples=2)
    name, _, block = name.partition("@")
    name, _, quantize = name.partition("+")
    file = ROOT / "conf" / f"{block}.yaml"
    rehearsal = rehearsal_of(family(name), str(folder), short, quantize or None, file if block else None)

    def run_job(title: str, job: Any) -> None:
        ranks = forks.start(folder / "logs" / title, max(1, job.devices), run_here, job.task)
        codes = ranks.wait(SECONDS)
        if any(codes):
            raise ElasticError(f"{title}: exit codes {codes}; rank 0 said:\n{ranks.said()[-2000:]}")

    report = rehearsal.run(run_job, lambda what: nullcontext(print(what, flush=True)))
    print(report.failed or "no job failed")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""docs/tables/rehearsal.md from the reports of rehearsals.

python tools/rehearsal_table.py runs/*/rehearsal.json > docs/tables/rehearsal.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(files: list[str]) -> None:
    reports = [json.loads(Path(file).read_text()) for file in files]
    print("| | " + " | ".join(heading(report["recipe"]) for report in reports) + " |")
    print("| --- |" + " --- |" * len(reports))
    for i, job in enumerate(reports[0]["jobs"]):
        cells = [f"{r['jobs'][i]['layout']}, {r['jobs'][i]['seconds']:.0f} s" for r in reports]
        print(f"| {job['name']} | " + " | ".join(cells) + " |")
    for name in reports[0]["checks"]:
        cells = []
        for report in reports:
            check = report["checks"][name]
            cells.append(f"{ {True: 'ok', False: 'FAILED', None: '-'}[check['ok']] }: {check['told']}")
        print(f"| {name} | " + " | ".join(cells) + " |")
    seconds = [sum(job["seconds"] for job in report["jobs"]) for report in reports]
    print("| in all | " + " | ".join(f"{s / 60:.1f} minutes" for s in seconds) + " |")


def heading(recipe: str) -> str:
    """A recipe's name in few letters, so that four columns fit a page."""
    name = recipe.removeprefix("nemotron_elastic_").removeprefix("stock_sft_")
    return f"{name.removesuffix('_bridge')}, Bridge" if name.endswith("_bridge") else name


if __name__ == "__main__":
    main(sys.argv[1:])

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the studies, from the results that are there.

python -m benchmarks.study.tables context --runs runs/study    # of this machine's runs
python -m benchmarks.study.tables --runs runs/study --keep    # keep them for the documentation
python -m benchmarks.study.tables --docs                      # its tables and pictures, of the kept ones
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.output import save_svg
from benchmarks.study import baselines_table
from benchmarks.study.auto_table import auto
from benchmarks.study.baselines_table import baselines
from benchmarks.study.context import KINDS, LEVELS, SHORT
from benchmarks.study.experts_table import experts, experts_balance, experts_rates
from benchmarks.study.plots import pictures
from benchmarks.study.rates import TRIED, to_choose_by
from benchmarks.study.results import Results, keep, markdown, read_results, spread
from benchmarks.study.sizes import FIVE, THREE
from benchmarks.study.studies import CONTEXT_PARENT, CURRICULA, WHOLE_WEIGHTS
from nemo_elastic.verdicts import wilson

DOCS = Path(__file__).parents[2] / "docs"


# ------------------------------------------------------------------------------------------------------------- rates


def tried(results: Results, way: str, size: str) -> dict[float, float]:
    """Peak rate -> loss to choose by; of a family the mean over its smaller members."""
    out = {}
    for lr in TRIED[way][size]:
        result = results.get(f"rate-{way}-{size}-{lr:g}")
        if result:
            losses = to_choose_by(result)
            out[lr] = statistics.mean(losses[name] for name in ([size] if size in FIVE else THREE) if name in losses)
    return out


def rates(results: Results) -> str:
    """Losses of every rate that was tried."""
    by_size = {(way, size): tried(results, way, size) for way, sizes in TRIED.items() for size in sizes}
    return baselines_table.rates(by_size, "mean of 72 and 50")


# ------------------------------------------------------------------------------------------------- like the baselines


def weights(results: Results) -> str:
    """Losses by how often the whole model is sampled."""
    names = {f"{weight:g}": f"weights-{weight:g}-0" for weight in WHOLE_WEIGHTS} | {"1/3": "weights-third-0"}
    rows = []
    for weight, r in ((weight, results[name]) for weight, name in names.items() if name in results):
        training = r["flops"] - r["flops_before_training"]
        rows.append([weight, *(f"{r['losses'][m]:.3f}" for m in ("full", *THREE)), f"{training / 1e12:.2f}"])
    return markdown(["weight of the whole model", "full", *THREE, "TFLOP of training"], rows)


def five(results: Results) -> str:
    """The same with five sizes, and how large the members are: nested ones cannot all use their budgets up."""
    shares = {
        way: {size: share for name in results if name.startswith(f"five-{way}-")
              for size, share in results[name]["shares"].items()}
        for way in ("ours", "pruned")
    }  # fmt: skip
    rows = [[size, *(f"{100 * shares[way][size]:.1f}" for way in shares)] for size in FIVE
            if all(size in each for each in shares.values())]  # fmt: skip
    head = ["budget %", "ours, % of the parent's parameters", "ModelOpt's"]
    return baselines(results, FIVE, "five-") + "\n" + markdown(head, rows)


# ----------------------------------------------------------------------------------------------------------- context

#: prefix of a job's name -> what it is
CONTEXT_WAYS = {CONTEXT_PARENT.name: "the parent"} | {
    f"context-{name}": " then ".join(dict.fromkeys(f"{batch.length} tokens" for batch in batches))
    for name, batches in CURRICULA.items()
}


def answered(group: Sequence[dict[str, Any]], member: str, kinds: Sequence[str], levels: Sequence[int]) -> str:
    """Share of questions answered right over all runs, in percent, with its 95 % interval."""
    counts = [r["answers"][member]["right"][kind].get(str(level), (0, 0))
              for r in group for kind in kinds for level in levels]  # fmt: skip
    right, asked = (sum(column) for column in zip(*counts, strict=True))
    low, high = wilson(right, asked)
    return f"{100 * right / asked:.0f} ({100 * low:.0f}–{100 * high:.0f})"


def context(results: Results) -> str:
    """Answers to questions of held-out documents by their distance, curriculum and member; then by their kind."""
    by_distance, by_kind = [], []
    far = [level for level in LEVELS if level > SHORT]
    for start, title in CONTEXT_WAYS.items():
        group = [r for name, r in results.items() if re.fullmatch(rf"{start}(-\d+)?", name)]  # of every seed
        cost = "" if start == CONTEXT_PARENT.name else f"{statistics.mean(r['flops'] for r in group) / 1e12:.2f}"
        for member in group[0]["answers"] if group else ():
            nats = [spread([r["answers"][member]["nats"][part] for r in group]) for part in ("first", "behind")]
            by_distance.append([title, cost, member, *(answered(group, member, KINDS, [n]) for n in LEVELS), *nats])
            by_kind.append([title, member, *(answered(group, member, [kind], far) for kind in KINDS)])
    distances = [f"{low} to {high}, %" for low, high in pairwise((0, *LEVELS))]
    head = ["trained at", "TFLOP", "member", *distances, f"nats, first {SHORT}", "nats behind"]
    kinds = ["trained at", "member", *(f"{kind}, above {SHORT}, %" for kind in KINDS)]
    return markdown(head, by_distance) + "\n" + markdown(kinds, by_kind)


TABLES: dict[str, Callable[[Results], str]] = {
    "rates": rates, "baselines": baselines, "weights": weights, "five": five, "context": context, "auto": auto,
    "experts": experts, "experts_rates": experts_rates, "experts_balance": experts_balance,
}  # fmt: skip


def write_docs(results: Results) -> None:
    """Every table and picture of docs/studies."""
    for study, text in ((study, table(results)) for study, table in TABLES.items()):
        (DOCS / "tables" / f"study_{study}.md").write_text(text)
    for name, figure in pictures(results).items():
        save_svg(figure, DOCS / "images" / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(TABLES), nargs="?")
    parser.add_argument("--runs", type=Path, help="folder of the runs; without, the kept results")
    parser.add_argument("--keep", action="store_true", help="keep the results of these runs beside those kept before")
    parser.add_argument("--docs", action="store_true", help="write the tables and pictures of docs/studies")
    args = parser.parse_args()
    results = read_results(args.runs)
    if args.keep:
        keep(read_results(None) | results)
    if args.docs:
        write_docs(results)
    for study in [args.study] if args.study else []:
        print(TABLES[study](results))


if __name__ == "__main__":
    main()

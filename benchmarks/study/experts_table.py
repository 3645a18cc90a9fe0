# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the study of a hybrid with experts."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.study import baselines_table
from benchmarks.study.baselines_table import costs, head, ratios, ways
from benchmarks.study.plots import UNITS
from benchmarks.study.rates import EXPERTS_TRIED, STEPS, to_choose_by
from benchmarks.study.results import Results, markdown, spread
from benchmarks.study.sizes import EXPERTS, EXPERTS_SIZES
from benchmarks.study.studies import (
    BALANCES,
    EXPERTS_BLOCK,
    EXPERTS_PARENT,
    EXPERTS_SEEDS,
    experts_alone,
    experts_family,
    experts_ranked,
)
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Subnet

#: of the jobs' names
PREFIX = "experts-"
#: rule of the bias -> what it counts
RULES = {
    "whole": "the whole model's alone",
    "every": "of every micro-batch",
    "even": "of every micro-batch, a dropped expert as an average one",
}


def of(results: Results, names: list[str]) -> list[dict[str, Any]]:
    return [results[name] for name in names if name in results]


def experts(results: Results) -> str:
    """The parent, what is cut from it untrained, every way to the sizes, ratios, and the shapes."""
    sizes, rows = [*EXPERTS_SIZES], []
    for result in of(results, [EXPERTS_PARENT.name]):
        spent = costs(*(result[unit] for unit in UNITS))
        rows.append(["the parent", str(result["steps"]), "1", *spent, spread([result["losses"]["full"]]), *[""] * 2])
    ranked = of(results, [experts_ranked(seed).name for seed in EXPERTS_SEEDS])
    if ranked:
        spent = costs(*(statistics.mean(r[unit] for r in ranked) for unit in UNITS))
        losses = [spread([r["losses"][size] for r in ranked]) for size in sizes]
        rows.append(["ranked, searched and cut, untrained", "0", str(len(ranked)), *spent, "", *losses])
    rows += ways(results, sizes, PREFIX)
    tables = [markdown(head(sizes), rows), ratios(results, sizes, f"{PREFIX}ours", PREFIX), shapes(results)]
    return "\n".join(tables)


def shapes(results: Results) -> str:
    """What the search found."""
    parent = ElasticConfig.from_dict(EXPERTS_BLOCK).parent_shape(EXPERTS)
    axes = {
        "experts": "experts", "expert_ffn": "expert FFN", "shared_ffn": "shared FFN", "mamba_heads": "Mamba heads",
        "mamba_head_dim": "Mamba head dim", "attention_heads": "attention heads",
    }  # fmt: skip
    rows = []
    for result in of(results, [experts_ranked(seed).name for seed in EXPERTS_SEEDS]):
        for size in EXPERTS_SIZES:
            member = Subnet.from_json(result["shapes"][size], parent)
            shares = [f"{100 * result[name][size]:.1f}" for name in ("shares", "active")]
            widths = [", ".join(map(str, sorted(set(member.widths(axis))))) for axis in axes]
            rows.append([size, str(result["seed"]), *shares, member.pattern, str(member.hidden), *widths])
    columns = ["size", "seed", "parameters, %", "active ones, %", "layers", "hidden", *axes.values()]
    return markdown(columns, rows)


def tried(results: Results, way: str, size: str) -> dict[float, float]:
    """Peak rate -> loss to choose by; of a family the mean over its smaller members."""
    out = {}
    for lr in EXPERTS_TRIED[way][size]:
        job = experts_family(STEPS, 0, lr) if way == "ours" else experts_alone(size, STEPS, 0, lr)
        for result in of(results, [job.name]):
            losses = to_choose_by(result)
            out[lr] = statistics.mean(losses[name] for name in (EXPERTS_SIZES if size == "all" else [size]))
    return out


def experts_rates(results: Results) -> str:
    """Losses of every rate that was tried."""
    by_size = {(way, size): tried(results, way, size) for way, sizes in EXPERTS_TRIED.items() for size in sizes}
    return baselines_table.rates(by_size, f"mean of {' and '.join(EXPERTS_SIZES)}")


def experts_balance(results: Results) -> str:
    """Losses and loads by the rule that moves the bias of experts."""
    names, rows = ["full", *EXPERTS_SIZES], []
    ranked = [experts_ranked(seed).name for seed in EXPERTS_SEEDS]
    families = {
        rule: [experts_family(STEPS, seed, balance=rule).name for seed in EXPERTS_SEEDS]
        for rule in ("whole", *BALANCES)
    }
    for title, group in (
        ("untrained", of(results, ranked)),
        *((RULES[r], of(results, n)) for r, n in families.items()),
    ):
        if group:
            cells = [spread([r[what][name] for r in group]) for what in ("losses", "load") for name in names]
            rows.append([title, str(len(group)), *cells])
    alone = {size: of(results, [experts_alone(size, STEPS, seed).name for seed in EXPERTS_SEEDS])
             for size in EXPERTS_SIZES}  # fmt: skip
    if all(alone.values()):
        cells = [
            spread([r[what][size] for r in group]) for what in ("losses", "load") for size, group in alone.items()
        ]
        rows.append(["each size alone, its own tokens", str(len(alone[names[-1]])), "", *cells[:2], "", *cells[2:]])
    columns = [*(f"{name}, nats" for name in names), *(f"{name}, load" for name in names)]
    return markdown(["tokens that move the bias", "seeds", *columns], rows)

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What it costs that a larger member goes on from a smaller one's cache instead of reading everything again.

    python -m benchmarks.carry [--family runs/demo/family] [--data runs/demo/data] [--windows 96]

Held-out text, a window of context and what comes behind it. The smaller member reads the context, the larger one goes
on with the smaller one's cache (`serve --carry-cache`); its loss on what comes behind is compared, window by window,
with that after reading the context itself. Beside it, what the larger member loses without any context, and what the
smaller one would have made of it alone. Intervals of 95% over the windows.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.output import arguments, deliver

CONTEXT, BEHIND, FIRST, BATCH = 256, 64, 16, 16
#: ways of going on behind the context, compared with reading it again
WAYS = {"carried": "carried over", "none": "no context", "small": "the smaller member goes on"}


def windows(data: Path, number: int) -> Any:
    """Windows of held-out text, evenly over all of it: token ids [number, context + behind + 1]."""
    import numpy as np
    import torch

    from nemo_elastic.data.folder import DataFolder
    from nemo_elastic.errors import ElasticError

    tokens, length = DataFolder.open(data).tokens("val"), CONTEXT + BEHIND + 1
    starts = np.unique(np.linspace(0, len(tokens) - length, number).astype(int))
    if len(tokens) < length or len(starts) < number:
        raise ElasticError(f"--windows: {number} do not fit into the {len(tokens)} held-out tokens of {data}")
    return torch.from_numpy(np.stack([tokens[a : a + length] for a in starts]).astype(np.int64))


def losses(small: Any, large: Any, tokens_bl: Any) -> dict[str, Any]:
    """Loss [b, behind] of each way, and of reading again."""
    import torch.nn.functional as F

    from nemo_elastic.nn.carry import carried

    context, behind = tokens_bl[:, :CONTEXT], tokens_bl[:, CONTEXT:]
    caches = {"again": large.init_cache(len(tokens_bl)), "small": small.init_cache(len(tokens_bl))}
    other = small.init_cache(len(tokens_bl))
    large(context, cache=caches["again"], last=True)
    for cache in (caches["small"], other):
        small(context, cache=cache, last=True)
    caches["carried"] = carried(other, large.parent, large.subnet, large.weights.embedding)
    caches["none"] = large.init_cache(len(tokens_bl))
    out = {}
    for way, cache in caches.items():
        logits_blv = (small if way == "small" else large)(behind[:, :-1], cache=cache)
        out[way] = F.cross_entropy(logits_blv.transpose(1, 2).float(), behind[:, 1:], reduction="none")
    return out


def measure(family: Path, data: Path, number: int) -> Iterator[dict[str, Any]]:
    """Each pair of members, smaller first: losses as means with their intervals, or why nothing is carried."""
    import torch

    from nemo_elastic.nn.carry import why_not_carried
    from nemo_elastic.runtime import load_family
    from nemo_elastic.verdicts import mean_interval

    runtime, tokens = load_family(family, dtype=torch.float32), windows(data, number)
    for large_name, small_name in itertools.combinations(runtime.path, 2):
        large, small = runtime.select(large_name), runtime.select(small_name)
        why = why_not_carried(small.subnet, large.subnet)
        row: dict[str, Any] = {"pair": f"{small_name}>{large_name}", "why": why}
        if why is None:
            parts = [losses(small, large, part) for part in tokens.split(BATCH)]
            whole = {way: torch.cat([part[way] for part in parts]).double() for way in parts[0]}
            row["again"] = whole["again"].mean().item()
            for way in WAYS:
                more = whole[way] - whole["again"]
                for what, cut in (("first", more[:, :FIRST]), ("all", more)):
                    found = mean_interval(cut.mean(1).tolist())
                    row[f"{way} {what}"] = [found.mean, found.low, found.high]
        yield row


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    heads = [f"{title}, {what}" for title in WAYS.values() for what in (f"first {FIRST} tokens", f"all {BEHIND}")]
    lines = [f"| pair | read again, nats | {' | '.join(heads)} |", "|---|" + "---:|" * (1 + len(heads))]
    for row in rows:
        if row["why"] is not None:
            lines.append(f"| {row['pair'].replace('>', '&gt;')} | always: {row['why']} |" + " |" * len(heads))
            continue
        cells = [
            "{:+.4f} ({:+.4f} to {:+.4f})".format(*row[f"{way} {what}"]) for way in WAYS for what in ("first", "all")
        ]
        lines.append(f"| {row['pair'].replace('>', '&gt;')} | {row['again']:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--family", type=Path, default=Path("runs/demo/family"))
    parser.add_argument("--data", type=Path, default=Path("runs/demo/data"))
    parser.add_argument("--windows", type=int, default=96)
    args = parser.parse_args()
    rows = list(measure(args.family, args.data, args.windows))
    deliver(args, rows, table(rows))


if __name__ == "__main__":
    sys.exit(main())

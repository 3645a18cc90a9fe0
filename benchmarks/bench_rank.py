# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What ranking the layers costs against running every candidate whole, and the memory that a ranking takes.

    python -m benchmarks.bench_rank [--rounds 2] [--json FILE] [--markdown FILE]

Three ways take turns on the same tokens of a model of 12 layers that was trained for half a minute on the source of
Python's standard library: every candidate whole (`naive_depth.py`), candidates that share the layers before theirs,
and candidates that are also given up once they have cost more than another one in all. All must give the same order.
Layers that run are counted, there and on models of 16, 32 and 62 layers with random weights. Bytes are those of
tensors alive at the fullest moment of whole rankings of 32 and 128 sequences.
"""

from __future__ import annotations

import ast
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.naive_depth import naive_evaluations, naive_order
from benchmarks.output import arguments, deliver
from benchmarks.peak import Peak
from nemo_elastic.family import Parent
from nemo_elastic.nn.forward import MIXERS, Layers
from nemo_elastic.nn.model import NemotronH
from nemo_elastic.plan import preset
from nemo_elastic.ranking import RankOptions, rank
from nemo_elastic.ranking.depth import Depth, Order, iterative_mse
from nemo_elastic.ranking.measure import LEAST_TOKENS, PIECES

PARENT = Parent("M-M-M*-M-M*-", 96, 256, 256, 12, 16, 4, 16, 4, 6, 2, 16)
SAMPLES, LENGTH, STEPS = 16, 256, 40
#: sequences of a piece, as `rank` would split these samples
PIECE = max(SAMPLES // PIECES, LEAST_TOKENS // LENGTH)
#: only the layers of these are counted, so they are as small as can be
TINY = replace(PARENT, hidden=8, vocab=16, ffn=8, mamba_heads=2, mamba_head_dim=4, mamba_groups=1, state=4,
               attention_heads=2, kv_heads=1, attention_head_dim=4)  # fmt: skip
PATTERNS = {n: preset("nemotron-nano-12b-v2").pattern[:n] for n in (16, 32, 62)}
#: layers up to which the whole order is found
WHOLE = 32
#: dropped layers that the family of the Nemotron Elastic paper needs of 62
DROPS = 8


class Count:
    """Sequences that went through a layer, over all models."""

    def __init__(self) -> None:
        self.layers = 0
        for kind, mixer in list(MIXERS.items()):
            MIXERS[kind] = lambda x_bld, run, mixer=mixer: self._one(x_bld) or mixer(x_bld, run)

    def _one(self, x_bld: torch.Tensor) -> None:
        self.layers += len(x_bld)

    def of(self, call: Callable[[], Order]) -> tuple[Order, int]:
        before = self.layers
        return call(), self.layers - before


def text(sequences: int, length: int = LENGTH) -> torch.Tensor:
    """Bytes of the standard library, [sequences, length]."""
    content = b"".join(path.read_bytes() for path in sorted(Path(ast.__file__).parent.glob("*.py")))
    return torch.frombuffer(bytearray(content[: sequences * length]), dtype=torch.uint8).long().view(-1, length)


def train(model: NemotronH, steps: int = STEPS) -> float:
    """The last loss, in nats per byte."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    data, loss = text(steps * 8), torch.zeros(())
    for tokens_bl in data[torch.randperm(len(data))].split(8):
        logits = model(tokens_bl[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens_bl[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return float(loss.detach())


def shared(model: NemotronH, pieces: Sequence[torch.Tensor], exact: int | None = None) -> Order:
    """Our way; with a single piece no candidate is given up."""
    depth = Depth(Layers(model.weights()), model.parent.num_layers)
    for piece in pieces:
        depth.add(piece)
    return iterative_mse(depth, exact)


def compare(count: Count, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds, layers that run and orders of the three ways in turn."""
    torch.manual_seed(0)
    model = NemotronH.random(PARENT, scale=0.5)
    print(f"trained to {train(model):.3f} nats per byte", flush=True)
    tokens_bl = text(SAMPLES)
    ways: dict[str, Callable[[], Order]] = {
        "naive": lambda: naive_order(model, PARENT, [tokens_bl]),
        "shared": lambda: shared(model, [tokens_bl]),
        "given up": lambda: shared(model, tokens_bl.split(PIECE)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    orders, layers = {}, {}
    for i in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            orders[name], layers[name] = count.of(way)
            seconds[name].append(time.perf_counter() - began)
        print(f"round {i + 1}: " + ", ".join(f"{name} {s[-1]:.1f} s" for name, s in seconds.items()), flush=True)
    if len({order[0] for order in orders.values()}) > 1:
        raise SystemExit(f"the ways do not give one order: {orders}")
    paired = {name: [s / n for s, n in zip(seconds[name], seconds["naive"], strict=True)] for name in ways}
    return {
        name: {
            "seconds": statistics.median(seconds[name]),
            "time": statistics.median(paired[name]),
            "layers": layers[name] / SAMPLES,
            "evaluations": layers[name] / layers["naive"],
        }
        for name in ways
    }


def counts(count: Count) -> list[dict[str, float]]:
    """Layers that run for one sequence, by the number of layers; of the deepest only for the drops that are needed."""
    rows = []
    for n, pattern in PATTERNS.items():
        model = NemotronH.random(replace(TINY, pattern=pattern), scale=0.5)
        tokens_bl = torch.randint(TINY.vocab, (2, 8), generator=torch.Generator().manual_seed(0))
        naive = len(tokens_bl) * naive_evaluations(n)
        row: dict[str, float] = {"layers": n, "naive": naive_evaluations(n)}
        if n <= WHOLE:
            alone, row["shared"] = count.of(lambda m=model, t=tokens_bl: shared(m, [t]))
            raced, row["given up"] = count.of(lambda m=model, t=tokens_bl: shared(m, t.split(1)))
            if alone[0] != raced[0]:
                raise SystemExit(f"the ways do not give one order: {alone}, {raced}")
        row["drops"] = count.of(lambda m=model, t=tokens_bl, n=n: shared(m, t.split(1), min(DROPS, n - 1)))[1]
        rows.append(row | {k: v / naive for k, v in row.items() if k not in ("layers", "naive")})
        print(f"{n} layers: " + ", ".join(f"{k} {v:.3f}" for k, v in rows[-1].items()), flush=True)
    return rows


def memory() -> dict[int, float]:
    """Sequences of a whole ranking -> bytes of tensors at the fullest moment."""
    model, found = NemotronH.random(PARENT), {}
    tokens_bl = text(128)
    for sequences in (32, 128):
        batches = (tokens_bl[at : at + SAMPLES].clone() for at in range(0, sequences, SAMPLES))
        with Peak() as peak:
            rank(Layers(model.weights()), PARENT, batches, RankOptions(depth_exact=1))
        found[sequences] = peak.most
    return found


def table(ways: dict[str, dict[str, float]], rows: list[dict[str, float]], bytes_of: dict[int, float]) -> str:
    """The three tables as Markdown."""
    words = {"naive": "every candidate whole", "shared": "the layers before a candidate's shared",
             "given up": "and candidates given up"}  # fmt: skip
    lines = [
        "| order of 12 layers | seconds | time | layers run per sequence | layers |",
        "|---|" + "---:|" * 4,
    ]
    lines += [
        f"| {words[name]} | {w['seconds']:.1f} | {w['time']:.3f} x | {w['layers']:.0f} | {w['evaluations']:.3f} x |"
        for name, w in ways.items()
    ]
    lines += ["", f"| layers | run by every candidate whole | shared | given up | the first {DROPS} drops |"]
    lines += ["|---:|---:|---:|---:|---:|"]
    for r in rows:
        shares = [f"{r[k]:.3f} x" if k in r else "" for k in ("shared", "given up", "drops")]
        lines.append(f"| {r['layers']} | {r['naive']} | {' | '.join(shares)} |")
    lines += ["", "| sequences of a ranking | peak of tensors |", "|---:|---:|"]
    lines += [f"| {n} | {b / 2**20:.1f} MiB |" for n, b in bytes_of.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(2)
    bytes_of, count = memory(), Count()
    ways = compare(count, args.rounds)
    torch.set_num_threads(1)  # nothing of what is counted is worth two
    rows = counts(count)
    deliver(args, {"ways": ways, "counts": rows, "bytes": bytes_of}, table(ways, rows, bytes_of))


if __name__ == "__main__":
    main()

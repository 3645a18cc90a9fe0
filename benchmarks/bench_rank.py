# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What ranking the layers costs against running every candidate whole, and the memory that a ranking takes.

    python -m benchmarks.bench_rank [--rounds 4] [--json FILE] [--markdown FILE]

Four ways take turns on the same tokens of a model of 12 layers that was trained for half a minute on the source of
Python's standard library: every candidate whole (`naive_depth.py`), with the whole model run once, against which all
are measured, and with the whole model run again in every round; candidates that share the layers before theirs; and
candidates that are also given up once they have cost more than another one in all. All must give the same order.
Layers that run are counted, there and on models of 16, 32 and 62 layers with random weights: the first drops against
the same drops of every candidate whole. Bytes are those of tensors alive at the fullest moment of whole rankings of 32
and 128 sequences.

Ends with exit code 1 if a goal is missed.
"""

from __future__ import annotations

import ast
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.output import arguments, deliver
from nemo_elastic.core.family import Parent
from nemo_elastic.nn.forward import MIXERS, Layers
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.plan import preset
from nemo_elastic.ranking import RankOptions
from nemo_elastic.ranking.depth import Depth, Order, iterative_mse
from nemo_elastic.ranking.measure import LEAST_TOKENS, PIECES, rank
from tests.support.naive_depth import naive_evaluations, naive_order
from tests.support.peak import Peak

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
#: dropped layers that conf/elastic_12b.yaml asks for of 62
DROPS = 8
#: goals, in layers that run over those of every candidate whole: the order of 12 layers, the first drops of 62; and
#: memory of four times the sequences over that of a quarter
ORDER, FIRST, GROWS = 0.55, 0.4, 1.05


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
    """Seconds and layers that run of the four ways in turn, which must give one order."""
    torch.manual_seed(0)
    model = NemotronH.random(PARENT, scale=0.5)
    print(f"trained to {train(model):.3f} nats per byte", flush=True)
    tokens_bl = text(SAMPLES)
    ways: dict[str, Callable[[], Order]] = {
        "naive": lambda: naive_order(model, PARENT, [tokens_bl]),
        "again": lambda: naive_order(model, PARENT, [tokens_bl], again=True),
        "shared": lambda: shared(model, [tokens_bl]),
        "given up": lambda: shared(model, tokens_bl.split(PIECE)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    orders, layers = {}, {}
    for i in range(rounds):
        turn = i % len(ways)  # nobody always comes first
        for name, way in [*ways.items()][turn:] + [*ways.items()][:turn]:
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
        drops = min(DROPS, n - 1)
        row: dict[str, float] = {"layers": n, "naive": naive_evaluations(n), "first": naive_evaluations(n, drops)}
        ran: dict[str, int] = {}
        if n <= WHOLE:
            alone, ran["shared"] = count.of(lambda m=model, t=tokens_bl: shared(m, [t]))
            raced, ran["given up"] = count.of(lambda m=model, t=tokens_bl: shared(m, t.split(1)))
            if alone[0] != raced[0]:
                raise SystemExit(f"the ways do not give one order: {alone}, {raced}")
        ran["drops"] = count.of(lambda m=model, t=tokens_bl, d=drops: shared(m, t.split(1), d))[1]
        row |= {k: layers / len(tokens_bl) / row["naive"] for k, layers in ran.items()}
        rows.append(row | {"drops of the first": row["drops"] * row["naive"] / row["first"]})
        print(f"{n} layers: " + ", ".join(f"{k} {v:.3f}" for k, v in rows[-1].items()), flush=True)
    return rows


def memory() -> dict[int, float]:
    """Sequences of a whole ranking -> bytes of tensors at the fullest moment."""
    model, figures = NemotronH.random(PARENT), {}
    tokens_bl = text(128)
    for sequences in (32, 128):
        batches = (tokens_bl[at : at + SAMPLES].clone() for at in range(0, sequences, SAMPLES))
        with Peak() as peak:
            rank(Layers(model.weights()), PARENT, batches, RankOptions(depth_exact=1))
        figures[sequences] = peak.most
    return figures


def table(ways: dict[str, dict[str, float]], rows: list[dict[str, float]], bytes_of: dict[int, float]) -> str:
    """The three tables as Markdown, and the goals."""
    words = {"naive": "every candidate whole", "again": "and the whole model again in every round",
             "shared": "the layers before a candidate's shared", "given up": "and candidates given up"}  # fmt: skip
    lines = [
        "| order of 12 layers | seconds | time | layers run per sequence | layers |",
        "|---|" + "---:|" * 4,
    ]
    lines += [
        f"| {words[name]} | {w['seconds']:.1f} | {w['time']:.3f} x | {w['layers']:.0f} | {w['evaluations']:.3f} x |"
        for name, w in ways.items()
    ]
    lines += [
        "",
        f"| layers | every candidate whole | shared | given up | the first {DROPS} drops, every candidate whole "
        "| given up, of these | given up, of the whole order |",
        "|" + "---:|" * 7,
    ]
    for r in rows:
        shared, given, first, drops = (
            f"{r[k]:.3f} x" if k in r else "" for k in ("shared", "given up", "drops of the first", "drops")
        )
        lines.append(f"| {r['layers']} | {r['naive']} | {shared} | {given} | {r['first']} | {first} | {drops} |")
    lines += ["", "| sequences of a ranking | peak of tensors |", "|---:|---:|"]
    lines += [f"| {n} | {b / 2**20:.1f} MiB |" for n, b in bytes_of.items()]
    verdicts = (f"- {text}: {'met' if met else 'missed'}" for text, met in goals(ways, rows, bytes_of))
    return "\n".join([*lines, "", *verdicts]) + "\n"


def goals(
    ways: dict[str, dict[str, float]], rows: list[dict[str, float]], bytes_of: dict[int, float]
) -> list[tuple[str, bool]]:
    """What ranking has to be, and whether it is."""
    few, many = bytes_of.values()
    return [
        (
            f"the order of 12 layers runs at most {ORDER} x the layers of every candidate whole",
            ways["given up"]["evaluations"] <= ORDER,
        ),
        (
            f"the first {DROPS} drops of {rows[-1]['layers']} run at most {FIRST} x the same of every candidate whole",
            rows[-1]["drops of the first"] <= FIRST,
        ),
        (f"four times the sequences take at most {GROWS} x the memory", many <= GROWS * few),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(2)
    bytes_of, count = memory(), Count()
    ways = compare(count, args.rounds)
    torch.set_num_threads(1)  # nothing of what is counted is worth two
    rows = counts(count)
    missed = [text for text, met in goals(ways, rows, bytes_of) if not met]
    deliver(args, {"ways": ways, "counts": rows, "bytes": bytes_of}, table(ways, rows, bytes_of), missed)


if __name__ == "__main__":
    main()

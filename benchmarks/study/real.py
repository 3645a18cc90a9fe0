# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members of a real pre-trained parent, SmolLM2-135M-Instruct (`llama`), on English text (`english`).

Its residual stream is nested in three ways: channels chosen by magnitude, under norms over the member's width or over
the parent's, and a rotation to the principal directions of the norms' inputs. Untrained members have the hidden width
cut alone, or the shapes that the search finds in each way, as they are and with rounded weights. Then members are
distilled, alone and together, at several peak rates. One core, products in bf16.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.study import english, llama
from benchmarks.study.grounds import optimizer_of, rate, step
from benchmarks.study.results import KEPT, Kept, markdown
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import OWN_WIDTH, PARENT_WIDTH, Subnet
from nemo_elastic.core.precision import SCHEMES
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.low_precision import rounded_state
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking import Ranking, RankOptions, sort
from nemo_elastic.ranking.measure import rank
from nemo_elastic.ranking.scores import through
from nemo_elastic.search import Space, search

BUDGETS = {"85": 0.85, "72": 0.72, "50": 0.5}
AXES: Mapping[str, Any] = {
    "hidden": [576, 512, 448, 384, 320],
    "depth": [60, 56, 52, 48, 44, 40],
    llama.HEADS: [9, 6],
    llama.INNER: [1536, 1280, 1024, 768],
}
#: widths of the stream that are cut alone
FIXED = (512, 448, 384)
#: way -> (how the hidden width is ranked, whose width norms are over)
CHOSEN, WIDE, BASIS = "channels, norm over the member", "channels, norm over the parent", "basis"
WAYS = {CHOSEN: ("magnitude", OWN_WIDTH), WIDE: ("magnitude", PARENT_WIDTH), BASIS: ("basis", PARENT_WIDTH)}
#: rows that rank, that the depth is ranked on, that the search compares on; the first held-out row of results, their
#: number
RANKED, DEPTH_RANKED, COMPARED = 32, 2, 2
FIRST, HELD_OUT = 8, 16
CANDIDATES = 48
RATES = (5e-5, 1e-4, 2e-4, 4e-4)
FAMILY, PARENT = "family", "parent"
TRAINED = ("448", "72", "50", FAMILY)
#: that are trained and rounded
TRAINED_WAYS = (CHOSEN, BASIS)


@dataclass(frozen=True)
class Result:
    """Of a member, or of the parent.

    Attributes:
        way: of `WAYS`.
        run: `fixed` widths or `search`, both untrained; a scheme of low precision, untrained; `alone`, `family`, or
            `parent`.
        size: of the member: a width, or a budget.
        seed, steps, lr: of its training, in which it was the student of so many steps.
        apart: divergence from the parent in nats a token of held-out text; perplexity: of the same text.
        share: of the parent's parameters.
        keep: layers; widths: of all of them.
    """

    way: str
    run: str
    size: str
    seed: int
    steps: int
    lr: float
    apart: float
    perplexity: float
    share: float
    keep: Sequence[int]
    widths: Mapping[str, int]


class Ground:
    """The parent in each way, the text, and what the parent says of it.

    Args:
        model: the parent.
        rows: of tokens, by whether they are held out (`english.rows`).
        axes: choices of each axis.
        folder: of rankings.
    """

    def __init__(
        self, model: NemotronH, rows: Mapping[bool, torch.Tensor], axes: Mapping[str, Any], folder: Path
    ) -> None:
        self.model, self.folder = model.requires_grad_(False), folder
        budgets = [{"name": "full"}, *({"name": name, "ratio": ratio} for name, ratio in BUDGETS.items())]
        self.config = ElasticConfig.from_dict({"budgets": budgets, "axes": axes})
        self.axes = self.config.resolve_axes(model.parent)
        self.ranked, self.compared, self.rest = rows[False].split(
            [RANKED, COMPARED, len(rows[False]) - RANKED - COMPARED]
        )
        self.held_out = rows[True][FIRST : FIRST + HELD_OUT]
        self._normed: dict[bytes, torch.Tensor] = {}

    @torch.no_grad()
    def taught(self, row_l: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the parent [l, v]; what its head reads is computed once."""
        layers, key = Layers(self.model.weights()), row_l.numpy().tobytes()
        with bf16():
            if key not in self._normed:
                self._normed[key] = through(layers, layers.indices, layers.embed(row_l[None]))
            return layers.head(self._normed[key])[0].float().log_softmax(-1)

    @cached_property
    def _rankings(self) -> dict[str, Ranking]:
        """By magnitude, with the order of layers, and by a basis with the same."""
        first = self._ranking("magnitude", depth="mse", depth_samples=DEPTH_RANKED, depth_exact=1)
        basis = self._ranking("basis", depth="cosine")
        return {"magnitude": first, "basis": replace(basis, depth=first.depth, depth_scores=first.depth_scores)}

    def _ranking(self, hidden: str, **options: Any) -> Ranking:
        out = self.folder / hidden
        if not out.exists():
            print(f"ranking by {hidden}", flush=True)
            with bf16():
                asked = RankOptions(hidden=hidden, **options)
                rank(Layers(self.model.weights()), self.model.parent, self.ranked.split(1), asked).save(out)
        return Ranking.load(out, self.model.parent)

    def sorted(self, way: str) -> NemotronH:
        """The parent in a way."""
        hidden, norm = WAYS[way]
        return NemotronH(
            replace(self.model.parent, norm=norm),
            {name: t.clone() for name, t in sort(self.model.state_dict(), self._rankings[hidden]).items()},
        )

    @torch.no_grad()
    def apart(self, model: NemotronH, member: Subnet | None, rows: torch.Tensor) -> tuple[float, float]:
        """Divergence from the parent in nats a token, and perplexity."""
        divergence, loss = [], []
        for row_l in rows:
            taught, said = self.taught(row_l), said_of(model, row_l, member)
            divergence.append(float(kl(taught, said)))
            loss.append(float(F.nll_loss(said[:-1], row_l[1:])))
        return mean(divergence), math.exp(mean(loss))

    def search(self, model: NemotronH) -> dict[str, Subnet]:
        """The search's shapes in a way's parent."""
        space = Space(model.parent, self.axes, self._rankings["magnitude"].depth)
        found = search(space, self.config.budgets, lambda m: self.apart(model, m, self.compared)[0], CANDIDATES)
        return {name: found.members[name] for name in BUDGETS}


def bf16() -> torch.autocast:
    """Products in bf16; the stream and the weights stay fp32."""
    return torch.autocast("cpu", torch.bfloat16)


def said_of(model: NemotronH, row_l: torch.Tensor, member: Subnet | None) -> torch.Tensor:
    """Log-probabilities [l, v]."""
    with bf16():
        logits = model(row_l[None], member)
    return logits[0].float().log_softmax(-1)


def kl(taught: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    return F.kl_div(said, taught, log_target=True, reduction="batchmean")


class Study:
    """Results, each made once."""

    def __init__(self, ground: Ground, file: Path) -> None:
        self.ground, self.kept = ground, Kept(file, Result)
        self._last: tuple[str, NemotronH] | None = None

    def model(self, way: str) -> NemotronH:
        """The parent in a way, untrained; one way's at a time is in memory."""
        if self._last is None or self._last[0] != way:
            self._last = None
            self._last = way, self.ground.sorted(way)
        return self._last[1]

    def untrained(self, way: str, widths: Sequence[int]) -> None:
        """With the hidden width cut alone, and by the search."""
        shape = self.ground.model.parent

        def results(run: str, members: Callable[[], Mapping[str, Subnet]]) -> Callable[[], list[Result]]:
            return lambda: [self.result(self.model(way), m, way, run, size) for size, m in members().items()]

        fixed = {str(width): shape.uniform(hidden=width) for width in widths}
        self.kept.get(results("fixed", lambda: fixed), way=way, run="fixed")
        self.kept.get(results("search", lambda: self.ground.search(self.model(way))), way=way, run="search")

    def rounded(self, way: str, scheme: str) -> None:
        """The parent and every untrained member, with weights rounded to low precision under the parent's scales."""

        def made() -> list[Result]:
            model = self.model(way)
            rounded = NemotronH(model.parent, rounded_state(model.parent, model.state_dict(), scheme))
            sizes = [r.size for r in self.kept.find(way=way, steps=0) if r.run in ("fixed", "search")]
            members = {PARENT: model.parent.full} | {size: self.member(way, size) for size in sizes}
            return [self.result(rounded, m, way, scheme, size) for size, m in members.items()]

        self.kept.get(made, way=way, run=scheme)

    def parent(self) -> None:
        """What the parent's perplexity is."""
        model = self.ground.model
        self.kept.get(lambda: [self.result(model, model.parent.full, PARENT, PARENT, PARENT)], run=PARENT)

    def member(self, way: str, size: str) -> Subnet:
        """Of a fixed width, or what the search found."""
        (found,) = (r for r in self.kept.find(way=way, size=size, steps=0) if r.run in ("fixed", "search"))
        return self.ground.model.parent.uniform(found.keep, **found.widths)

    def result(
        self, model: NemotronH, member: Subnet, way: str, run: str, size: str, seed: int = 0, steps: int = 0,
        lr: float = 0.0,
    ) -> Result:  # fmt: skip
        parent = self.ground.model.parent
        apart, perplexity = self.ground.apart(model, member, self.ground.held_out)
        print(f"{way}, {run} {size}, {steps} steps at {lr:g}: {apart:.4f}, perplexity {perplexity:.1f}", flush=True)
        share = parameters(parent, member) / parameters(parent, parent.full)
        widths = {"hidden": member.hidden} | {axis: member.widths(axis)[0] for axis in (llama.INNER, llama.HEADS)}
        keep = [layer.index for layer in member.layers]
        return Result(way, run, size, seed, steps, lr, apart, perplexity, share, keep, widths)

    def alone(self, way: str, size: str, seed: int, steps: int, lr: float) -> Result:
        """A member distilled alone."""

        def made() -> list[Result]:
            member = self.member(way, size)
            model = self.model(way).submodel(member)
            self._train(model, (member for _ in range(steps)), seed, steps, lr)
            return [self.result(model, member, way, "alone", size, seed, steps, lr)]

        return self.kept.get(made, way=way, run="alone", size=size, seed=seed, steps=steps, lr=lr)[0]

    def family(self, way: str, seed: int, steps: int, lr: float) -> list[Result]:
        """All members in one run, each the student of so many steps."""

        def made() -> list[Result]:
            members = {size: self.member(way, size) for size in BUDGETS}
            model, self._last = self.model(way), None
            turns = (member for _ in range(steps) for member in members.values())
            self._train(model, turns, seed, len(members) * steps, lr)
            return [self.result(model, m, way, FAMILY, size, seed, steps, lr) for size, m in members.items()]

        return self.kept.get(made, way=way, run=FAMILY, seed=seed, steps=steps, lr=lr)

    def _train(self, model: NemotronH, members: Iterator[Subnet], seed: int, steps: int, lr: float) -> None:
        """A row of text a step."""
        optimizer, rows = optimizer_of(model), self.ground.rest
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
        for i, member in enumerate(members):
            row_l = rows[order[i % len(order)]]
            step(model, optimizer, kl(self.ground.taught(row_l), said_of(model, row_l, member)), lr * rate(i / steps))


# ---------------------------------------------------------------------------------------------------------- the tables


def tables(found: Sequence[Result]) -> str:
    """Untrained, of fixed widths and of the search's shapes; then what was trained."""
    before = {(r.way, r.size): r for r in found if r.run in ("fixed", "search")}
    rows = []
    for first in (r for r in before.values() if r.way == CHOSEN):
        of = [before[way, first.size] for way in WAYS]
        cells = [_both([r]) + (f" ({_shape(r)})" if r.run == "search" else "") for r in of]
        rows.append([_named(first), *cells, f"{of[-1].apart / of[0].apart:.2f}"])
    whole = "".join(f"the parent: 0 / {r.perplexity:.1f}" for r in found if r.run == PARENT)
    head = ["untrained, KL / perplexity", *WAYS, "the last over the first"]
    parts = [f"{markdown(head, rows)}\n{whole}\n"]
    if any(r.run in SCHEMES for r in found):
        parts.append(_rounded(before, found))
    if trained := [r for r in found if r.steps]:
        parts.append(_trained(before, trained))
    return "\n".join(parts)


def _rounded(before: Mapping[tuple[str, str], Result], found: Sequence[Result]) -> str:
    """What rounding the weights adds to each untrained model's divergence."""
    added: dict[str, dict[tuple[str, str], float]] = {}
    for r in (r for r in found if r.run in SCHEMES):
        start = 0.0 if r.size == PARENT else before[r.way, r.size].apart
        added.setdefault(r.size, {})[r.run, r.way] = r.apart - start
    columns = [(scheme, way) for scheme in SCHEMES for way in TRAINED_WAYS if (scheme, way) in added[PARENT]]
    rows = []
    for size, of in added.items():
        name = "the parent" if size == PARENT else _named(before[CHOSEN, size])
        rows.append([name, *(f"{of[column]:+.3f}" for column in columns)])
    return markdown(["weights rounded, KL added", *(f"{scheme}, {way}" for scheme, way in columns)], rows)


def _trained(before: Mapping[tuple[str, str], Result], trained: Sequence[Result]) -> str:
    rates = sorted({r.lr for r in trained})
    of: dict[tuple[str, str, int, str], dict[float, list[Result]]] = {}
    for r in trained:
        of.setdefault((r.run, r.size, r.steps, r.way), {}).setdefault(r.lr, []).append(r)
    rows = []
    for key in sorted(of, key=lambda key: (key[0], -int(key[1]), key[2], [*WAYS].index(key[3]))):
        (run, _, steps, way), start = key, before[key[3], key[1]]
        by_rate = [_both(of[key].get(lr, [])) for lr in rates]
        rows.append([f"{run}, {_named(start)}", str(steps), way, _both([start]), *by_rate])
    return markdown(["distilled", "steps", "way", "untrained", *(f"peak {lr:g}" for lr in rates)], rows)


def _named(result: Result) -> str:
    return f"width {result.size}" if result.run == "fixed" else f"{result.size} %"


def _shape(result: Result) -> str:
    """Hidden width x layers, width of the MLPs, heads."""
    hidden, inner, heads = result.widths.values()
    return f"{hidden} x {len(result.keep)}, {inner}, {heads}; {100 * result.share:.0f} %"


def _both(results: Sequence[Result]) -> str:
    """The mean of all seeds; in brackets the divergence of each where there are several."""
    if not results:
        return "–"
    each = f" ({', '.join(f'{r.apart:.3f}' for r in results)})" if len(results) > 1 else ""
    return f"{mean(r.apart for r in results):.3f} / {mean(r.perplexity for r in results):.1f}{each}"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--train", nargs="*", default=TRAINED, choices=TRAINED, help="what is distilled")
    parser.add_argument("--steps", type=int, nargs="+", default=(10, 50), help="in which a member is the student")
    parser.add_argument("--ways", nargs="+", default=TRAINED_WAYS, choices=tuple(WAYS), help="that are trained")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="peak rates")
    parser.add_argument("--kept", action="store_true", help="run nothing: the results that the documentation shows")


def study(args: argparse.Namespace) -> str:
    """The tables."""
    if args.kept:
        return tables(Kept(KEPT / "real.jsonl", Result).results)
    llama.register_kinds()
    model, tokenizer = llama.smollm2()
    rows = args.runs / "rows.pt"
    if not rows.exists():
        torch.save(english.rows(tokenizer), rows)
    own = Study(Ground(model, torch.load(rows), AXES, args.runs), args.runs / "results.jsonl")
    own.parent()
    for way in WAYS:
        own.untrained(way, FIXED)
    for way, scheme in product(TRAINED_WAYS, SCHEMES):
        own.rounded(way, scheme)
    for seed, steps, way, lr, what in product(args.seeds, args.steps, args.ways, args.rates, args.train):
        own.family(way, seed, steps, lr) if what == FAMILY else own.alone(way, what, seed, steps, lr)
    return tables(own.kept.results)

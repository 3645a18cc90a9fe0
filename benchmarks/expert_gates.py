# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What soft gates on experts should multiply: how a layer answers to them, and which members a router then finds.

    python -m benchmarks.expert_gates [--seeds 6] [--steps 80] [--json FILE] [--markdown FILE]

A small parent with 16 experts in each of four layers is trained, ranked and sorted. First table: the gates of the less
important half of all experts go from 1 to 0 together. Second: a router with no start but its noise learns on soft
gates how many experts each layer keeps; the parent is frozen, so each of the 256 members can be measured, and what the
router's projected member loses is compared with the best one that its budget allows; standard errors over seeds.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import nemo_elastic.nn.forward as package
from benchmarks.output import arguments, deliver
from nemo_elastic.config.sections import RouterConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.moe import EXPERTS, SCALING, TOP_K
from nemo_elastic.data.build import build_data
from nemo_elastic.nn.forward import LayerRun, Layers
from nemo_elastic.nn.functional import work_dtype
from nemo_elastic.nn.gates import Gates, LayerGates
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking import Ranking, sort
from nemo_elastic.ranking.measure import rank
from nemo_elastic.router import Router
from nemo_elastic.search import Space

VOCAB, LENGTH, BATCH = 512, 128, 8
PARENT = Parent(
    "MEME*MEME", 64, VOCAB, mamba_heads=8, mamba_head_dim=16, mamba_groups=2, state=16, attention_heads=4, kv_heads=2,
    attention_head_dim=16,
    experts=16, expert_ffn=64, shared_ffn=64, top_k=2, routed_scaling=2.5,
)  # fmt: skip
CHOICES = (16, 12, 8, 4)
#: experts of all layers together that a member may have, as shares of the parent's
BUDGETS = {"75": 0.75, "50": 0.5}
GATES = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.01, 0.0)
ROUTER = RouterConfig()
#: nats for twice the cost. It holds costs down alone: what is learned below a budget, the gates have taught
WEIGHT = 4.0

Routed = tuple[torch.Tensor, torch.Tensor]
Way = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], Routed]


# ----------------------------------------------------------------------------------------------------- ways of gating


def chosen_by(key_te: torch.Tensor, gate_e: torch.Tensor, k: int) -> torch.Tensor:
    return key_te.masked_fill(gate_e == 0, -torch.inf).topk(k, sorted=False).indices


def normalised(weight_tk: torch.Tensor) -> torch.Tensor:
    return weight_tk / (weight_tk.sum(1, keepdim=True) + 1e-20)


def scores(score_te: torch.Tensor, bias_e: torch.Tensor, gate_e: torch.Tensor, k: int) -> Routed:
    """Gates multiply scores before the choice; the weights of the chosen add up to one."""
    score_te = score_te * gate_e
    chosen_tk = chosen_by(score_te + bias_e, gate_e, k)
    return chosen_tk, normalised(score_te.gather(1, chosen_tk))


def weights(score_te: torch.Tensor, bias_e: torch.Tensor, gate_e: torch.Tensor, k: int) -> Routed:
    """Scores choose; gates multiply the weights of the chosen: nothing takes a faded expert's place."""
    chosen_tk = chosen_by(score_te + bias_e, gate_e, k)
    return chosen_tk, normalised(score_te.gather(1, chosen_tk)) * gate_e[chosen_tk]


def shares(score_te: torch.Tensor, bias_e: torch.Tensor, gate_e: torch.Tensor, k: int) -> Routed:
    """Scores choose; gates multiply the weights of the chosen, which then add up to one."""
    chosen_tk = chosen_by(score_te + bias_e, gate_e, k)
    return chosen_tk, normalised((score_te * gate_e).gather(1, chosen_tk))


def mixture(score_te: torch.Tensor, bias_e: torch.Tensor, gate_e: torch.Tensor, k: int) -> Routed:
    """The weights expected over the router's choices: of each the model that it is, more than `k` experts in all."""
    levels = [x for x in gate_e.detach().unique().flip(0).tolist() if x > 0 and int((gate_e >= x).sum()) >= k]
    values = [gate_e[int((gate_e == x).nonzero()[0, 0])] for x in levels]
    total_te = torch.zeros_like(score_te)
    for x, value, below in zip(levels, values, [*values[1:], gate_e.new_zeros(())], strict=True):
        chosen_tk = chosen_by(score_te + bias_e, gate_e * (gate_e >= x), k)
        total_te = total_te.scatter_add(1, chosen_tk, (value - below) * normalised(score_te.gather(1, chosen_tk)))
    weight_tk, chosen_tk = (total_te / values[0]).topk(min(score_te.shape[1], k * len(levels)), 1)
    return chosen_tk, weight_tk


#: what gates multiply -> how; None is the package's own way
WAYS: dict[str, Way | None] = {
    "scores before the choice": scores,
    "weights after it": weights,
    "shares after it": shares,
    "weights, and log in the choice": None,
    "choices mixed": mixture,
}


@contextmanager
def gated(way: Way | None, seen: list[torch.Tensor] | None = None) -> Iterator[None]:
    """Let layers with experts obey soft gates in a way; `seen` gets the experts of each token, layer by layer."""
    own = package.route

    def route(x_td: torch.Tensor, run: LayerRun) -> Routed:
        if run.gates is None or way is None:
            chosen_tk, weight_tk = own(x_td, run)
        else:
            score_te = run.w.linear("gate", x_td.to(work_dtype(x_td))).sigmoid()
            gate_e, bias_e = (t.to(score_te.dtype) for t in (run.gates[EXPERTS], run.w["gate_bias"]))
            chosen_tk, weight_tk = way(score_te, bias_e, gate_e, run.parent.size(TOP_K))
            weight_tk = weight_tk * run.parent.size(SCALING)
        if seen is not None:
            none_te = weight_tk.new_zeros(len(x_td), run.parent.size(EXPERTS))
            seen.append(none_te.scatter(1, chosen_tk, (weight_tk > 0).to(none_te)))
        return chosen_tk, weight_tk

    package.route = route
    try:
        yield
    finally:
        package.route = own


# ------------------------------------------------------------------------------------------------------------ parent


def batches(tokens: np.ndarray, seed: int, count: int) -> Iterator[torch.Tensor]:
    """Windows of text, [batch, length + 1]."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        starts = random.integers(0, len(tokens) - LENGTH - 1, BATCH)
        yield torch.from_numpy(np.stack([tokens[a : a + LENGTH + 1] for a in starts]).astype(np.int64))


def trained(tokens: np.ndarray, steps: int) -> NemotronH:
    """A parent, by cross-entropy; after each step biases move to where fewer tokens went, as in megatron-core."""
    torch.manual_seed(0)
    model = NemotronH.random(PARENT, seed=0, scale=0.5)
    bias = {i: model.get_parameter(f"backbone.layers.{i}.mixer.gate.e_score_correction_bias") for i in moe_layers()}
    for b in bias.values():
        b.requires_grad_(False).zero_()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.1)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.05)

    def count(site: str, layer: int, x: torch.Tensor) -> None:
        if site == "routed":
            load_e = x.flatten(0, -2).sum(0)
            bias[layer].add_(torch.sign(load_e.mean() - load_e), alpha=3e-3)

    for text_bl in batches(tokens, 1, steps):
        loss = F.cross_entropy(model(text_bl[:, :-1], None, count).flatten(0, 1), text_bl[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        rate.step()
    return model


def moe_layers() -> list[int]:
    return [i for i, kind in enumerate(PARENT.types) if kind == "moe"]


@dataclass
class Ground:
    """What all ways stand on: the sorted parent, the text that routers learn on, and what members lose."""

    model: NemotronH
    space: Space
    tokens: np.ndarray
    held_bl: torch.Tensor
    loss: float
    members: dict[tuple[int, ...], float]

    def lost(self, member: Subnet) -> float:
        return self.members[tuple(member.widths(EXPERTS))]


def ground(steps: int) -> Ground:
    with tempfile.TemporaryDirectory() as place:
        data = build_data(Path(place) / "data", vocab=VOCAB)
        tokens, held = (np.asarray(data.tokens(split)) for split in ("train", "val"))
    model = trained(tokens, steps)
    looked = [text_bl[:, :-1] for text_bl in batches(tokens, 2, 8)]
    ranking: Ranking = rank(Layers(model.weights()), PARENT, looked)
    model = NemotronH(PARENT, sort(model.state_dict(), ranking, PARENT), trainable=False)
    space = Space(PARENT, {EXPERTS: AxisConfig(CHOICES, per_layer=True, stripes=1)})
    (text_bl,) = [torch.cat([*batches(held, 3, 4)])]
    held_bl, gradients = text_bl[:, :-1], {}
    with torch.no_grad():
        whole = model(held_bl)
        loss = float(F.cross_entropy(whole.flatten(0, 1), text_bl[:, 1:].flatten()))
        whole = whole.log_softmax(-1)
        for widths in itertools.product(CHOICES, repeat=len(moe_layers())):
            gradients[widths] = float(divergence(whole, model(held_bl, member_of(widths))))
    return Ground(model, space, tokens, held_bl, loss, gradients)


def member_of(widths: Sequence[int]) -> Subnet:
    own = dict(zip(moe_layers(), widths, strict=True))
    layers = [PARENT.layer(i, experts=own[i]) if i in own else PARENT.layer(i) for i in range(PARENT.num_layers)]
    return Subnet(PARENT.hidden, tuple(layers))


def divergence(whole: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Nats per token that a model's logits are away from the parent's log-probabilities."""
    return (whole.exp() * (whole - logits.log_softmax(-1))).sum(-1).mean()


# --------------------------------------------------------------------------------------------------------- measuring


def response(here: Ground, way: Way | None) -> list[dict[str, float]]:
    """KL, its slope and the share of slots of the gated experts, where the gates of half of them go down."""
    half = Gates.of(PARENT, PARENT.uniform(experts=PARENT.size(EXPERTS) // 2))
    full, curve = Gates.of(PARENT, PARENT.full), []
    whole = here.model(here.held_bl).log_softmax(-1)
    for value in GATES:
        gate, layers, seen = torch.tensor(value, requires_grad=True), [], []
        for one, other in zip(full.layers, half.layers, strict=True):
            own = {axis: torch.where(other.widths[axis] > 0, g, gate) if axis == EXPERTS else g
                   for axis, g in one.widths.items()}  # fmt: skip
            layers.append(LayerGates(one.keep, own))
        with gated(way, seen):
            kl = divergence(whole, here.model(here.held_bl, Gates(full.hidden, tuple(layers))))
        slope = torch.autograd.grad(kl, gate, allow_unused=True)[0]
        dropped = [g.widths[EXPERTS] == 0 for g in half.layers if EXPERTS in g.widths]
        share = statistics.mean(float(s[:, d].sum() / s.sum()) for s, d in zip(seen, dropped, strict=True))
        slots = statistics.mean(float(s.sum(1).mean()) for s in seen)
        curve.append({"gate": value, "kl": float(kl), "slope": 0.0 if slope is None else float(slope), "share": share,
                      "slots": slots})  # fmt: skip
    return curve


def budgets() -> list[Budget]:
    whole = parameters(PARENT, PARENT.full)
    even = {name: parameters(PARENT, PARENT.uniform(experts=round(16 * x))) / whole for name, x in BUDGETS.items()}
    return [Budget("full"), *(Budget(name, ratio=x + 1e-6) for name, x in even.items())]


def learned(here: Ground, way: Way | None, seed: int, steps: int) -> dict[str, dict[str, float]]:
    """What the members lose that a router has found: budget -> KL, and cost over target before projection."""
    router = Router(here.space, budgets(), ROUTER, seed)
    optimizer = torch.optim.Adam(router.parameters(), lr=ROUTER.lr, betas=(0.9, 0.95))
    with gated(way):
        for step, text_bl in enumerate(batches(here.tokens, 100 + seed, steps)):
            budget = 1 + step % len(BUDGETS)
            tau, scale = router.schedule(step / steps)
            routed = router.gates(budget, tau, scale, noise=(step, 0))
            with torch.no_grad():
                whole = here.model(text_bl[:, :-1]).log_softmax(-1)
            loss = divergence(whole, here.model(text_bl[:, :-1], routed.gates))
            loss = loss + WEIGHT * (router.expected_cost(routed.probabilities, budget) - 1).clamp(min=0).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: {"kl": here.lost(p.member), "raw": p.raw_cost / p.target}
            for name, p in router.family().items() if name != "full"}  # fmt: skip


def allowed(here: Ground, budget: Budget) -> list[float]:
    """What all members lose that a budget allows, the best one first."""
    price = here.space.price(budget)
    return sorted(kl for widths, kl in here.members.items() if price(member_of(widths)) <= price.target)


# ------------------------------------------------------------------------------------------------------------ tables


def table(figures: dict[str, Any]) -> str:
    lines = [
        "| gates multiply | figure | " + " | ".join(f"gate {g:g}" for g in GATES) + " |",
        "|---|---|" + "---:|" * len(GATES),
    ]
    for name, curve in figures["response"].items():
        for key, words, form in (("kl", "KL, nats", ".3f"), ("slope", "slope", ".3f"), ("share", "slots", ".3f")):
            lines.append(f"| {name} | {words} | " + " | ".join(format(x[key], form) for x in curve) + " |")
    heads = [f"KL at {name} %, nats" for name in BUDGETS]
    lines += ["", "| gates multiply | " + " | ".join(heads) + " | experts per token |",
              "|---|" + "---:|" * (len(heads) + 1)]  # fmt: skip
    for name, rows in figures["learned"].items():
        cells = []
        for budget in BUDGETS:
            values = [row[budget]["kl"] for row in rows]
            more = f" ± {statistics.stdev(values) / len(values) ** 0.5:.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{more}")
        slots = max(x["slots"] for x in figures["response"][name])
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {slots:.2f} |")
    for name, losses in figures["reference"].items():
        lines.append(f"| {name} | " + " | ".join(f"{losses[b]:.4f}" for b in BUDGETS) + " | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--parent-steps", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    here = ground(args.parent_steps)
    print(f"the parent's loss {here.loss:.3f}", flush=True)
    figures: dict[str, Any] = {"loss": here.loss, "response": {}, "learned": {}, "reference": {}}
    for name, way in WAYS.items():
        figures["response"][name] = response(here, way)
        figures["learned"][name] = []
        for seed in range(args.seeds):
            figures["learned"][name].append(learned(here, way, seed, args.steps))
            print(name, seed, figures["learned"][name][-1], flush=True)
    each = {b.name: allowed(here, b) for b in budgets()[1:]}
    figures["reference"] = {
        "the best member": {name: values[0] for name, values in each.items()},
        "the middle one": {name: statistics.median(values) for name, values in each.items()},
        "even cuts": {name: here.members[(round(16 * x),) * 4] for name, x in BUDGETS.items()},
    }
    deliver(args, figures, table(figures))


if __name__ == "__main__":
    main()

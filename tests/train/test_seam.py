# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The seam between the algorithm and who trains: plain torch gets what NeMo gets, step for step."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.forks import measured
from tests.parallel.runs import quiet
from tests.texts import library_text

pytestmark = [pytest.mark.nemo, pytest.mark.slow]
FAMILY = {
    "budgets": [{"name": "full"}, {"name": "large", "ratio": 0.75}, {"name": "small", "ratio": 0.5}],
    "axes": {
        "hidden": [128, 112, 96, 80, 64],
        "ffn": {"choices": [512, 384, 256, 128], "per_layer": True, "stripes": 4},
        "mamba_heads": {"choices": [16, 12, 8], "per_layer": True},
        "mamba_head_dim": [16, 12, 8],
        "attention_heads": {"choices": [4, 2], "per_layer": True},
        "depth": [12, 11, 10, 9, 8],
    },
    "importance": {"samples": 4, "depth_samples": 2},
    "seed": 1,
}
STEPS = 8
BLOCK = FAMILY | {"shapes": "router", "router": {"freeze_at": 0.5, "hidden": 16}}


def through_nemo(folder: Path, seen: dict[str, Any]) -> str:
    """Train the parent and a family as a recipe does; `seen` gets what its host was given."""
    import fiddle
    import lightning.pytorch as pl
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    from nemo_elastic.hosts.nemo.model import NemoHost
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint, tiny_recipe
    from nemo_elastic.train.training import FamilyTraining

    def recipe(out: str) -> Any:
        made = tiny_recipe(folder / "data", folder / out, steps=STEPS, seq_length=64, micro_batch_size=2,
                           global_batch_size=4, warmup_steps=2, label=out, eval_every=0, eval_sequences=4)  # fmt: skip
        made.model.config.vocab_size = 512
        made.optim.config.adam_eps = 1e-4  # else the signs of gradients that are rounding alone move weights
        return made

    loss, sequences = FamilyTraining.loss, NemoHost.sequences

    def watched_loss(self: Any, host: Any, sample: Any, tokens: Any, labels: Any, mask: Any, documents: Any) -> Any:
        out = loss(self, host, sample, tokens, labels, mask, documents)
        seen["batches"].append((host.step, tokens, labels, mask))
        seen["losses"].append([host.step, out[1].budget, float(out[1].loss), float(out[0].detach())])
        return out

    def watched_sequences(self: Any, count: int, size: int) -> Any:
        for rows in sequences(self, count, size):
            assert rows.counts_bl is None and rows.documents is None
            if len(rows) + seen["read"] > len(seen["sequences"]):
                seen["sequences"].extend(rows.ids_bl)
            seen["read"] += len(rows)
            yield rows
        seen["read"] = 0

    class Keep(pl.Callback):
        def on_train_end(self, trainer: Any, module: Any) -> None:
            if hasattr(module, "family"):
                seen["module"] = module

    def launch(made: Any) -> str:
        task = fiddle.build(made)
        task.keywords["trainer"].callbacks.append(Keep())
        task()
        destroy_num_microbatches_calculator()
        return str(last_checkpoint(Path(made.log.explicit_log_dir)))

    parent = launch(recipe("parent"))
    FamilyTraining.loss, NemoHost.sequences = watched_loss, watched_sequences
    made = apply_elastic(recipe("family"), BLOCK, teacher=parent, verbose=False, out=str(folder / "nemo"))
    seen["optim"] = fiddle.build(made.optim)
    launch(made)
    FamilyTraining.loss, NemoHost.sequences = loss, sequences
    return parent


def on_torch(folder: Path, checkpoint: str, seen: dict[str, Any]) -> dict[str, Any]:
    """The same training, with nothing of NeMo but its checkpoint, its batches and its learning rates."""
    import torch

    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.formats.folders import open_source
    from nemo_elastic.train.guard import Guard
    from nemo_elastic.train.members import Members
    from nemo_elastic.train.shaping import prepare_members, shape_members
    from nemo_elastic.train.training import FamilyTraining
    from tests.train.torch_host import TorchHost

    opened = open_source(checkpoint)
    config = ElasticConfig.from_dict(BLOCK)
    shape = config.parent_shape(opened.parent)
    state = {name: raw.torch() for name, raw in opened.tensors.items()}
    host = TorchHost(shape, state, torch.stack(seen["sequences"]), 2)
    host.micro_batches = len(seen["batches"]) // STEPS
    family = FamilyTraining(config, steps=STEPS)
    torch.manual_seed(0)
    router = family.new_router(shape)
    learned = {} if router is None else dict(router.named_parameters())
    family.members = Members(shape, len(config.budgets), router)
    prepare_members(family, host, folder / "torch")
    prepared = [m.to_json() for m in family.members.get()]
    before = {n: v.clone() for n, v in (host.model.state_dict() | learned).items()}

    optim = seen["optim"]
    rates, peak = optim.lr_scheduler.rates, optim.config.lr
    matrices = [p for p in host.model.parameters() if p.dim() > 1]
    vectors = [p for p in host.model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": optim.config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
            *([{"params": list(learned.values()), "weight_decay": 0.0}] if learned else []),
        ],
        betas=(optim.config.adam_beta1, optim.config.adam_beta2),
        eps=optim.config.adam_eps,
    )
    guard = Guard(family, host)
    losses: list[Any] = []
    for host.step in range(STEPS):
        shape_members(family, host, folder / "torch")
        shares = (rates.model(host.step), rates.router(host.step))
        for i, group in enumerate(optimizer.param_groups):
            group["lr"] = optim.lr_scheduler.router_lr * shares[1] if i == 2 else peak * shares[0]
        for _, tokens, labels, mask in [b for b in seen["batches"] if b[0] == host.step]:
            loss, ran = family.loss(host, family.next_sample(host), tokens, labels, mask)
            (loss * host.gradient_scale(mask.sum())).backward()
            losses.append([host.step, ran.budget, float(ran.loss), float(loss.detach())])
        guard.check_gradients([*host.model.named_parameters(), *learned.items()])
        for parameters in (list(host.model.parameters()), list(learned.values())):
            torch.nn.utils.clip_grad_norm_(parameters, optim.config.clip_grad)
        guard.guarded(optimizer.step)()
        optimizer.zero_grad()
    host.step = STEPS
    return {
        "prepared": prepared,
        "members": [m.to_json() for m in family.members.get()],
        "losses": losses,
        "before": before,
        "after": host.model.state_dict() | learned,
    }


def compared(folder: Path) -> dict[str, Any]:
    """What both hosts made of the block."""
    import torch

    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint
    from tests.support.states import read_checkpoint

    seen: dict[str, Any] = {"batches": [], "losses": [], "sequences": [], "read": 0}
    parent = through_nemo(folder, seen)
    module = seen["module"]
    actual = on_torch(folder, parent, seen)
    trained, elastic = read_checkpoint(last_checkpoint(folder / "family"), module.parent)
    nemo = trained | {name.removeprefix("router."): v for name, v in elastic.items() if name.startswith("router.")}
    before, after = actual.pop("before"), actual.pop("after")
    apart, moved = torch.zeros(()), torch.zeros(())
    for key in [n for n, v in after.items() if v.is_floating_point()]:
        apart += (nemo[key] - after[key]).detach().square().sum()
        moved += (nemo[key] - before[key]).detach().square().sum()
    shapes = json.loads((folder / "nemo" / "shapes.json").read_text())["members"]
    return {
        "nemo": {
            "prepared": list(shapes.values()),
            "members": [m.to_json() for m in module.members.get()],
            "losses": seen["losses"],
        },
        "torch": actual,
        "apart": float((apart / moved).sqrt()),
    }


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """A training through NeMo, and the same on `TorchHost`: what each micro-batch lost, and what was left."""
    from nemo_elastic.data.build import build_data

    quiet()
    build_data(place / "data", [library_text(place / "text")], vocab=512, held_out_problems=4)
    return compared(place)


place = measured(measure)


def test_both_find_the_same_members(results: dict[str, Any]) -> None:
    assert results["torch"]["prepared"] == results["nemo"]["prepared"]
    assert results["torch"]["members"] == results["nemo"]["members"]


def test_every_micro_batch_loses_the_same(results: dict[str, Any]) -> None:
    """To rounding before the first update; then as far apart as Adam carries it, which depends on the processor."""
    ours, theirs = results["torch"]["losses"], results["nemo"]["losses"]
    assert len(ours) == len(theirs) == 16
    for mine, nemo in zip(ours, theirs, strict=True):
        near = {"rel": 1e-4, "abs": 1e-4} if nemo[0] == 0 else {"rel": 6e-3, "abs": 5e-3}
        assert mine[:2] == nemo[:2] and mine[2:] == pytest.approx(nemo[2:], **near)


def test_weights_and_router_end_where_nemos_do(results: dict[str, Any]) -> None:
    """Apart by little of the way they have come: where a gradient is nearly zero Adam makes much of rounding."""
    assert results["apart"] < 0.04

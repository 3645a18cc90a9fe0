# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Two stages of a family through NeMo, trainings in bf16 as on GPUs, and a stock model's on a CPU."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.core.subnet import Subnet
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.megatron.stored import Stored
from tests.parallel import forks
from tests.parallel.compare import AVERAGE, checkpoint, identical, lines, losses, weights
from tests.parallel.nemo import run, saved_at_start
from tests.parallel.runs import VOCAB, Job, Layout, do, prepare

pytestmark = [pytest.mark.nemo, pytest.mark.slow, pytest.mark.long]
STEPS = 8
SOFT = Layout(soft=True, micro_batches=2)
ROUTER: dict[str, Any] = {"router": {"freeze_at": 0.5, "hidden": 16}}
SHORT, STOP = 3, 2
TAUGHT, HALF = (Layout(micro_batches=2, mode="frozen_ce", half=half, sharded=True) for half in (False, True))
EXACT = {"budgets_per_batch": 3}
SEVERAL = EXACT | {"distill": {"terms": {"kl": 1, "ce": 0.5}, "teacher_precision": "int8"}}
#: as stock recipes ask for it
STOCK = Job("stock", "parent", Layout(sharded=True), steps=6, save_every=3, validate=2)


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    prepare(place)
    first = Job("one", layout=SOFT, steps=STEPS, save_every=STEPS, ranked=None, changes=ROUTER)
    later = ROUTER | {"sampling": {"full": 1, "large": 1, "small": 2}}
    second = Job("two", "stage2", SOFT, STEPS, STEPS, previous=("one", STEPS), longer=True, changes=later,
                 callback=saved_at_start(place / "start"))  # fmt: skip
    results: dict[str, Any] = {name: ran["facts"][0] for name, ran in zip("12", do(place, first, second), strict=True)}
    do(place, *(Job(name, layout=layout, steps=SHORT, changes=changes, callback=hidden_of(place / f"{name} hidden"))
                for name, layout, changes in (("single", TAUGHT, {}), ("half", HALF, {}), ("exact", HALF, EXACT),
                                              ("several", HALF, SEVERAL))),
       *(Job(name, layout=Layout(soft=True, half=True, sharded=True), steps=SHORT, save_every=1, until=until)
         for name, until in (("whole", None), ("stopped", STOP), ("stopped", None))))  # fmt: skip
    (results["stock"],) = forks.run(place / "log" / "stock", 1, on_this_machine, place)
    results["said"] = (place / "log" / "stock" / "rank0.log").read_text()
    killed = Job("cut", "parent", STOCK.layout, STOCK.steps, save_every=3, validate=2)
    do(place, Job("cut", "parent", STOCK.layout, STOCK.steps, save_every=3, validate=2, until=5))
    return results | {"rest": do(place, killed)[0]["facts"][0]}


def hidden_of(file: Path) -> Callable[[], Any]:
    """Makes a callback that writes down the dtypes of what enters the student's head."""

    def make() -> Any:
        import lightning.pytorch as pl

        seen: set[str] = set()

        class Looks(pl.Callback):
            def on_train_start(self, trainer: Any, module: Any) -> None:
                student = module.host.student

                def watched(*args: Any, **named: Any) -> Any:
                    core, hidden = student(*args, **named)
                    seen.add(str(hidden.dtype))
                    return core, hidden

                module.host.student = watched

            def on_train_end(self, trainer: Any, module: Any) -> None:
                file.write_text(json.dumps(sorted(seen)))

        return Looks()

    return make


def on_this_machine(place: Path) -> dict[str, Any]:
    """Train the stock model; what its optimizer was, and whether all that the CPU's platform changes is as before."""
    import lightning.pytorch as pl
    from megatron.core import optimizer as mcore

    facts: dict[str, Any] = {"heldout": []}

    class Watch(pl.Callback):
        def on_validation_end(self, trainer: Any, module: Any) -> None:
            facts["heldout"].append(float(trainer.callback_metrics["val_loss"]))

        def on_train_end(self, trainer: Any, module: Any) -> None:
            (optimizer,) = trainer.optimizers[0].mcore_optimizer.chained_optimizers
            facts["optimizer"] = [type(optimizer).__name__, type(optimizer.optimizer).__name__]
            facts["state"] = sorted({name for state in optimizer.optimizer.state.values() for name in state})
            facts["steps"] = [group["step"] for group in optimizer.optimizer.param_groups]

    facts |= run(place, Job("stock", "parent", STOCK.layout, STOCK.steps, save_every=3, validate=2, callback=Watch))
    return facts | {
        "cuda is itself": not torch.cuda.is_available() and torch.cuda.current_device.__module__ == "torch.cuda",
        "adam is itself": mcore.Adam is torch.optim.AdamW and mcore.USING_PYTORCH_OPTIMIZER,
    }


place = forks.measured(measure)


def test_the_router_learns_until_it_is_frozen_and_not_after(results: dict[str, Any]) -> None:
    freeze, learned = STEPS // 2, results["1"]["learned"]
    assert len(set(learned[:freeze])) > 1 == len(set(learned[freeze:]))
    assert set(results["2"]["learned"]) == {learned[-1]}
    assert min(results["1"]["rates"]) == 0.0 < max(results["1"]["rates"])


def test_soft_masks_first_then_slices_and_every_micro_batch_draws_its_own_budget(results: dict[str, Any]) -> None:
    """Before the freeze small budgets run gated, afterwards as the submodel itself; the parent always whole."""
    one, two = (results[stage]["samples"] for stage in "12")
    kinds = {early: {kind for step, _, kind, _ in one if (step < STEPS // 2) == early} for early in (True, False)}
    assert "Gates" in kinds[True] <= {"Gates", "NoneType"}
    assert "Subnet" in kinds[False] | {kind for *_, kind, _ in two} <= {"Subnet", "NoneType"}
    assert (len(one), len(two)) == (2 * STEPS, 4 * STEPS)


def test_members_are_nested_meet_their_budgets_and_stay_the_same(place: Path) -> None:
    source, later = (open_source(checkpoint(place / name)) for name in ("one", "two"))
    frozen = json.loads((place / "one" / "elastic" / "members.json").read_text())
    full, large, small = (Subnet.from_json(m, source.parent) for m in frozen["members"].values())
    assert full == source.parent.full and small <= large <= full
    assert source.family is not None and later.family is not None
    assert [m.subnet for m in source.family] == [m.subnet for m in later.family] == [full, large, small]
    for name, p in frozen["report"]["projection"].items():
        assert p["cost"] <= p["target"], name
        assert name == "full" or p["cost"] >= 0.9 * p["target"]


def test_metrics_name_every_budget_and_are_finite(place: Path) -> None:
    steps, heldout, names = lines(place / "one"), lines(place / "one", "heldout"), {"full", "large", "small"}
    assert len(steps) == STEPS
    assert {k for x in steps for k in x if k.startswith("loss_")} == {f"loss_{name}" for name in names}
    assert any("router_tau" in x and "entropy_hidden" in x for x in steps)
    assert all(math.isfinite(v) for x in steps for v in x.values() if isinstance(v, float))
    assert set(heldout[-1]["losses"]) == names


def test_only_the_model_is_saved(place: Path) -> None:
    assert {name.split(".")[0] for name in weights(place / "two")} == {
        "decoder", "elastic", "embedding", "output_layer",
    }  # fmt: skip


def test_bf16_trains_as_float32_does(place: Path) -> None:
    kinds = [weights(place / name)["output_layer.weight"].dtype for name in ("single", "half")]
    assert kinds == [torch.float32, torch.bfloat16]
    hidden = [json.loads((place / f"{name} hidden").read_text()) for name in ("single", "half", "several")]
    assert hidden == [["torch.float32"], ["torch.bfloat16"], ["torch.bfloat16"]]
    for single, half in zip(lines(place / "single"), lines(place / "half"), strict=True):
        assert half["reduced_train_loss"] == pytest.approx(single["reduced_train_loss"], rel=5e-3)
        assert half["grad_norm"] == pytest.approx(single["grad_norm"], rel=5e-2)


def test_a_router_beside_bf16_weights_is_saved_and_goes_on(place: Path) -> None:
    identical(place / "stopped", place / "whole")
    moments = Stored(checkpoint(place / "whole")).held(f"{AVERAGE}elastic.router.")
    assert moments and all(value.dtype == torch.float32 and value.any() for value in moments.values())


def test_three_budgets_a_micro_batch_from_an_int8_teacher(place: Path) -> None:
    """Every step trains every budget, and its loss is their mean; nothing of it leaves the range of the plain run."""
    several, plain = losses(place / "several"), losses(place / "half")
    # before the first update the whole model is its own teacher, up to the rounding of the teacher's weights
    assert several[0]["loss_full"] == pytest.approx(losses(place / "exact")[0]["loss_full"], rel=3e-2)
    for own, other in zip(several, plain, strict=True):
        budgets = [own[f"loss_{name}"] for name in ("full", "large", "small")]
        assert own["reduced_train_loss"] == pytest.approx(sum(budgets) / 3, rel=1e-5)
        assert own["reduced_train_loss"] == pytest.approx(other["reduced_train_loss"], rel=0.1)


def test_a_stock_model_trains_validates_saves_and_goes_on_through_llm_pretrain(
    place: Path, results: dict[str, Any]
) -> None:
    stock, rest = results["stock"], results["rest"]
    assert len(stock["losses"]) == STOCK.steps and stock["losses"][-1] < stock["losses"][0]
    assert len(stock["heldout"]) >= STOCK.steps // STOCK.validate
    assert weights(place / "stock")["embedding.word_embeddings.weight"].shape[0] == VOCAB
    assert stock["cuda is itself"] and stock["adam is itself"]
    assert stock["optimizer"] == ["DistributedOptimizer", "GroupStepAdam"]
    assert stock["state"] == ["exp_avg", "exp_avg_sq"] and set(stock["steps"]) == {STOCK.steps}
    assert "Failed to dump training context" not in results["said"]
    # the same samples, weights and optimizer state: what is left repeats to the bit
    start = rest["from"]  # NeMo's own checkpoint callback saves after a validation, too
    assert 3 <= start < STOCK.steps and rest["losses"] == stock["losses"][start:]

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Trainings in bf16 as on GPUs, several budgets a micro-batch, and a stock model's training on a CPU, through NeMo."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.formats.megatron.stored import Stored
from tests.parallel import forks
from tests.parallel.compare import AVERAGE, checkpoint, identical, lines, losses, weights
from tests.parallel.nemo import run
from tests.parallel.runs import VOCAB, Job, Layout, do, prepare

pytestmark = [pytest.mark.nemo, pytest.mark.slow, pytest.mark.long]
SHORT, STOP = 3, 2
TAUGHT, HALF = (Layout(micro_batches=2, mode="frozen_ce", half=half, sharded=True) for half in (False, True))
EXACT = {"budgets_per_batch": 3}
SEVERAL = EXACT | {"distill": {"terms": {"kl": 1, "ce": 0.5}, "teacher_precision": "int8"}}
#: as stock recipes ask for it
STOCK = Job("stock", "parent", Layout(sharded=True), steps=6, save_every=3, validate=2)


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    prepare(place)
    do(place, *(Job(name, layout=layout, steps=SHORT, changes=changes, callback=hidden_of(place / f"{name} hidden"))
                for name, layout, changes in (("single", TAUGHT, {}), ("half", HALF, {}), ("exact", HALF, EXACT),
                                              ("several", HALF, SEVERAL))),
       *(Job(name, layout=Layout(soft=True, half=True, sharded=True), steps=SHORT, save_every=1, until=until)
         for name, until in (("whole", None), ("stopped", STOP), ("stopped", None))))  # fmt: skip
    results: dict[str, Any] = {}
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


def test_only_the_model_is_saved(place: Path) -> None:
    assert {name.split(".")[0] for name in weights(place / "whole")} == {
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

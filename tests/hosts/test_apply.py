# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""apply_elastic on a host's own recipe of the 12B: what it changes, refuses and warns of on either host.

What every host refuses by the same rule is in `tests/hosts/common/test_third_host.py`.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.plan.stages import PAPER
from tests.hosts.here import ON_NEMO
from tests.hosts.nemo.blocks import NANO_12B as BLOCK

pytestmark = pytest.mark.nemo
WARNS = "apply_elastic warns:"


def random() -> Any:
    """The recipe as the host has it: on random tokens."""
    if ON_NEMO:
        from nemo.collections import llm

        return llm.nemotron_nano_12b_v2.pretrain_recipe(num_nodes=1, num_gpus_per_node=8, max_steps=100)
    from nemo_elastic.hosts.bridge.cli import find_stock

    recipe = find_stock("nemotron_nano_12b_v2_pretrain_config")()
    recipe.train.train_iters = 100
    return recipe


@pytest.fixture
def recipe() -> Any:
    """On text that a cluster has."""
    made = random()
    if ON_NEMO:
        from tests.hosts.nemo.blocks import with_text

        return with_text(made)
    made.dataset.data_path = "0.7 /data/code 0.3 /data/web"
    return made


def fields(recipe: Any) -> Any:
    """The recipe by the names that all hosts share."""
    if ON_NEMO:
        from nemo_elastic.hosts.nemo.recipe.checks import NemoRecipe

        return NemoRecipe(recipe)
    from nemo_elastic.hosts.bridge.checks import BridgeRecipe

    return BridgeRecipe(recipe)


def accepted(recipe: Any, block: Any = BLOCK, **options: Any) -> str:
    """What is printed."""
    if ON_NEMO:
        from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic
    else:
        from nemo_elastic.hosts.bridge.apply import apply_elastic
    with contextlib.redirect_stdout(io.StringIO()) as said:
        apply_elastic(recipe, block, **({"teacher": "/checkpoints/parent"} | options))
    return said.getvalue()


def refused(recipe: Any, block: Any = BLOCK, **options: Any) -> str:
    """The line; the recipe is as it was."""
    from nemo_elastic.hosts.common.changes import settings

    before = settings(recipe)
    with pytest.raises(ElasticError) as caught:
        accepted(recipe, block, **options)
    assert settings(recipe) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_setting_that_has_another_value_is_reported(recipe: Any) -> None:
    from nemo_elastic.hosts.common.changes import settings

    view = fields(recipe)
    view.put("recompute", "selective")
    before = settings(recipe)
    said = accepted(recipe)
    after = settings(recipe)
    unset = object()  # no argument of a recipe; None is one, as NeMo's check_val_every_n_epoch
    changed = {name for name in before.keys() | after.keys() if before.get(name, unset) != after.get(name, unset)}
    reported = {line.split(":")[0].strip() for line in said.splitlines() if " -> " in line}
    whole = ("model.elastic", "optimizer_config_override_provider", "optim", "trainer.callbacks", "resume", "log.ckpt")
    assert {name for name in reported ^ changed if not name.startswith(whole)} == set()


def test_every_field_of_the_table_is_one_of_a_recipes(recipe: Any) -> None:
    """A rule on another would never apply."""
    view = fields(recipe)
    for path in set(view.paths.values()) - {view.paths.get("min_ratio")}:  # of NeMo's other schedules
        owner, _, name = path.rpartition(".")
        if ON_NEMO and owner:
            from nemo_elastic.hosts.nemo.recipe.checks import field_names, made_by

            assert name in field_names(made_by(view.get(owner))), path
        else:
            assert hasattr(view.get(owner) if owner else recipe, name), path


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("context", 16, "can share: CP 16 does not divide"),
        ("batch", None, "a number of sequences"),
        *(
            [
                ("trainer.strategy.fsdp", "megatron", "Megatron's own data parallelism"),
                ("trainer.strategy.virtual_pipeline_model_parallel_size", 2, "have no virtual stages"),
                ("data", None, "a run.Config of a data module"),
                ("devices", 6, "a multiple of 4 with 1 node"),
                ("samples", 1000, "at least trainer.max_steps x global_batch_size = 76800"),
                ("pattern", "ME*", "NeMo 2.7, on megatron-core 0.15, has no experts in hybrids"),
            ]
            if ON_NEMO
            else [
                ("dist.use_torch_fsdp2", True, "Megatron's own data parallelism"),
                ("rerun_state_machine.rerun_mode", "validate_results", "would sample its budgets twice"),
                ("optimizer.optimizer_cuda_graph", True, "false"),
                ("length", None, "a number of tokens"),
                ("model.mtp_hybrid_override_pattern", "*E", "null"),
                ("model.mtp_num_layers", 2, "null"),
                ("pattern", "M-M*/M-", "the layers before the /"),
                ("scheduler.lr_warmup_samples", 1000, "0: a stage counts steps"),
            ]
        ),
    ],
)
def test_a_field_that_does_not_fit_is_named_with_its_value(recipe: Any, field: str, value: Any, allowed: str) -> None:
    view = fields(recipe)
    view.put(field, value)
    line = refused(recipe)
    assert line.startswith(f"{view.at(field)}: {'missing' if value is None else repr(value)}") and allowed in line


def test_what_is_no_stock_recipe_of_a_nemotron_h_is_refused(recipe: Any) -> None:
    other = random()
    if ON_NEMO:
        from nemo.collections import llm

        other = llm.llama3_8b.pretrain_recipe(num_nodes=1)
    else:
        other.model = other.ddp
        assert refused({}).startswith("recipe: 'dict' ")
    assert refused(other).startswith("recipe.model: ") and "Nemotron-H" in refused(other)
    accepted(recipe)
    assert "this one is elastic already" in refused(recipe)


def test_random_tokens_are_trained_on_where_that_is_asked_for() -> None:
    assert refused(random()).startswith(f"{fields(random()).at('data')}: ")
    assert refused(random(), mock_data="yes").startswith("mock_data: 'yes' ")
    accepted(random(), mock_data=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": None}, "teacher: missing"),
        ({"stage": 2}, "previous: missing"),
        ({"previous": "one"}, "previous: "),
        ({"total_steps": 50}, "total_steps: 50"),
    ],
)
def test_a_stage_has_what_it_starts_from(recipe: Any, options: dict[str, Any], message: str) -> None:
    assert message in refused(recipe, **options)


def test_the_block_is_compared_with_the_parent(recipe: Any) -> None:
    line = refused(recipe, BLOCK | {"budgets": [{"name": "a"}, {"name": "b", "params": 1e9}]})
    assert "the nearest cost that the axes reach is" in line


def test_documents_are_read_apart_where_the_data_says_where_they_begin(recipe: Any) -> None:
    block, view = BLOCK | {"data": {"documents": "apart"}}, fields(recipe)
    view.put("reset_position_ids", False)
    assert refused(recipe, block).startswith("elastic.data.documents: 'apart' ")
    view.put("reset_position_ids", True)
    if not ON_NEMO:
        assert refused(recipe, block).startswith("recipe.tokenizer.tokenizer_type: 'NullTokenizer' ")
        recipe.tokenizer.tokenizer_type, recipe.tokenizer.tokenizer_model = "HuggingFaceTokenizer", "/a/tokenizer"
        view.put("pipeline", 31)
        assert refused(recipe, block, ranked="/ranked").startswith("elastic.data.documents: 'apart' ")
        view.put("pipeline", 1)
    accepted(recipe, block)


def test_what_makes_no_sense_is_reported(recipe: Any) -> None:
    """Ten steps and a longer warm-up; too few samples to rank on; small batches."""
    view = fields(recipe)
    view.put("steps", 10)
    view.put("warmup", 2000)
    view.put("batch", 8)
    noted, _, said = accepted(recipe).partition(WARNS)
    assert "teacher: /checkpoints/parent is not on this machine" in noted
    assert "  elastic.importance.samples: 1024, but the run asks its data for 80" in said
    assert f"  {view.at('warmup')}: 2000 of 10 steps in all" in said


def test_rates_and_batches_far_from_the_curriculums_are_reported(recipe: Any) -> None:
    view = fields(recipe)
    view.put("steps", 5170)
    view.put("lr", PAPER.lr)
    view.put("warmup", 60)
    view.put("batch", 64)
    said = accepted(recipe, total_steps=6960).partition(WARNS)[2]
    assert f"{view.at('batch')}: 64, 0.524M tokens in a step; " in said
    assert view.at("lr") not in said and view.at("warmup") not in said


def test_stage_1_in_pipeline_stages_starts_better_from_a_ranking(recipe: Any) -> None:
    view = fields(recipe)
    view.put("pipeline", 2)
    said = accepted(recipe)
    assert f"  {view.at('pipeline')}: 2: stages cannot rank; " in said


@pytest.mark.parametrize("stages", [1, 2])
def test_overlaps_that_no_family_can_have_are_turned_off(recipe: Any, stages: int) -> None:
    view = fields(recipe)
    view.put("pipeline", stages)
    ddp = view.path("ddp") if ON_NEMO else "ddp"
    view.put(f"{ddp}.overlap_grad_reduce", True)
    view.put(f"{ddp}.overlap_param_gather", True)
    accepted(recipe)
    assert view.get(f"{ddp}.overlap_grad_reduce") is (stages == 1)
    assert view.get(f"{ddp}.overlap_param_gather") is False

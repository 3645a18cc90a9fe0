# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The large recipes, built in full on a CPU: exact sizes, members, layouts that fit, and what jobs hand over."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fiddle
import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.errors import ElasticError
from nemo_elastic.plan import PAPER, preset
from nemo_elastic.plan.work import members
from recipes.families import family
from tests.parallel.forks import measured

pytestmark = pytest.mark.nemo
ROOT = Path(__file__).parents[2]
RECIPES = ("nemotron_elastic_12b", "nemotron_elastic_9b", "nemotron_elastic_8b")
#: whose model is built in full, and its parameters
BUILT, PARAMETERS = RECIPES[-1], 8_100_852_736
BLEND = [0.7, "/data/code", 0.3, "/data/web"]
WHERE = ("/checkpoints/parent", BLEND, "/runs/family")


@pytest.fixture(scope="module")
def large() -> Any:
    return family("nemotron_elastic_12b")


@pytest.fixture(scope="module")
def stages(large: Any) -> dict[int, Any]:
    """What no test changes."""
    return {1: large.stage1_recipe(*WHERE), 2: large.stage2_recipe(*WHERE)}


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """What the elastic model of a recipe's stage 1 consists of, on the meta device; no teacher is read."""
    import nemo_run as run
    import torch
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from tests.support.models import start

    start()
    model = family(BUILT).stage1_recipe(*WHERE).model
    model.teacher, model.elastic = None, {**model.elastic, "distill": {"teacher": "none"}, "shapes": "router"}
    model.tokenizer = run.Config(SimpleNamespace, vocab_size=131072)  # its own lies on a hub
    config = model.config
    # kernels that a CPU has not; none of them has a parameter
    config.use_cpu_initialization, config.apply_rope_fusion, config.gradient_accumulation_fusion = True, False, False
    with cuda_as_cpu():
        model_parallel_cuda_manual_seed(1)
        whole = fiddle.build(model)
        with torch.device("meta"):
            whole.configure_model()
    core = whole.host.core
    sizes = {n: p.numel() for n, p in core.named_parameters()}
    return {
        "class": type(core).__name__,
        "parameters": sum(size for n, size in sizes.items() if not n.startswith("elastic.")),
        "router": sum(size for n, size in sizes.items() if n.startswith("elastic.router.")),
        "layers": len(core.decoder.layers),
    }


place = measured(measure)


@pytest.mark.slow
def test_the_model_of_a_recipe_builds_in_full(results: dict[str, Any]) -> None:
    shape = preset(family(BUILT).shape)
    assert (results["class"], results["layers"]) == ("MambaModel", shape.num_layers)
    assert results["parameters"] == PARAMETERS == parameters(shape, shape.full)
    assert 0 < results["router"] < results["parameters"] / 50


@pytest.mark.parametrize("name", RECIPES)
def test_members_reach_their_budgets(name: str) -> None:
    config = family(name).config
    parent = config.parent_shape(preset(family(name).shape))
    targets = config.targets(parent)
    for member, subnet in members(parent, config).items():
        assert 0.95 * targets[member] < parameters(parent, subnet) <= targets[member]


@pytest.mark.parametrize("name", RECIPES)
def test_stages_have_the_planners_layouts_which_fit(name: str) -> None:
    recipe = family(name)
    for number, made in ((1, recipe.stage1_recipe(*WHERE)), (2, recipe.stage2_recipe(*WHERE))):
        strategy, layout = made.trainer.strategy, recipe.layout(number, PAPER, 128, "h100")
        assert made.trainer.num_nodes * made.trainer.devices == 128 and layout.fits
        assert strategy.tensor_model_parallel_size == layout.tensor
        assert strategy.context_parallel_size == layout.context
        assert strategy.pipeline_model_parallel_size == layout.pipeline
        assert strategy.sequence_parallel == layout.sequence_parallel
        assert (made.model.config.recompute_granularity == "full") == layout.recompute


def test_other_machines_get_another_layout(large: Any) -> None:
    recipe = large.stage2_recipe(*WHERE, num_nodes=8, gpu="h200")
    assert recipe.trainer.num_nodes == 8
    there = large.layout(2, PAPER, 64, "h200")
    assert recipe.trainer.strategy.tensor_model_parallel_size == there.tensor
    with pytest.raises(ElasticError, match="no layout"):
        large.stage1_recipe(*WHERE, num_nodes=1, num_gpus_per_node=1)


def summed_in(precision: Any) -> str:
    """What NeMo's own plugin lets data parallelism sum gradients in."""
    from megatron.core.distributed import DistributedDataParallelConfig
    from nemo.lightning.pytorch.plugins.mixed_precision import update_config_with_dtype_overrides

    ddp = DistributedDataParallelConfig()
    update_config_with_dtype_overrides(fiddle.build(precision).dtype_config, ddp)
    return "fp32" if ddp.grad_reduce_in_fp32 else "bf16"


def test_stages_are_bf16_and_have_the_papers_tokens_and_rates(large: Any, stages: dict[int, Any]) -> None:
    for number, recipe in stages.items():
        data, steps = recipe.data, recipe.trainer.max_steps
        assert data.num_train_samples == steps * data.global_batch_size
        assert data.num_train_samples * data.seq_length == pytest.approx({1: 65e9, 2: 45e9}[number], rel=0.01)
        (precision,) = recipe.trainer.plugins
        assert precision.precision == "bf16-mixed" and not getattr(precision, "fp8", None)
        assert summed_in(precision) == large.precision.gradients == "fp32"
        assert (recipe.optim.config.lr, recipe.optim.lr_mult) == (9e-5, 1.0)
        schedule = recipe.optim.lr_scheduler
        assert (schedule.warmup_steps, schedule.total_steps) == (60, PAPER.steps)
        assert schedule.min_ratio == pytest.approx(0.1)
        assert schedule.freeze_step == 0
        assert recipe.model.stage_steps == steps and recipe.model.config.seq_length == data.seq_length


def test_a_third_stage_goes_on_in_low_precision(large: Any) -> None:
    run = large.run_of(*WHERE, quantize="nvfp4")
    jobs = large.build_all(run)
    assert list(jobs) == ["rank", "stage1", "stage2", "stage3"]
    rounded = {name: jobs[name].model.elastic["distill"]["quantize"] for name in ("stage1", "stage2", "stage3")}
    assert rounded == {"stage1": None, "stage2": None, "stage3": "nvfp4"}
    last, before = jobs["stage3"], PAPER.stage1.max_steps + PAPER.stage2.max_steps
    assert last.resume.restore_config.path == "/runs/family/stage2/checkpoints/step=1789-last"
    assert large.slicing(run)["checkpoint"] == "/runs/family/stage3/checkpoints/step=178-last"
    assert last.optim.lr_scheduler.total_steps == before + 179


def test_jobs_hand_over(large: Any, stages: dict[int, Any]) -> None:
    rank, cut = large.rank_recipe(*WHERE), large.slice_step("/runs/family")
    (callback,) = rank.trainer.callbacks
    assert callback.checkpoint == stages[1].resume.restore_config.path == "/runs/family/rank/checkpoints/ranked"
    assert stages[1].resume.restore_config.load_optim_state is False
    assert stages[2].resume.restore_config.path == "/runs/family/stage1/checkpoints/step=5169-last"
    assert stages[2].resume.restore_config.load_optim_state is True
    assert cut.checkpoint == "/runs/family/stage2/checkpoints/step=1789-last"
    for number, recipe in stages.items():
        assert recipe.resume.resume_if_exists is True
        assert recipe.log.explicit_log_dir == f"/runs/family/stage{number}"
        assert recipe.log.ckpt.filename == "{step}" and recipe.log.ckpt.save_optim_on_train_end is True
        assert recipe.model.teacher == "/checkpoints/parent"
        strategy = recipe.trainer.strategy
        assert strategy.ckpt_load_strictness is None and strategy.ckpt_optim_fully_reshardable
        assert strategy.distrib_optim_fully_reshardable_mem_efficient
        assert recipe.optim.config.use_distributed_optimizer
    assert ElasticConfig.from_dict(stages[1].model.elastic) == large.config
    assert stages[2].model.elastic["sampling"] == {"12b": 0.5, "9b": 0.3, "6b": 0.2}
    assert stages[1].model.elastic["axes"] == rank.model.elastic["axes"]


def test_the_ranking_holds_the_parent_once_and_reads_stage_ones_data(large: Any, stages: dict[int, Any]) -> None:
    from nemo.collections import llm

    rank = large.rank_recipe(*WHERE)
    strategy = rank.trainer.strategy
    assert rank.__fn_or_cls__ is llm.validate
    assert (rank.trainer.num_nodes, rank.trainer.devices) == (1, 8)
    assert (strategy.tensor_model_parallel_size, strategy.sequence_parallel) == (1, False)
    assert (strategy.setup_optimizers, strategy.ddp) == (False, "pytorch")
    assert rank.model.elastic["distill"]["teacher"] == "none"  # which has no teacher beside the model
    assert rank.model.teacher == "/checkpoints/parent"  # whose weights are ranked
    same = ("paths", "split", "seq_length", "num_train_samples", "seed", "index_mapping_dir")
    assert all(getattr(rank.data, name) == getattr(stages[1].data, name) for name in same)
    assert rank.data.global_batch_size == 8


def test_data_are_a_blend_or_splits_and_a_tokenizer_may_be_a_folder(large: Any, stages: dict[int, Any]) -> None:
    assert (stages[1].data.paths, stages[1].data.split) == (BLEND, "998,1,1")
    data = {"train": ["/a"], "validation": ["/b"]}
    recipe = large.stage1_recipe("/parent", data, "/runs/family", tokenizer="/checkpoints/tokenizer")
    assert recipe.data.paths == {"train": ["/a"], "validation": ["/b"], "test": ["/b"]}
    assert recipe.data.split is None
    for owner in (recipe.model, recipe.data):
        assert owner.tokenizer.pretrained_model_name == "/checkpoints/tokenizer"


def test_a_curriculum_is_followed(large: Any) -> None:
    short = replace(PAPER, stage1=replace(PAPER.stage1, max_steps=100), lr=5e-5)
    first = large.stage1_recipe(*WHERE, curriculum=short)
    second = large.stage2_recipe(*WHERE, curriculum=short)
    assert (first.trainer.max_steps, first.optim.config.lr) == (100, 5e-5)
    assert second.resume.restore_config.path.endswith("stage1/checkpoints/step=99-last")
    assert (first.trainer.val_check_interval, second.trainer.val_check_interval) == (10, 179)


def test_every_member_is_validated_ten_times_on_few_batches(stages: dict[int, Any]) -> None:
    from nemo_elastic.hosts.nemo.callbacks import ElasticCallback, MetricsWriter
    from nemo_elastic.hosts.nemo.checkpoint.resume import ElasticCheckpoint, StopInTime

    for recipe in stages.values():
        trainer = recipe.trainer
        assert 10 <= trainer.max_steps / trainer.val_check_interval < 10.1
        assert trainer.limit_val_batches == 8 and trainer.inference_mode is False
        made = [callback.__fn_or_cls__ for callback in trainer.callbacks]
        assert made[-3:] == [MetricsWriter, ElasticCallback, StopInTime]
        assert recipe.log.ckpt.__fn_or_cls__ is ElasticCheckpoint


def test_the_papers_block_takes_the_place_of_a_recipes(large: Any) -> None:
    block = ROOT / "conf" / "elastic_12b_paper.yaml"
    recipe, rank = large.stage1_recipe(*WHERE, block=block), large.rank_recipe(*WHERE, block=block)
    for one in (recipe, rank):
        config = ElasticConfig.from_dict(one.model.elastic)
        assert config.shapes == "router" and config.router == ElasticConfig.load(block).router
    assert recipe.optim.lr_scheduler.router_lr == 1e-2
    assert recipe.optim.lr_scheduler.freeze_step == PAPER.stage1.max_steps
    assert large.config.shapes == "search"

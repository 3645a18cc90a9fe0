# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The large recipes of this environment's host as they are configured: curriculum, layouts, data, and what jobs hand
over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.plan import PAPER, preset
from nemo_elastic.plan.work import members
from recipes.families import FAMILIES, family
from tests.hosts.here import HERE, ON_NEMO
from tests.workers import ROOT

pytestmark = pytest.mark.nemo
NAMES = [name for name, row in FAMILIES.items() if row.host == HERE]
TEXT = [name for name in NAMES if not FAMILIES[name].chat]
CHATS = [name for name in NAMES if FAMILIES[name].chat]
LARGE = TEXT[0]
B12 = next(name for name in TEXT if "12b" in name)
BLEND = [0.7, "/data/code", 0.3, "/data/web"]
WHERE = ("/checkpoints/parent", BLEND, "/runs/family")


@dataclass
class Seen:
    """A job as either host has it."""

    block: ElasticConfig
    teacher: str | None
    starts_from: str | None
    keeps_moments: bool
    rates: Any
    summed_in: str
    data: dict[str, Any]
    tokenizer: str | None


def on_nemo(job: Any) -> Seen:
    import fiddle
    from megatron.core.distributed import DistributedDataParallelConfig
    from nemo.lightning.pytorch.plugins.mixed_precision import update_config_with_dtype_overrides

    ddp, data = DistributedDataParallelConfig(), job.data
    (plugin,) = job.trainer.plugins
    assert plugin.precision == "bf16-mixed" and not getattr(plugin, "fp8", None)
    update_config_with_dtype_overrides(fiddle.build(plugin).dtype_config, ddp)
    start = getattr(getattr(job, "resume", None), "restore_config", None)
    specs = getattr(data, "packed_sequence_specs", None)
    return Seen(
        ElasticConfig.from_dict(job.model.elastic), job.model.teacher, start and start.path,
        start is not None and start.load_optim_state, getattr(job, "optim", None) and job.optim.lr_scheduler,
        "fp32" if ddp.grad_reduce_in_fp32 else "bf16",
        {"text": getattr(data, "paths", None), "split": getattr(data, "split", None),
         "folder": getattr(data, "dataset_root", None), "packed": specs and specs.packed_train_data_path,
         "pads": getattr(data, "dataset_kwargs", None)},
        getattr(data.tokenizer, "pretrained_model_name", None),
    )  # fmt: skip


def on_bridge(job: Any) -> Seen:
    import torch
    from megatron.bridge.training.mixed_precision import get_mixed_precision_config

    config, callback, step = job.config, job.callbacks[0], job.forward_step
    low, data = get_mixed_precision_config(config.mixed_precision), config.dataset
    low.finalize()
    low.setup(config.model, config.optimizer, config.ddp)
    assert config.model.params_dtype == torch.bfloat16 and not config.optimizer.use_precision_aware_optimizer
    text, specs = getattr(data, "blend", None) or getattr(data, "blend_per_split", None), None
    if getattr(data, "enable_offline_packing", False):
        specs = data.offline_packing_specs
    return Seen(
        step.family.config, step.teacher, callback.previous or config.checkpoint.pretrained_checkpoint,
        callback.previous is not None, callback.rates, "fp32" if config.ddp.grad_reduce_in_fp32 else "bf16",
        {"text": text, "split": getattr(data, "split", None), "folder": getattr(data, "dataset_root", None),
         "packed": specs and specs.packed_train_data_path, "pads": getattr(data, "dataset_kwargs", None)},
        config.tokenizer.tokenizer_model,
    )  # fmt: skip


seen = on_nemo if ON_NEMO else on_bridge


@pytest.fixture(scope="module", params=TEXT)
def large(request: pytest.FixtureRequest) -> Any:
    return family(request.param)


@pytest.fixture(scope="module")
def jobs(large: Any) -> dict[str, Any]:
    """What no test changes."""
    return large.build_all(large.run_of(*WHERE))


@pytest.mark.parametrize("name", FAMILIES)
def test_members_reach_their_budgets(name: str) -> None:
    row = FAMILIES[name]
    config, parent = ElasticConfig.of(row.block), preset(row.shape)
    parent = config.parent_shape(parent)
    subnets = members(parent, config)
    for budget in config.budgets[1:]:
        assert 0.95 < max(float(limit.share(parent, subnets[budget.name])) for limit in budget.limits) <= 1


def test_stages_are_the_papers_in_the_planners_layouts(large: Any, jobs: dict[str, Any]) -> None:
    for number in (1, 2):
        stage, layout = PAPER.stage(number), large.layout(number, PAPER, 128, "h100")
        job, recipe = seen(jobs[f"stage{number}"]), large.recipe_of(jobs[f"stage{number}"])
        assert (recipe.get("steps"), recipe.get("batch")) == (stage.max_steps, stage.global_batch_size)
        assert recipe.get("length") == recipe.get("shape").seq_length == stage.seq_length
        assert stage.samples * stage.seq_length == pytest.approx({1: 65e9, 2: 45e9}[number], rel=0.01)
        sizes = {kind: recipe.ranks(kind) for kind in ("tensor", "pipeline", "context")}
        assert sizes == {kind: getattr(layout, kind) for kind in sizes} and layout.fits
        assert recipe.get("sequence_parallel") == layout.sequence_parallel
        assert (recipe.get("recompute") == "full") == layout.recompute
        assert ON_NEMO or recipe.ranks("expert") == (layout.expert or 1)
        assert job.summed_in == large.precision.gradients == "fp32"
        assert layout.memory.gradients == pytest.approx(layout.memory.weights * 4 / 2, rel=1e-6)
        assert recipe.get("lr") == PAPER.lr and job.rates.min_ratio == pytest.approx(PAPER.min_ratio)
        assert (job.rates.warmup_steps, job.rates.total_steps, job.rates.freeze_step) == (60, PAPER.steps, 0)
        assert 10 <= recipe.get("steps") / recipe.get("validate every") < 10.1
        assert recipe.get("distributed") and recipe.get("reshardable")


def test_jobs_hand_over(large: Any, jobs: dict[str, Any]) -> None:
    rank, first, second = (seen(jobs[name]) for name in ("rank", "stage1", "stage2"))
    run = large.run_of(*WHERE)
    assert run.jobs == ("rank", "stage1", "stage2", "slice")
    assert rank.teacher == first.teacher == second.teacher == "/checkpoints/parent"
    assert (first.starts_from, first.keeps_moments) == (large.checkpoint_of("rank", run), False)
    assert (second.starts_from, second.keeps_moments) == (large.checkpoint_of("stage1", run), True)
    cut = large.job("slice", *WHERE)
    assert (cut.checkpoint, cut.out) == (large.checkpoint_of("stage2", run), "/runs/family")
    assert cut.ranking == "/runs/family/rank/elastic/ranking"
    assert first.block == large.config and first.block.axes == rank.block.axes == second.block.axes
    assert second.block == PAPER.block(large.config, 2)


def test_the_ranking_has_the_parent_once_and_reads_stage_ones_data(large: Any, jobs: dict[str, Any]) -> None:
    """Every GPU of a node has the whole parent, but for experts, and looks at samples of its own."""
    recipe, experts = large.recipe_of(jobs["rank"]), large.parent.has("experts")
    assert large.run_of(*WHERE).machines("rank") == (1, 8)
    assert [recipe.ranks(kind) for kind in ("tensor", "pipeline", "context")] == [1, 1, 1]
    assert ON_NEMO or recipe.ranks("expert") == (8 if experts else 1)
    assert recipe.get("batch") == 8 * recipe.get("micro batch") and not recipe.get("sequence_parallel")
    assert seen(jobs["rank"]).data == seen(jobs["stage1"]).data
    if ON_NEMO:
        from nemo.collections import llm

        strategy = jobs["rank"].trainer.strategy
        assert jobs["rank"].__fn_or_cls__ is llm.validate
        assert (strategy.setup_optimizers, strategy.ddp) == (False, "pytorch")
        assert seen(jobs["rank"]).block.distill.teacher == "none"
    else:
        assert jobs["rank"].callbacks[0].rank_only and jobs["rank"].forward_step.rank_only


def test_a_checkpoint_is_whole_or_an_error(large: Any, jobs: dict[str, Any]) -> None:
    for number in (1, 2):
        job = jobs[f"stage{number}"]
        if ON_NEMO:
            from nemo_elastic.hosts.nemo.callbacks import ElasticCallback, MetricsWriter
            from nemo_elastic.hosts.nemo.checkpoint.resume import ElasticCheckpoint, StopInTime

            strategy, trainer = job.trainer.strategy, job.trainer
            made = [callback.__fn_or_cls__ for callback in trainer.callbacks]
            assert made[-3:] == [MetricsWriter, ElasticCallback, StopInTime]
            assert trainer.limit_val_batches == 8 and trainer.inference_mode is False
            assert trainer.check_val_every_n_epoch is None, "Lightning refuses an interval above an epoch"
            assert strategy.ckpt_load_strictness is None and strategy.distrib_optim_fully_reshardable_mem_efficient
            assert job.resume.resume_if_exists and job.log.ckpt.__fn_or_cls__ is ElasticCheckpoint
            assert job.log.ckpt.filename == "{step}" and job.log.ckpt.save_optim_on_train_end
        else:
            checkpoint, model = job.config.checkpoint, job.config.model
            assert (checkpoint.most_recent_k, checkpoint.dist_ckpt_strictness) == (2, "assume_ok_unexpected")
            assert model.vocab_size == job.config.tokenizer.vocab_size == large.parent.vocab
            assert job.config.tokenizer.tokenizer_type == "NullTokenizer"
            assert job.config.dataset.create_attention_mask is False


@pytest.mark.parametrize("name", TEXT[-1:])
def test_a_third_stage_learns_in_low_precision(name: str) -> None:
    large = family(name)
    run = large.run_of(*WHERE, quantize="nvfp4")
    jobs = large.build_all(large.planned(run))
    rounded = {name: seen(job).block.distill.quantize for name, job in jobs.items()}
    assert rounded == {"rank": None, "stage1": None, "stage2": None, "stage3": "nvfp4"}
    last, steps = seen(jobs["stage3"]), PAPER.steps + 179
    assert large.recipe_of(jobs["stage3"]).get("steps") == 179
    assert last.starts_from == large.checkpoint_of("stage2", run)
    assert {seen(jobs[f"stage{i}"]).rates.total_steps for i in (1, 2, 3)} == {steps}
    assert large.slice_arguments(run)["checkpoint"] == large.checkpoint_of("stage3", run)


def test_other_machines_get_another_layout() -> None:
    large = family(LARGE)
    recipe = large.recipe_of(large.job("stage2", *WHERE, num_nodes=8, gpu="h200"))
    assert recipe.ranks("tensor") == large.layout(2, PAPER, 64, "h200").tensor
    with pytest.raises(ElasticError, match="no layout"):
        large.job("stage1", *WHERE, num_nodes=1, num_gpus_per_node=1)


def test_a_curriculum_is_followed() -> None:
    large, short = family(LARGE), replace(PAPER, stage1=replace(PAPER.stage1, max_steps=100), lr=5e-5)
    run = large.run_of(*WHERE, curriculum=short)
    first, second = (large.recipe_of(large.build(job, run)) for job in ("stage1", "stage2"))
    assert (first.get("steps"), first.get("lr")) == (100, 5e-5)
    assert (first.get("validate every"), second.get("validate every")) == (10, 179)


def test_the_papers_block_takes_the_place_of_a_recipes() -> None:
    family_12b, block = family(B12), ElasticConfig.load(ROOT / "conf" / "elastic_12b_paper.yaml")
    for name in ("rank", "stage1"):
        job = seen(family_12b.job(name, *WHERE, block=block))
        assert job.block.shapes == "router" and job.block.router == block.router
    assert job.rates.freeze_step == PAPER.stage1.max_steps


def test_data_are_a_blend_or_splits_and_a_tokenizer_may_be_a_folder() -> None:
    large, split = family(LARGE), {"train": [0.5, "/a", 0.5, "/b"], "validation": ["/v"]}
    job = seen(large.job("stage1", "/p", split, "/runs/x", tokenizer="/checkpoints/tokenizer"))
    assert job.tokenizer == "/checkpoints/tokenizer" and job.data["split"] is None
    valid, blend = (["/v"], None), seen(large.job("stage1", *WHERE)).data["text"]
    if ON_NEMO:
        assert job.data["text"] == split | {"test": ["/v"]} and blend == BLEND
    else:
        assert job.data["text"] == [(["/a", "/b"], [0.5, 0.5]), valid, valid]
        assert blend == (["/data/code", "/data/web"], [0.7, 0.3])
    with pytest.raises(ElasticError, match=r"^dir: 'runs' "):
        large.job("rank", "/p", ["/data/a"], "runs")
    if not ON_NEMO:
        with pytest.raises(ElasticError, match=r"^data: .* a weight before each prefix, or before none"):
            large.job("rank", "/p", [0.5, "/data/a", "/data/b"], "/runs/x")


@pytest.mark.parametrize("name", CHATS)
def test_a_family_on_conversations_reads_packed_answers_of_its_stages_lengths(name: str) -> None:
    chats = family(name)
    jobs = chats.build_all(chats.run_of("/p", ["/data/chats"], "/runs/x", ["/data/long"]))
    for job, folder, length in (("rank", "chats", 8192), ("stage1", "chats", 8192), ("stage2", "long", 49152)):
        recipe, one = chats.recipe_of(jobs[job]), seen(jobs[job])
        assert recipe.get("length") == recipe.get("shape").seq_length == length
        assert one.data["folder"] == f"/data/{folder}" and one.data["pads"] == {"pad_to_max_length": True}
        assert one.data["packed"] == f"/data/{folder}/training.{'npy' if ON_NEMO else 'idx.parquet'}"
        assert one.tokenizer == "/data/chats/tokenizer"
        if job != "rank" and recipe.ranks("context") > 1:  # a rank of those that share one may have no token
            assert recipe.get("per token") is True and recipe.get("average_in_collective") is False
    with pytest.raises(ElasticError, match=r"^long_data: missing"):
        chats.job("stage2", "/p", ["/data/chats"], "/runs/x")


@pytest.mark.parametrize("name", [name for name in CHATS if name.removesuffix("_sft") in TEXT])
def test_it_is_the_recipe_on_text_but_for_its_data(name: str) -> None:
    each = [family(name), family(name.removesuffix("_sft"))]
    chats, text = (one.build_all(one.run_of("/p", ["/data/a"], "/runs/x", ["/data/b"])) for one in each)
    for job in text:
        ours, theirs = (one.settings(built[job]) for one, built in zip(each, (chats, text), strict=True))
        differ = {setting for setting in ours.keys() | theirs.keys() if ours.get(setting) != theirs.get(setting)}
        recipe = each[1].recipe_of(text[job])
        other = ["data", "model.tokenizer", "tokenizer", "validation.eval_global_batch_size"]
        other += ["trainer.val_check_interval"] * (job == "rank")  # a ranking validates nothing
        if recipe.ranks("context") > 1:
            other += [recipe.path("per token"), recipe.path("average_in_collective")]
        assert {setting for setting in differ if not setting.startswith(tuple(other))} == set()
        assert recipe.get("batch") == each[0].recipe_of(chats[job]).get("batch")

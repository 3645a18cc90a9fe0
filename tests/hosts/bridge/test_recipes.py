# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The recipes on Megatron-Bridge: the large ones as they are configured, the tiny one from parent to members."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from tests.hosts.bridge.recipes import recipe_of
from tests.workers import ROOT, work


@pytest.fixture(scope="module", params=["12b", "9b", "8b", "30b_a3b"])
def family(request: pytest.FixtureRequest) -> Any:
    return recipe_of(request.param)


def job_of(family: Any, job: str, *given: Any, **named: Any) -> Any:
    return family.build(job, family.run_of(*given, **named))


def test_a_large_family_is_the_papers_curriculum_in_the_planners_layout(family: Any, tmp_path: Path) -> None:
    from nemo_elastic.hosts.bridge.curriculum import routing_of
    from nemo_elastic.plan.stages import PAPER

    dir, data = str(tmp_path), [0.7, "/data/code", 0.3, "/data/web"]
    for number, job in ((1, "stage1"), (2, "stage2")):
        run = job_of(family, job, "/checkpoints/parent", data, dir)
        config, stage, layout = run.config, PAPER.stage(number), family.layout(number, PAPER, 128, "h100")
        assert (config.train.train_iters, config.train.global_batch_size) == (stage.max_steps, stage.global_batch_size)
        assert config.dataset.seq_length == config.model.seq_length == stage.seq_length
        assert config.dataset.blend == (["/data/code", "/data/web"], [0.7, 0.3])
        assert config.model.tensor_model_parallel_size == layout.tensor
        assert config.model.pipeline_model_parallel_size == layout.pipeline
        assert config.model.sequence_parallel == layout.sequence_parallel
        assert (config.model.expert_model_parallel_size, layout.fits) == (layout.expert or 1, True)
        assert (config.model.recompute_granularity == "full") == layout.recompute
        assert run.callbacks[0].rates.total_steps == PAPER.steps
        assert (config.optimizer.lr, config.optimizer.min_lr) == (PAPER.lr, pytest.approx(PAPER.lr * PAPER.min_ratio))
        assert config.model.vocab_size == config.tokenizer.vocab_size == family.parent.vocab == 131072
        assert (config.tokenizer.tokenizer_type, config.tokenizer.tokenizer_model) == ("NullTokenizer", None)
        assert config.dataset.create_attention_mask is False
        assert (config.checkpoint.most_recent_k, config.checkpoint.dist_ckpt_strictness) == (2, "assume_ok_unexpected")
        left = str(tmp_path / "rank" / "checkpoints") if number == 1 else None
        assert config.checkpoint.pretrained_checkpoint == left
        assert run.callbacks[0].previous == (None if number == 1 else str(tmp_path / "stage1" / "checkpoints"))
        assert summed_in(config) == family.precision.gradients == "fp32"
        assert routing_of(config.model) == family.routing
        memory = family.layout(number, PAPER, 128, "h100").memory  # some kB of its weights, biases, are fp32
        assert memory.gradients == pytest.approx(layout.memory.weights * 4 / 2, rel=1e-6)
    assert family.run_of("/p", data, dir).jobs == ("rank", "stage1", "stage2", "slice")
    rank = job_of(family, "rank", "/checkpoints/parent", data, dir)
    assert rank.callbacks[0].rank_only and rank.forward_step.rank_only
    model, train = rank.config.model, rank.config.train
    assert train.global_batch_size == 8 * train.micro_batch_size, "every rank looks at samples of its own"
    sizes = model.tensor_model_parallel_size, model.pipeline_model_parallel_size, model.expert_model_parallel_size
    experts = family.parent.has("experts")
    assert sizes == (1, 1, 8 if experts else 1) and model.expert_tensor_parallel_size == (1 if experts else None)


@pytest.mark.parametrize("size", ["9b", "30b_a3b"])
def test_a_third_stage_goes_on_in_low_precision(size: str, tmp_path: Path) -> None:
    from nemo_elastic.plan.stages import PAPER

    family, dir, scheme = recipe_of(size), str(tmp_path), "fp8" if size == "9b" else "nvfp4"
    own = family.run_of("/checkpoints/parent", ["/data/text"], dir, quantize=scheme)
    assert own.jobs == ("rank", "stage1", "stage2", "stage3", "slice")
    jobs = family.build_all(family.planned(own))
    rounded = {name: job.forward_step.family.config.distill.quantize for name, job in jobs.items()}
    assert rounded == {"rank": None, "stage1": None, "stage2": None, "stage3": scheme}
    last, before = jobs["stage3"], PAPER.stage1.max_steps + PAPER.stage2.max_steps
    assert (last.config.train.train_iters, last.config.dataset.seq_length) == (179, 49152)
    assert last.callbacks[0].previous == f"{dir}/stage2/checkpoints"
    assert {job.callbacks[0].rates.total_steps for job in jobs.values()} == {before + 179}
    assert family.described(own)["slice"].task.checkpoint == f"{dir}/stage3/checkpoints"


def summed_in(config: Any) -> str:
    """What Bridge's own setup of a run lets data parallelism sum gradients in."""
    from megatron.bridge.training.mixed_precision import get_mixed_precision_config

    low = get_mixed_precision_config(config.mixed_precision)
    low.finalize()
    low.setup(config.model, config.optimizer, config.ddp)
    assert config.model.params_dtype == torch.bfloat16 and not config.optimizer.use_precision_aware_optimizer
    return "fp32" if config.ddp.grad_reduce_in_fp32 else "bf16"


def test_routing_is_read_from_what_is_built() -> None:
    from nemo_elastic.hosts.bridge.curriculum import routing_of
    from nemo_elastic.plan.activations import Routing

    model = recipe_of("30b_a3b").stock().model
    assert routing_of(model) == Routing("fp32", balanced=True, fused=True)
    model.moe_router_dtype, model.moe_permute_fusion = None, False
    model.moe_router_load_balancing_type, model.moe_aux_loss_coeff = ["none", "aux_loss"], [1.0, 0.0]
    assert routing_of(model) == Routing("bf16", balanced=False, fused=False)
    model.moe_aux_loss_coeff = [0.0, 1e-3]
    assert routing_of(model).balanced


def test_a_job_says_what_it_needs(tmp_path: Path) -> None:
    family = recipe_of("8b")
    with pytest.raises(ElasticError, match=r"^dir: 'runs' "):
        job_of(family, "rank", "/p", ["/data/a"], "runs")
    with pytest.raises(ElasticError, match=r"^data: .* a weight before each prefix, or before none"):
        job_of(family, "rank", "/p", [0.5, "/data/a", "/data/b"], str(tmp_path))


def test_data_may_be_given_by_split_and_a_tokenizer_be_a_folder(tmp_path: Path) -> None:
    family = recipe_of("8b")
    data = {"train": [0.5, "/data/a", 0.5, "/data/b"], "validation": ["/data/v"]}
    config = job_of(family, "stage1", "/p", data, str(tmp_path), tokenizer="/checkpoints/tokenizer").config
    valid = (["/data/v"], None)
    assert config.dataset.blend_per_split == [(["/data/a", "/data/b"], [0.5, 0.5]), valid, valid]
    assert config.dataset.blend is config.dataset.split is None
    assert config.tokenizer.tokenizer_model == "/checkpoints/tokenizer" and config.tokenizer.vocab_size is None


def test_a_plan_is_made_of_a_recipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from nemo_elastic.cli import main
    from nemo_elastic.plan.stages import PAPER

    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main(["plan", "--recipe", "bridge/nemotron_elastic_30b_a3b", "--stage", "2", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert not end.value.code and printed["parent"] == "nemotron_elastic_30b_a3b_bridge: nemotron-3-nano-30b-a3b"
    assert printed["best"] == recipe_of("30b_a3b").layout(2, PAPER, 128, "h100").to_json()


@pytest.mark.parametrize("size", ["4b_sft", "30b_a3b_sft"])
def test_a_family_on_conversations_reads_packed_answers_of_its_stages_lengths(size: str, tmp_path: Path) -> None:
    from nemo_elastic.plan.stages import PAPER

    family, dir = recipe_of(size), str(tmp_path)
    jobs = family.build_all(family.run_of("/p", ["/data/chats"], dir, ["/data/long"]))
    for job, folder, length in (("rank", "chats", 8192), ("stage1", "chats", 8192), ("stage2", "long", 49152)):
        config, stage = jobs[job].config, PAPER.stage(2 if job == "stage2" else 1)
        dataset, specs = config.dataset, config.dataset.offline_packing_specs
        assert (dataset.dataset_root, dataset.seq_length) == (f"/data/{folder}", length) and stage.seq_length == length
        assert config.model.seq_length == length
        assert (specs.packed_sequence_size, dataset.max_train_samples) == (length, stage.samples)
        assert specs.packed_train_data_path == f"/data/{folder}/training.idx.parquet"
        assert dataset.enable_offline_packing and dataset.dataset_kwargs == {"pad_to_max_length": True}
        tokenizer = config.tokenizer.tokenizer_type, config.tokenizer.tokenizer_model
        assert tokenizer == ("HuggingFaceTokenizer", "/data/chats/tokenizer")
        if job != "rank":
            ranks = family.layout(2 if job == "stage2" else 1, PAPER, 128, "h100").data
            assert config.validation.eval_global_batch_size == ranks, "a micro-batch of each"
    with pytest.raises(ElasticError, match=r"^long_data: None "):
        job_of(family, "stage2", "/p", ["/data/chats"], dir)
    given = job_of(family, "stage2", "/p", ["/data/chats"], dir, long_data=["/data/long"])
    assert given.config.dataset.dataset_root == "/data/long", "what a script passes on"


def test_the_30b_a3b_on_conversations_is_that_on_text_but_for_its_data(tmp_path: Path) -> None:
    families = recipe_of("30b_a3b"), recipe_of("30b_a3b_sft")
    each = [family.build_all(family.run_of("/p", ["/data/a"], str(tmp_path), ["/data/b"])) for family in families]
    for job in each[0]:
        text, chats = (jobs[job].settings() for jobs in each)
        differ = {name for name in text.keys() | chats.keys() if text.get(name) != chats.get(name)}
        own = ("dataset", "tokenizer", "validation.eval_global_batch_size")
        if text["model.context_parallel_size"] > 1:  # what Bridge wants of conversations that ranks share out
            own += ("model.calculate_per_token_loss", "ddp.average_in_collective")
        assert {name for name in differ if not name.startswith(own)} == set()


def test_members_of_the_4b_reach_their_budgets() -> None:
    from nemo_elastic.core.cost import parameters
    from nemo_elastic.plan.work import members

    family = recipe_of("4b_sft")
    parent = family.config.parent_shape(family.parent)
    sizes = {name: parameters(parent, subnet) for name, subnet in members(parent, family.config).items()}
    assert 2.9e9 < sizes["3b"] <= 3.0e9 and 2.1e9 < sizes["2b"] <= 2.2e9


@pytest.mark.slow(minutes=2)
def test_a_tiny_family_is_trained_and_cut(tmp_path: Path) -> None:
    said = work(
        "tests.support.bridge", ROOT / "recipes" / "tiny.py", "--recipe", "bridge/nemotron_elastic_tiny_experts",
        "--dir", tmp_path, "--scale", "0.05",
    )  # fmt: skip
    family = open_source(tmp_path / "family").family
    assert family is not None and [m.name for m in family] == ["1.8m", "1.2m", "0.8m"]
    for member in family:
        cut = open_source(tmp_path / "members" / member.name)
        assert cut.subnet.pattern == member.subnet.pattern, said[-2000:]
    steps = [json.loads(x) for x in (tmp_path / "stage2" / "checkpoints" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["kind"] == "step"] == [1, 2]

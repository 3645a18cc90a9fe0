# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""apply_elastic on a ConfigContainer: what it changes and says, what it refuses, and the command in front of it."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from megatron.bridge.training.config import OptimizerConfigOverrideProvider, OptimizerConfigOverrideProviderContext
from megatron.bridge.training.mixed_precision import MixedPrecisionConfig
from megatron.bridge.training.setup import _validate_and_set_vocab_size
from megatron.core.optimizer import ParamKey
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nemo_elastic.cli import main as command
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.shape import parent_of
from nemo_elastic.hosts.bridge.apply import apply_elastic
from nemo_elastic.hosts.bridge.callbacks import draw
from nemo_elastic.hosts.bridge.cli import find_stock, main, override
from nemo_elastic.hosts.bridge.tiny import tiny_config
from nemo_elastic.hosts.common.changes import settings
from nemo_elastic.hosts.common.rules import EXPERT_LAYERS
from nemo_elastic.megatron.router_optim import ROUTER_MARK
from tests.documentation import blocks, named_files
from tests.hosts.nemo.checkpoints import store
from tests.hosts.nemo.cutting import random_tensors
from tests.parallel.bridge import EXPERT_BLOCK, EXPERTS, SIZES
from tests.parallel.runs import BLOCK, VOCAB, write_data
from tests.workers import ROOT, free_port, work

BLOCK_12B = replace(ElasticConfig.load(ROOT / "conf" / "elastic_12b.yaml"), distill=DistillConfig(teacher="none"))
BLOCK = BLOCK | {"distill": {"teacher": "none"}, "shapes": "search"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("apply")
    write_data(place)
    return place


@pytest.fixture
def recipe(place: Path) -> Any:
    return tiny_config(place / "data", place / "run", steps=10, seq_length=64, warmup_steps=2, sizes=SIZES)


def large() -> Any:
    """Bridge's own recipe of a 12B, on text that a cluster has."""
    config = find_stock("nemotron_nano_12b_v2_pretrain_config")()
    config.dataset.data_path = "0.7 /data/code 0.3 /data/web"
    return config


def refused(recipe: Any, block: Any = BLOCK, **more: Any) -> str:
    """What is said, and that nothing was changed."""
    before = settings(recipe)
    with pytest.raises(ElasticError) as caught:
        apply_elastic(recipe, block, verbose=False, **more)
    assert settings(recipe) == before
    return str(caught.value)


def test_checks_of_gradients_and_resumed_schedules_are_the_familys(recipe: Any) -> None:
    recipe.ddp.check_for_nan_in_grad = recipe.ddp.check_for_large_grads = True
    recipe.scheduler.override_opt_param_scheduler, recipe.scheduler.use_checkpoint_opt_param_scheduler = False, True
    recipe.model.gradient_accumulation_fusion = True  # as Bridge sets it beside TransformerEngine
    run = apply_elastic(recipe, BLOCK, verbose=False)
    assert not (recipe.model.gradient_accumulation_fusion or recipe.ddp.check_for_large_grads)
    assert recipe.scheduler.override_opt_param_scheduler and not recipe.scheduler.use_checkpoint_opt_param_scheduler
    assert "ddp.check_for_nan_in_grad: True -> False (" in run.changes


@dataclass
class Frozen(OptimizerConfigOverrideProvider):
    """A user's own overrides."""

    def build_config_overrides(self, context: Any) -> Any:
        return super().build_config_overrides(context) | {ParamKey(name="*.conv1d.weight"): {"max_lr": 0.0}}


def test_the_recipes_own_overrides_of_groups_stay(recipe: Any) -> None:
    recipe.optimizer_config_override_provider = Frozen()
    run = apply_elastic(recipe, BLOCK | {"shapes": "router"}, verbose=False)
    assert "optimizer_config_override_provider: Frozen -> the elastic block" in run.changes
    context = OptimizerConfigOverrideProviderContext(recipe.scheduler, recipe.optimizer, [])
    overrides = recipe.optimizer_config_override_provider.build_config_overrides(context)
    assert {"max_lr": 0.0} in overrides.values() and {"wd_mult": 0.0} in overrides.values()
    assert {"max_lr": 1e-2, "lr_mult": ROUTER_MARK, "wd_mult": 0.0} in overrides.values()


@pytest.mark.parametrize(
    ("stages", "first", "mark", "expected"),
    [(1, None, None, None), (2, None, None, 31), (2, 30, None, None), (2, None, 30, 30)],
)
def test_pipeline_stages_are_marked_as_megatron_core_asks(
    stages: int, first: int | None, mark: int | None, expected: int | None
) -> None:
    """Of equal length, unless the recipe divides its layers in another way."""

    def marked(at: int | None) -> str:
        return pattern if at is None else f"{pattern[:at]}|{pattern[at:]}"

    recipe = large()
    pattern = recipe.model.hybrid_layer_pattern
    recipe.model.hybrid_layer_pattern = marked(mark)
    recipe.model.pipeline_model_parallel_size, recipe.model.num_layers_in_first_pipeline_stage = stages, first
    apply_elastic(recipe, BLOCK_12B, ranked="/runs/ranking", verbose=False)
    assert recipe.model.hybrid_layer_pattern == marked(expected)


def test_rates_that_do_not_fall_as_a_familys_are_reported_and_a_warm_up_may_be_a_share_of_the_steps() -> None:
    recipe = large()
    recipe.train.train_iters, recipe.optimizer.lr = 5170, 9e-5
    recipe.scheduler.lr_warmup_iters, recipe.scheduler.lr_warmup_fraction = 0, 0.5
    recipe.scheduler.lr_decay_style = "WSD"
    run = apply_elastic(recipe, BLOCK_12B, verbose=False)
    assert "recipe.scheduler.lr_warmup_fraction: 2585 of 5170 steps; " in run.changes
    assert run.callbacks[0].rates.warmup_steps == 2585
    assert "recipe.scheduler.lr_decay_style: WSD; " in run.changes
    other = large()
    other.scheduler.lr_warmup_iters = 60
    other.train.train_iters, other.optimizer.lr, other.scheduler.lr_decay_iters = 5170, 9e-5, 6960
    run = apply_elastic(other, BLOCK_12B, total_steps=6960, verbose=False)
    assert "apply_elastic warns:" not in run.changes


def test_text_and_splits_without_documents_are_refused(recipe: Any, place: Path) -> None:
    """megatron-core counts the epochs of such a split for ever."""
    stock = large()
    stock.dataset.data_path = "0.7 /data/code.jsonl 0.3 /data/web"
    assert refused(stock, BLOCK_12B).startswith("recipe.dataset.data_path: '/data/code.jsonl' ")
    data = str(place / "data" / "val")
    recipe.dataset.blend_per_split, recipe.dataset.blend = None, ([data], None)
    recipe.dataset.split = "99999999,8,2"
    assert refused(recipe).startswith("recipe.dataset.split: '99999999,8,2' ")
    recipe.dataset.split = "8,1,1"
    apply_elastic(copy.deepcopy(recipe), BLOCK, verbose=False)
    recipe.dataset.blend, recipe.dataset.blend_per_split = None, [([data], None), (["/data/a.txt"], None), None]
    assert refused(recipe).startswith("recipe.dataset.blend_per_split: '/data/a.txt' ")


def test_settings_that_are_changed_back_are_refused_when_the_run_starts(recipe: Any) -> None:
    run = apply_elastic(recipe, BLOCK, verbose=False)
    run.forward_step.before()
    recipe.ddp.overlap_param_gather = True
    with pytest.raises(ElasticError, match=r"^recipe\.ddp\.overlap_param_gather: True "):
        run.forward_step.before()


def test_low_precision_is_turned_off_whatever_it_is_written_as(recipe: Any) -> None:
    named = large()
    assert "_with_fp8_" in named.mixed_precision
    apply_elastic(named, BLOCK_12B, verbose=False)
    assert named.mixed_precision == "bf16_mixed" and named.model.seq_length == named.dataset.seq_length == 8192
    recipe.mixed_precision = MixedPrecisionConfig(bf16=True, fp4="e2m1")
    run = apply_elastic(recipe, BLOCK, verbose=False)
    assert recipe.mixed_precision == "bf16_mixed" and "mixed_precision: MixedPrecisionConfig -> bf16_m" in run.changes


@pytest.fixture
def with_experts(place: Path) -> Any:
    return tiny_config(place / "data", place / "run", steps=10, seq_length=64, warmup_steps=2, sizes=EXPERTS)


def test_experts_are_those_that_the_router_chooses_at_widths_of_their_own(with_experts: Any) -> None:
    """What is made for experts of one width is turned off."""
    model = with_experts.model
    model.moe_router_force_load_balancing = model.moe_grouped_gemm = model.moe_shared_expert_overlap = True
    model.moe_token_dispatcher_type, model.expert_model_parallel_size = "flex", 2
    run = apply_elastic(with_experts, BLOCK | EXPERT_BLOCK, verbose=False)
    assert model.moe_router_force_load_balancing is False
    assert all(getattr(model, name) in (None, wanted) for name, wanted in EXPERT_LAYERS.items())
    assert "model.moe_token_dispatcher_type: flex -> alltoall" in run.changes and "cannot rank" not in run.changes


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tensor_model_parallel_size", 2, "sequence_parallel: False "),
        ("expert_model_parallel_size", 3, "expert_model_parallel_size: 3 "),
        ("expert_tensor_parallel_size", 3, "set stripes to a multiple of 3"),
        ("moe_router_load_balancing_type", "global_aux_loss", "moe_router_load_balancing_type: "),
        ("moe_router_load_balancing_type", "sinkhorn", "moe_router_load_balancing_type: "),
        ("moe_router_topk", 1, "moe_router_topk: 1 "),
        ("moe_router_num_groups", 4, "moe_router_num_groups: 4 "),
        ("moe_shared_expert_intermediate_size", None, "parent.shared_ffn: missing"),
    ],
)
def test_a_setting_of_experts_that_does_not_fit_is_named(
    with_experts: Any, field: str, value: Any, message: str
) -> None:
    setattr(with_experts.model, field, value)
    assert message in refused(with_experts, BLOCK | EXPERT_BLOCK)


def test_bridge_cannot_draw_a_decoupled_rate(recipe: Any) -> None:
    recipe.optimizer.decoupled_lr, recipe.logger.tensorboard_dir = 1e-4, "/runs/events"
    assert refused(recipe).startswith("recipe.logger.tensorboard_dir: '/runs/events' is not allowed; null")
    recipe.logger.tensorboard_dir = None
    apply_elastic(recipe, BLOCK, teacher="/parent", verbose=False)


def parent_at(folder: Path, recipe: Any, rows: int = VOCAB) -> str:
    """A checkpoint of the recipe's model."""
    parent = parent_of(recipe.model, rows)
    return str(store(folder, parent, parent.full, random_tensors(parent)))


def test_the_teachers_vocabulary_takes_the_place_of_a_placeholders(recipe: Any, tmp_path: Path) -> None:
    """Bridge's own recipes of the 8B, 9B and 12B have no tokenizer, and 32,000 tokens."""
    recipe.model.vocab_size, recipe.tokenizer.vocab_size = None, 128
    recipe.tokenizer.use_tokenizer_vocab_size = recipe.model.should_pad_vocab = True
    recipe.model.make_vocab_size_divisible_by = 100
    run = apply_elastic(recipe, BLOCK, teacher=parent_at(tmp_path / "parent", recipe), verbose=False)
    model, tokenizer = recipe.model, recipe.tokenizer
    assert (model.vocab_size, model.should_pad_vocab, tokenizer.vocab_size) == (512, False, 512)
    assert _validate_and_set_vocab_size(512, 512, tokenizer.use_tokenizer_vocab_size) == (512, False)
    assert "tokenizer.vocab_size: 128 -> 512 (the teacher's; " in run.changes


def test_a_vocabulary_that_is_not_the_teachers_is_refused(recipe: Any, place: Path, tmp_path: Path) -> None:
    teacher = parent_at(tmp_path / "parent", recipe)
    recipe.model.vocab_size = 128
    assert refused(recipe, teacher=teacher).startswith("recipe.model.vocab_size: 128 ")
    recipe.model.vocab_size, recipe.tokenizer.vocab_size = None, None
    recipe.tokenizer.tokenizer_type = "HuggingFaceTokenizer"
    recipe.tokenizer.tokenizer_model = str(place / "data" / "tokenizer")
    other = parent_at(tmp_path / "other", recipe, 4 * VOCAB)
    assert refused(recipe, teacher=other).startswith("recipe.tokenizer.vocab_size: 512 ")
    apply_elastic(recipe, BLOCK, teacher=teacher, verbose=False)
    assert (recipe.model.vocab_size, recipe.tokenizer.vocab_size) == (512, None)


def test_a_stopped_run_goes_on_and_a_ranking_is_a_start(recipe: Any) -> None:
    recipe.checkpoint.load, recipe.checkpoint.pretrained_checkpoint = None, "/a/parent"
    run = apply_elastic(recipe, BLOCK, ranked="/a/ranking", verbose=False)
    assert recipe.checkpoint.load == recipe.checkpoint.save
    assert recipe.checkpoint.pretrained_checkpoint == "/a/ranking"
    assert "checkpoint.load: None -> " in run.changes


def test_overrides_name_fields() -> None:
    sft = find_stock("nemotron_nano_12b_v2_sft_config")()
    override(sft, "dataset.dataset_kwargs.pad_to_max_length", True)
    override(sft, "dataset.dataset_kwargs.more", 1)
    assert sft.dataset.dataset_kwargs == {"pad_to_max_length": True, "more": 1}


def test_the_command_reads_a_recipe_its_arguments_and_fields(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elastic.yaml").write_text(
        "elastic:\n  budgets: [{name: full}, {name: small, ratio: 0.8}]\n"
        "  axes: {hidden: [128, 96]}\n  distill: {teacher: none}\n"
        "validation: {eval_iters: 3}\n"
    )
    given = [f"data={place / 'data'}", f"dir={tmp_path / 'run'}", "steps=5", "seq_length=64", "train.train_iters=7"]
    main(given, "tiny_config", str(tmp_path / "elastic.yaml"), True)
    printed = capsys.readouterr().out
    assert "validation.eval_iters: 3 -> 6 (" in printed and "nothing was started" in printed
    for arguments, line in (
        (["steps=5"], "error: data: missing"),
        ([*given, "train.iters=3"], "error: train: unknown field 'iters'"),
        ([*given, "train"], "error: override: 'train' "),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments, "tiny_config", str(tmp_path / "elastic.yaml"), True)
        assert line in capsys.readouterr().err
    with pytest.raises(ElasticError, match=r"^--factory: .* did you mean 'nemotron_nano_12b_v2_pretrain_config'\?$"):
        find_stock("nemotron_nano_12b_v2_pretrain_confg")


def test_the_script_and_the_command_of_the_page_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "docs" / "bridge.md"
    (lines,) = (b.text for b in blocks("python", page=page))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    names: dict[str, Any] = {"__name__": "train"}
    exec(lines, names)
    assert [b.name for b in names["run"].forward_step.family.config.budgets] == ["31b", "23b", "12b"]
    assert names["config"].checkpoint.load == "/runs/30b/checkpoints"
    (words,) = (w for b in blocks("bash", page=page) for w in b.commands() if w[:2] == ["nemo-elastic", "train"])
    (tmp_path / "run.yaml").write_text(named_files(page)["run.yaml"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        command([*words[1:], "--dryrun"])
    assert not end.value.code and "nothing was started" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", str(free_port()))  # Bridge takes 29500 for one process, as other tests may now
    write_data(tmp_path)
    block = {
        "budgets": [{"name": "full"}, {"name": "small", "ratio": 0.8}], "axes": {"hidden": [128, 96]},
        "importance": {"samples": 4, "depth_samples": 2}, "shapes": "even", "distill": {"teacher": "none"},
    }  # fmt: skip
    (tmp_path / "elastic.yaml").write_text(yaml.safe_dump({"elastic": block}))
    given = ["train", "--host", "bridge", "--factory", "tiny_config", "--yaml", tmp_path / "elastic.yaml"]
    given += [f"data={tmp_path / 'data'}", f"dir={tmp_path / 'run'}", "steps=2", "seq_length=64"]
    given += ["global_batch_size=4", "micro_batch_size=2", "validation.eval_iters=1"]
    work("tests.support.bridge", "-m", "nemo_elastic", *given)
    (metrics,) = (tmp_path / "run").rglob("metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2]
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    drawn = {f"loss_{name}" for line in lines for name in ("full", "small") if f"loss_{name}" in line}
    drawn |= {f"{kind}/{name}" for kind in ("val_loss", "val_kl") for name in lines[-1]["losses"]} - {"val_kl/full"}
    series = EventAccumulator(str(events)).Reload()
    assert drawn <= set(series.Tags()["scalars"]) and len(drawn) >= 4
    assert series.Scalars("val_loss/small")[-1].value == pytest.approx(lines[-1]["losses"]["small"])


def test_weights_and_biases_gets_the_same_series() -> None:
    got: list[Any] = []
    state = SimpleNamespace(
        tensorboard_logger=None, wandb_logger=SimpleNamespace(log=lambda *given: got.append(given))
    )
    for series in ({"loss_small": 2.0}, {}):
        draw(state, series, 7)
    assert got == [({"loss_small": 2.0}, 7)]

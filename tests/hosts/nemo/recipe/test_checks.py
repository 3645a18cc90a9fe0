# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What apply_elastic refuses before anything starts: one line each, and the recipe as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_elastic.errors import ElasticError
from tests.hosts.nemo.blocks import NANO_12B as BLOCK
from tests.hosts.nemo.cutting import write_words

pytestmark = pytest.mark.nemo


def accepted(recipe: Any, block: Any = BLOCK, **settings: Any) -> None:
    """Make the recipe elastic."""
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic

    apply_elastic(recipe, block, **({"teacher": "parent"} | settings))


def refused(recipe: Any, block: Any = BLOCK, **settings: Any) -> str:
    """The line that apply_elastic refuses with; the recipe must be left alone."""
    before = recipe.clone()
    with pytest.raises(ElasticError) as caught:
        accepted(recipe, block, **settings, verbose=False)
    assert recipe == before
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("groups", "heads", "tensor", "message"),
    [
        # 28 heads a rank; 112 on one would do
        (8, [128, 112], 4, "trainer.strategy.tensor_model_parallel_size: 4 is not allowed; "),
        (2, [100, 96], 1, "recipe.model.config.mamba_head_dim: 79 is not allowed; "),
    ],
)
def test_a_mamba_width_that_the_kernels_refuse_is_refused_on_gpus(
    recipe: Any, groups: int, heads: list[int], tensor: int, message: str
) -> None:
    head_dims, shape = [80, 79] if tensor > 1 else [79, 78], recipe.model.config
    shape.mamba_num_groups, shape.mamba_num_heads, shape.mamba_head_dim = groups, heads[0], head_dims[0]
    recipe.trainer.strategy.tensor_model_parallel_size = tensor
    recipe.trainer.strategy.sequence_parallel = tensor > 1
    block = BLOCK | {"budgets": [{"name": "full"}, {"name": "most", "ratio": 0.9}]}
    block["axes"] = BLOCK["axes"] | {"mamba_heads": heads, "mamba_head_dim": head_dims}
    assert message in refused(recipe, block)
    recipe.trainer.accelerator = "cpu"
    accepted(recipe, block)


def test_misspelt_fields_that_kwargs_would_swallow(recipe: Any) -> None:
    recipe.trainer.strategy.tensor_model_paralel_size = 2
    line = refused(recipe)
    assert line.startswith("recipe.trainer.strategy: unknown field 'tensor_model_paralel_size'")
    assert line.endswith("did you mean 'tensor_model_parallel_size'?")


def test_model_and_data_have_one_sequence_length(recipe: Any) -> None:
    recipe.model.config.seq_length = 49152
    line = refused(recipe)
    assert line.startswith("recipe.data.seq_length: 8192 ")
    recipe.data.seq_length = 49152
    del recipe.model.config.seq_length  # where only the data says it, the model follows
    accepted(recipe)
    assert recipe.model.config.seq_length == 49152


def test_data_shorter_than_one_sequence(recipe: Any, tmp_path: Path) -> None:
    import nemo_run as run
    from nemo.collections.llm.gpt.data import PreTrainingDataModule

    from nemo_elastic.data.indexed import write_indexed

    write_indexed(tmp_path / "short", [np.arange(100), np.arange(50)], 512)
    short = str(tmp_path / "short")
    recipe.data = run.Config(PreTrainingDataModule, paths=[0.5, short], seq_length=8192)
    assert refused(recipe).startswith("recipe.data.seq_length: 8192 ")
    recipe.data = run.Config(PreTrainingDataModule, paths=[short], seq_length=64, split="9999,8,2")
    assert refused(recipe).startswith("recipe.data.split: '9999,8,2' ")


def test_a_teacher_that_is_there_is_the_recipes_own_model(recipe: Any, tmp_path: Path) -> None:
    from nemo_elastic.hosts.common.agreement import check_teacher
    from tests.hosts.nemo.checkpoints import store
    from tests.hosts.nemo.cutting import PARENT, random_tensors

    path = str(store(tmp_path / "nemo", PARENT, PARENT.full, random_tensors(PARENT)))
    check_teacher(path, replace(PARENT, ffn_stripes=1), "recipe.model.config")
    check_teacher("/cluster/12b", PARENT, "recipe.model.config")
    with pytest.raises(ElasticError) as caught:
        check_teacher(path, replace(PARENT, hidden=2 * PARENT.hidden), "recipe.model.config")
    assert str(caught.value).startswith("teacher: ") and f"hidden_size {PARENT.hidden}, not " in str(caught.value)
    with pytest.raises(ElasticError, match=r"^teacher: .*vocab_size 64, not 16$"):
        check_teacher(path, replace(PARENT, vocab=16), "recipe.model.config")
    assert f"hidden_size {PARENT.hidden}, not 5120" in refused(recipe, teacher=path)
    assert refused(recipe, teacher=str(tmp_path)).startswith("teacher: ")


@pytest.mark.parametrize(
    ("tokens", "rows", "tensor", "message"),
    [
        (512, 512, 1, None), (130100, 131072, 8, None), (513, 512, 1, "tokens: 513"), (256, 512, 1, "tokens: 256"),
        (32000, 131072, 4, "tokens: 32000"), (511, 511, 2, "ranks: 2"),
    ],
)  # fmt: skip
def test_the_vocabulary_is_the_teachers(tokens: int, rows: int, tensor: int, message: str | None) -> None:
    from nemo_elastic.hosts.common.agreement import check_vocabulary

    if message is None:
        check_vocabulary(tokens, rows, tensor, "tokens", "ranks")
        return
    with pytest.raises(ElasticError) as caught:
        check_vocabulary(tokens, rows, tensor, "tokens", "ranks")
    assert str(caught.value).startswith(message)


def test_a_tokenizer_that_is_there_decides_the_vocabulary_and_has_to_be_the_teachers(
    recipe: Any, tmp_path: Path
) -> None:
    import nemo_run as run
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer

    from nemo_elastic.hosts.nemo.recipe.checks import NemoRecipe
    from tests.hosts.nemo.checkpoints import store
    from tests.hosts.nemo.cutting import PARENT, random_tensors

    path = str(store(tmp_path / "nemo", PARENT, PARENT.full, random_tensors(PARENT)))
    assert NemoRecipe(recipe).vocabulary() == 131072
    recipe.data.tokenizer = run.Config(AutoTokenizer, pretrained_model_name=str(write_words(tmp_path / "words", 20)))
    assert NemoRecipe(recipe).vocabulary() == 512  # padded to 128 times the tensor-parallel size of 4
    assert refused(recipe, teacher=path).startswith("recipe.data.tokenizer.vocab_size: 20 ")


def test_adapters_are_refused(recipe: Any) -> None:
    import nemo_run as run
    from nemo.collections import llm

    tuned = llm.nemotron_nano_12b_v2.finetune_recipe()
    tuned.peft = run.Config(llm.peft.LoRA)
    assert refused(tuned).startswith("recipe.peft: 'LoRA' is not allowed")


def test_files_that_the_block_names_are_read_before_anything_starts(recipe: Any, tmp_path: Path) -> None:
    import nemo_run as run
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer

    from nemo_elastic.ranking import Ranking
    from tests.shapes import PARENT

    recipe.model.config.vocab_size = 131072
    recipe.data.tokenizer = recipe.model.tokenizer = run.Config(AutoTokenizer, pretrained_model_name="a/hub")
    Ranking.trivial(PARENT).save(tmp_path / "ranking")
    assert "ranking" in refused(recipe, BLOCK | {"ranking": str(tmp_path / "ranking")})
    (tmp_path / "shapes.json").write_text("[]")
    assert refused(recipe, BLOCK | {"shapes": str(tmp_path / "shapes.json")}).startswith("elastic.shapes: ")

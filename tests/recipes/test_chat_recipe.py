# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The data module of the recipe on conversations; tests/hosts/test_families.py has what is configured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import fiddle
import pytest

from nemo_elastic.data.prepare import prepare
from nemo_elastic.errors import ElasticError
from recipes.families import family
from tests.data.large import sums, write_tokenizer

pytestmark = pytest.mark.nemo
CHATS = family("nemotron_elastic_12b_sft")


def test_its_data_module_reads_what_nemo_elastic_data_packs(tmp_path: Path) -> None:
    from nemo_elastic.plan.stages import Curriculum, Stage

    (tmp_path / "chats.jsonl").write_text(sums(40))
    made = prepare(tmp_path / "out", [tmp_path / "chats.jsonl"], write_tokenizer(tmp_path / "t"), length=64)
    plan = Curriculum(Stage(64, 2, 2), Stage(64, 2, 2))
    own = CHATS.run_of("/p", [str(made.path)], str(tmp_path), curriculum=plan)
    given = CHATS.stock_recipe("rank", own).data
    module = fiddle.build(given)
    del given.packed_sequence_specs, given.dataset_kwargs  # the folder's own by default
    assert fiddle.build(given).packed_sequence_specs == module.packed_sequence_specs
    given.seq_length = 128
    with pytest.raises(
        ElasticError, match=r"data.dataset_root: .*--seq-length 64 .*one with --seq-length 128 --packed npy"
    ):
        fiddle.build(given)
    check_tiny(made.path)
    module.prepare_data()
    module.global_batch_size = 200
    module.trainer, module.data_sampler = SimpleNamespace(global_step=0), SimpleNamespace()
    assert len(module.val_dataloader().dataset) == 200 > made.sequences["val"], "NeMo would validate nothing"
    dataset = module._create_dataset(module.train_path_packed, module.pack_metadata, **module.dataset_kwargs)
    batch = dataset.collate_fn([dataset[0]])
    assert batch["tokens"].shape == (1, 64) and 0 < int(batch["loss_mask"].sum()) < 64
    assert batch["cu_seqlens"].shape[1] > 2, "several conversations, and where each ends"


def check_tiny(folder: Path) -> None:
    """The tiny recipe reads the folder, too; conversations that do not fit a recipe are refused before it starts."""
    from nemo_elastic import apply_elastic
    from nemo_elastic.hosts.nemo.tiny.recipe import nemotron_elastic_tiny

    recipe = nemotron_elastic_tiny(str(folder), steps=2, global_batch_size=2)
    assert recipe.data.tokenizer.model_name == str(folder / "tokenizer"), "named as in NeMo's own recipes"
    assert recipe.model.config.seq_length == 64
    block = {"budgets": [{"name": "full"}, {"name": "half", "ratio": 0.9}], "axes": {"hidden": [128, 64]}}
    for name, value, line in (
        ("micro_batch_size", 2, "recipe.data.micro_batch_size: 2 is"),
        ("seq_length", 128, "data.dataset_root: "),
    ):
        other = recipe.clone()
        setattr(other.data, name, value)
        other.model.config.seq_length = other.data.seq_length
        with pytest.raises(ElasticError, match=rf"^{line}"):
            apply_elastic(other, block, teacher="parent")
    apart = recipe.clone()
    apart.trainer.devices = apart.trainer.strategy.context_parallel_size = 2
    with pytest.raises(ElasticError, match=r"^recipe.model.config.calculate_per_token_loss: False "):
        apply_elastic(apart, block, teacher="parent")
    apply_elastic(recipe, block, teacher="parent", verbose=False)
    counts_steps = recipe.trainer.check_val_every_n_epoch is None
    assert counts_steps, "Lightning refuses an interval above an epoch of few conversations"

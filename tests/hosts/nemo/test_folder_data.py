# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_elastic.data.build import EOS_ID
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.errors import ElasticError
from tests.data.conftest import build_small

pytestmark = pytest.mark.nemo

SIZES = {"seq_length": 64, "micro_batch_size": 2, "global_batch_size": 4, "num_train_samples": 40}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return build_small(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def module() -> Any:
    pytest.importorskip("nemo.collections.llm")
    from nemo_elastic.hosts.nemo import folder_data

    return folder_data


def built(module: Any, folder: DataFolder, **options: Any) -> Any:
    import fiddle

    return fiddle.build(module.pretraining_data(folder, **options))


@pytest.fixture
def parallel() -> Iterator[None]:
    """One rank of everything that Megatron's samplers ask for."""
    import torch.distributed as dist
    from megatron.core import num_microbatches_calculator, parallel_state
    from nemo.utils import AppState

    from tests.support.models import start

    own = not dist.is_initialized()  # another file of tests in this process leaves its rank behind
    start()
    before, AppState().data_parallel_size = AppState().data_parallel_size, 1
    yield
    AppState().data_parallel_size = before
    num_microbatches_calculator.unset_num_microbatches_calculator()
    if own:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def attach(data: Any, max_steps: int = 10) -> Any:
    """A data module as it is inside a training run, as far as it can see."""
    from nemo.lightning.pytorch.strategies import MegatronStrategy

    data.trainer = data.data_sampler.trainer = SimpleNamespace(
        max_steps=max_steps,
        val_check_interval=5,
        limit_val_batches=1,
        limit_test_batches=0,
        global_step=0,
        strategy=object.__new__(MegatronStrategy),
    )
    data.data_sampler.setup(0)
    data.setup()
    return data


def test_a_batch_is_read_as_it_should_be(module: Any, small: DataFolder, parallel: None, tmp_path: Path) -> None:
    data = attach(built(module, small, **SIZES, index_dir=tmp_path))
    read = list(data.data_sampler.transform_dataloader(data.train_dataloader()))
    assert len(read) * 2 >= len(data._train_ds) - 2 >= 40, "an epoch, or more when the run needs more"
    assert set(read[0]) == {"tokens", "labels", "loss_mask", "position_ids"}, "no attention mask"
    ends = 0
    for batch in read:
        assert batch["tokens"].shape == (2, 64)
        assert (batch["tokens"][:, 1:] == batch["labels"][:, :-1]).all()
        assert (batch["loss_mask"] == 1).all(), "the end of a document counts like any other token"
        ends += int((batch["labels"] == EOS_ID).sum())
    assert ends > 10
    assert [p.name for p in tmp_path.iterdir()] == [small.digest], "orders of other data cannot be met"
    assert len(data._validation_ds) > 0


def test_the_configuration_travels(module: Any, small: DataFolder, tmp_path: Path, monkeypatch: Any) -> None:
    """Relative paths become absolute, and NeMo's own record of the call makes the same module again."""
    import fiddle
    from nemo.collections.llm.gpt.data import PreTrainingDataModule
    from nemo.lightning import io

    monkeypatch.chdir(small.path.parent)
    config = module.pretraining_data(small.path.name, **SIZES)
    assert config.paths["train"] == [str(small.path.resolve() / "train")]
    assert config.index_mapping_dir == str(small.path.resolve() / "index")
    tokenizer = fiddle.build(config.tokenizer)
    PreTrainingDataModule(paths=config.paths, tokenizer=tokenizer)  # capturing must survive a stock one before ours
    fiddle.build(config).io_dump(tmp_path / "context", yaml_attrs=[])
    again = io.load(tmp_path / "context")
    assert type(again) is module.FolderDataModule
    assert again.build_kwargs == fiddle.build(config).build_kwargs
    assert (again.seq_length, again.num_train_samples) == (64, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seq_length": 0}, "seq_length: 0"),
        ({"micro_batch_size": 3}, "global_batch_size: 4 .* a multiple of the micro-batch size, 3"),
        ({"validation": "dev"}, "split: 'dev'"),
    ],
)
def test_bad_values_are_refused(module: Any, small: DataFolder, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ElasticError, match=message):
        module.pretraining_data(small, **{**SIZES, **change})


def test_validation_data_can_be_too_short_as_well(module: Any, small: DataFolder) -> None:
    length = small.splits["val"].tokens
    assert length < small.splits["train"].tokens
    with pytest.raises(ElasticError, match="val has"):
        module.pretraining_data(small, **{**SIZES, "seq_length": length})
    module.pretraining_data(small, **{**SIZES, "seq_length": length - 1})


def test_more_steps_than_samples_are_refused(module: Any, small: DataFolder, parallel: None, tmp_path: Path) -> None:
    data = built(module, small, **SIZES, index_dir=tmp_path)
    with pytest.raises(ElasticError, match=r"num_train_samples: 40 .* 11 steps read 44"):
        attach(data, max_steps=11)


def test_an_index_needs_a_place(module: Any, small: DataFolder, parallel: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    data = built(module, small, **SIZES, index_dir=tmp_path / "file")
    with pytest.raises(ElasticError, match="give a writable index_dir"):
        attach(data)

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as Megatron-Bridge lays them out: no prefix, no context, a run's settings among the weights."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.distributed.checkpoint import FileSystemWriter, save

from nemo_elastic.core.codes import encode
from nemo_elastic.core.family import Parent
from nemo_elastic.formats.adapter import to_megatron
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.megatron.context_files import read_context
from nemo_elastic.formats.megatron.metadata import ByteRange, Piece, StoredTensor, last_iteration
from nemo_elastic.formats.megatron.stored import Stored
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.hosts.nemo.checkpoints import settings_of
from tests.hosts.nemo.cutting import PARENT, random_tensors
from tests.ranking.test_sorting import unstriped
from tests.shapes import LATENT, MOE
from tests.support.states import stored_as

BLOCK = {"budgets": [{"name": "full"}, {"name": "small", "ratio": 0.7}],
         "axes": {"hidden": [PARENT.hidden, PARENT.hidden // 2]}}  # fmt: skip


def store(
    folder: Path,
    step: int = 7,
    elastic: dict[str, Any] | None = None,
    more: Any = None,
    parent: Parent = PARENT,
    state: dict[str, torch.Tensor] | None = None,
) -> dict[str, Any]:
    """A run's folder with one checkpoint of a parent; its tensors by HF name."""
    own = random_tensors(parent) if state is None else state
    tensors = stored_as(parent, parent.full, to_megatron(parent, parent.full, own))
    iteration = folder / f"iter_{step:07d}"
    stored = {**tensors, "optimizer.state.exp_avg.decoder.final_norm.weight": torch.zeros(2)} | (more or {})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        save(stored, storage_writer=FileSystemWriter(iteration), no_dist=True)
    (iteration / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    settings = settings_of(parent, parent.full) | {"mtp_num_layers": 0}
    settings["hybrid_layer_pattern"] = settings.pop("hybrid_override_pattern")
    config = {"model": settings, "optimizer_config_override_provider": {"_target_": "o.O"}}
    if elastic is not None:
        config["optimizer_config_override_provider"]["elastic"] = elastic
    (iteration / "run_config.yaml").write_text(yaml.safe_dump(config))
    (folder / "latest_checkpointed_iteration.txt").write_text(str(step))
    return own


@pytest.mark.parametrize("which", ["", "iter_0000007"], ids=["a run's folder", "one checkpoint"])
def test_a_stock_one_is_opened_as_any_other(tmp_path: Path, which: str) -> None:
    own = store(tmp_path / "run")
    source = open_source(tmp_path / "run" / which)
    assert (source.parent.pattern, source.family) == (PARENT.pattern, None)
    assert source.tensors.keys() == own.keys()
    stored = Stored(tmp_path / "run" / which)
    assert stored.prefix == "" and "optimizer.state.exp_avg.decoder.final_norm.weight" not in stored.sizes


def test_an_elastic_one_is_a_family(tmp_path: Path) -> None:
    members = [PARENT.full, PARENT.uniform(hidden=PARENT.hidden // 2)]
    codes = {"elastic.codes": torch.tensor([encode(PARENT, m) for m in members]),
             "elastic.drop_order": torch.arange(PARENT.num_layers)}  # fmt: skip
    store(tmp_path, elastic=BLOCK, more=codes)
    family = open_source(tmp_path).family
    assert family is not None and [m.subnet for m in family] == members
    assert read_context(tmp_path).elastic == BLOCK


def test_the_last_one_counts_that_was_written_whole(tmp_path: Path) -> None:
    store(tmp_path)
    shutil.copytree(tmp_path / "iter_0000007", tmp_path / "iter_0000009")  # whose run was killed before the tracker
    assert last_iteration(tmp_path) == tmp_path / "iter_0000007"
    for text in ("10", "x", "७"):
        (tmp_path / "latest_checkpointed_iteration.txt").write_text(text)
        assert last_iteration(tmp_path) is None
    assert last_iteration(None) is None and last_iteration(tmp_path / "nothing") is None


def test_experts_are_read_one_by_one_out_of_the_tensor_that_holds_them(tmp_path: Path) -> None:
    parent = unstriped(LATENT)
    own = store(tmp_path / "run", parent=parent)
    source = open_source(tmp_path / "run")
    assert (source.parent, source.subnet, source.family) == (parent, parent.full, None)
    assert source.tensors.keys() == own.keys()
    assert all(torch.equal(raw.torch(), own[name]) for name, raw in source.tensors.items())
    small = parent.uniform([0, 1, 3], experts=4, expert_ffn=6, hidden=12)
    slice_checkpoint(tmp_path / "run", tmp_path / "small", subnet=small)
    cut = open_source(tmp_path / "small").tensors["backbone.layers.1.mixer.experts.3.down_proj.weight"]
    assert torch.equal(cut.torch(), own["backbone.layers.1.mixer.experts.3.down_proj.weight"][:12, :6])


def test_of_several_optimizers_each_has_its_number_before_its_states(tmp_path: Path) -> None:
    """As the distributed optimizer of a stock training with experts writes them, by buckets."""
    bucket = "optimizer.distributed.dp_group_idx_0.gbuf_idx_0.dtype_(torch.bfloat16, torch.bfloat16).bucket_idx_0"
    more = {f"chained_{i}.{bucket}.{state}": torch.ones(8) for i in (0, 1, 12) for state in ("param", "exp_avg")}
    own = store(tmp_path, parent=unstriped(MOE), more=more)
    assert open_source(tmp_path).tensors.keys() == own.keys()
    assert not more.keys() & Stored(tmp_path).sizes.keys() and more.keys() < Stored(tmp_path).read_all().keys()


def test_of_pieces_of_experts_only_those_of_one_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As expert- and tensor-parallel ranks write them: some experts to a piece, and a part of their neurons."""
    from nemo_elastic.formats.megatron import stored as module

    store(tmp_path, parent=unstriped(MOE))
    stored, name = Stored(tmp_path), "decoder.layers.1.mlp.experts.experts.linear_fc1.weight"
    whole = stored.read(name)
    pieces = {(e, f): whole[e : e + 2, f : f + 6] for e in range(0, 8, 2) for f in (0, 6)}
    made = tuple(
        Piece((*at, 0), tuple(piece.shape), ByteRange(f"{at[0]}-{at[1]}", 0, 1)) for at, piece in pieces.items()
    )
    stored._tensors[name] = StoredTensor(whole.dtype, tuple(whole.shape), made)
    asked: list[str] = []

    def read(file: str, piece: Piece, dtype: torch.dtype) -> torch.Tensor:
        asked.append(file)
        return pieces[tuple(int(n) for n in file.split("-"))]  # pyright: ignore

    monkeypatch.setattr(type(stored.metadata), "file", lambda self, file: file)
    monkeypatch.setattr(module, "read_piece", read)
    assert torch.equal(stored.read_one(name, 5), whole[5]) and asked == ["4-0", "4-6"]

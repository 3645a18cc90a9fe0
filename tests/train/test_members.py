# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members in a checkpoint: encoding, state dict, ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.core.family import OWN_WIDTH, PARENT_WIDTH
from nemo_elastic.formats.megatron.stored import elastic_family
from nemo_elastic.train.members import Members
from tests.shapes import PARENT


def test_buffers_are_read_once_until_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every micro-batch asks for the members: with a GPU each reading would make the host wait."""
    held, other = Members(PARENT, 1), Members(PARENT, 1)
    held.put([PARENT.full], frozen=False)
    assert (held.is_frozen, held.get()) == (False, [PARENT.full])
    with monkeypatch.context() as patch:
        for name in ("tolist", "item", "cpu", "numpy", "__bool__"):
            patch.setattr(torch.Tensor, name, lambda *_: pytest.fail("a buffer is read"))
        first = held.get()
        assert held.known
        assert not held.is_frozen
        assert held.get() is first
    small = PARENT.uniform(hidden=8)
    other.put([small], frozen=True)
    held.load_state_dict(other.state_dict())
    assert (held.is_frozen, held.get()) == (True, [small])
    held.put([PARENT.full], frozen=True)
    assert held.double().get() == [PARENT.full]


def _differ(rank: int, place: str) -> None:
    """One of two ranks whose last bits made another member of the same logits."""
    store = torch.distributed.FileStore(f"{place}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    held = Members(PARENT, 1)
    held.put([PARENT.uniform(hidden=8 if rank else 12)], frozen=False)
    torch.save(held.get()[0].hidden, f"{place}/{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.dist
def test_ranks_that_found_other_members_all_have_those_of_rank_0(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_differ, (str(tmp_path),), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    assert [torch.load(tmp_path / str(rank)) for rank in (0, 1)] == [12, 12]


def test_a_checkpoint_says_the_order_of_dropped_layers_the_norm_and_the_ranking() -> None:
    """Sizes between members lose the least important layers, not the last ones."""
    order = [3, 1, 0, 2, 4]
    held = Members(replace(PARENT, norm=PARENT_WIDTH), 2)
    block: dict[str, Any] = {"budgets": [{"name": "full"}, {"name": "half", "ratio": 0.7}]}
    held.put([PARENT.full, PARENT.uniform([0, 2, 4], hidden=8, ffn=8)], frozen=True)
    held.put_ranking("0a" * 32)
    held.drop_order.copy_(torch.tensor(order))
    saved = {name: value.clone() for name, value in held.state_dict().items()}
    block["axes"] = {"hidden": [16, 8], "ffn": [16, 8], "depth": [5, 3]}
    family = elastic_family(PARENT, saved, block, "here")
    assert (family.drop_order, family.parent.norm, family.ranking_digest) == (tuple(order), PARENT_WIDTH, "0a" * 32)
    del saved["drop_order"], saved["parent_norm"], saved["ranking"]  # as runs of before saved it
    family = elastic_family(PARENT, saved, block, "here")
    assert (family.drop_order, family.parent.norm, family.ranking_digest) == (None, OWN_WIDTH, None)

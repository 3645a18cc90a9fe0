# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The data that both hosts have: which of it ranks, trains and validates a family; and a little of each.

`data.py` of each host runs every kind that is not refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.data.large import TEMPLATE

NEMO, BRIDGE = "NeMo", "Megatron-Bridge"
#: of a run of each stage; conversations in the files
STEPS, CHATS = 2, 60
#: name of the losses of a stock fine-tuning, and of a family's whole member; how far they may be apart, relative
AS_STOCK, APART = "as stock", 1e-5
#: a block by which the whole member alone is trained, by cross-entropy; Adam would move a rotated stream along other
#: coordinates than the stock one
WHOLE: dict[str, Any] = {
    "sampling": {"full": 1}, "distill": {"teacher": "none"},
    "importance": {"samples": 4, "depth_samples": 2, "hidden": "magnitude"},
}  # fmt: skip
#: a block that ranks and searches on the data
ASKS: dict[str, Any] = {
    "importance": {"samples": 8, "depth_samples": 4}, "shapes": "search", "search": {"candidates": 12, "tokens": 256},
    "seed": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of data.

    Attributes:
        host: whose.
        masked: whether only some tokens count; packed: whether rows hold documents that are apart.
        second: whether a second stage goes on with it.
        line: the beginning of the line that refuses it.
    """

    host: str
    masked: bool = False
    packed: bool = False
    second: bool = False
    line: str = ""


#: name -> the kind, of both hosts; text as the hosts mix it is what most other tests train on
KINDS: Mapping[str, Kind] = {
    "apart": Kind(NEMO, packed=True),
    "prompts": Kind(NEMO, masked=True),
    "packed": Kind(NEMO, masked=True, packed=True),
    "chats": Kind(NEMO, masked=True),
    "chats packed": Kind(NEMO, masked=True, packed=True, second=True),
    "hub": Kind(NEMO, line="recipe.data: 'HFDatasetDataModule' is not allowed"),
    "b apart": Kind(BRIDGE, packed=True),
    "b prompts": Kind(BRIDGE, masked=True),
    "b packed": Kind(BRIDGE, masked=True, packed=True),
    "b chats": Kind(BRIDGE, masked=True),
    "b chats packed": Kind(BRIDGE, masked=True, packed=True, second=True),
    "b direct": Kind(BRIDGE, masked=True),
    "b in batch": Kind(BRIDGE, masked=True, packed=True, second=True),
    "b in batch, stages": Kind(BRIDGE, line="recipe.dataset.enable_in_batch_packing: True is not allowed"),
    "b packed, stages": Kind(BRIDGE, line="recipe.dataset.dataset_kwargs.pad_to_max_length: missing"),
    "b external": Kind(BRIDGE, line="recipe.dataset.dataloader_type: 'external' is not allowed"),
    "b energon": Kind(BRIDGE, line="recipe.dataset: 'EnergonDatasetConfig' is not allowed"),
}


def runs_of(host: str) -> list[str]:
    """Names of a host's kinds that run."""
    return [name for name, kind in KINDS.items() if kind.host == host and not kind.line]


def write_data(place: Path, packed: str, length: int) -> None:
    """PLACE/chats and PLACE/notes, conversations and short texts as `nemo-elastic data` writes them, by PLACE/data's
    tokenizer.
    """
    from nemo_elastic.data.prepare import prepare
    from tests.data.large import asked

    tokenizer = place / "chat tokenizer"
    shutil.copytree(place / "data" / "tokenizer", tokenizer)
    (tokenizer / "chat_template.jinja").write_text(TEMPLATE)
    rows = [asked(f"{i} + {i}?" + " well" * (i % 5), str(2 * i)) for i in range(CHATS)]
    (place / "chats.jsonl").write_text("\n".join(rows))
    prepare(place / "chats", [place / "chats.jsonl"], tokenizer, length=length, packed=packed)
    notes = [json.dumps({"text": f"{i} and {i + 1} " * (i % 4 + 1)}) for i in range(1000)]
    (place / "notes.jsonl").write_text("\n".join(notes))
    prepare(place / "notes", [place / "notes.jsonl"], tokenizer)
    for file in (place / "chats").glob("training*"):  # what is held out of so few makes no step
        shutil.copy(file, file.with_name(file.name.replace("training", "validation")))


def run_all(place: Path, host: str, train: Callable[..., Any], as_stock: Callable[[Path], Any]) -> dict[str, Any]:
    """What all of a host's kinds that run have left, each in a fork of this process."""
    from tests.parallel import forks

    given: dict[str, Any] = {name: (stages, place, name, train) for name in runs_of(host)}
    given[AS_STOCK] = (as_stock, place)
    return {name: forks.run(place / "log" / name, 1, *call)[0] for name, call in given.items()}


def stages(place: Path, name: str, train: Callable[..., Any]) -> dict[str, Any]:
    """A stage on a kind of data, which ranks and searches, and a second one.

    Args:
        train: called with the place, the kind, the run's folder, its block and options of `apply_elastic`.
    """
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    from nemo_elastic.megatron.megatron_host import MegatronHost
    from tests.parallel.runs import Layout, block_of

    seen: set[bool] = set()
    student = MegatronHost.student

    def watched(self: Any, tokens: Any, choice: Any = None, documents: Any = None) -> Any:
        seen.add(documents is not None)
        return student(self, tokens, choice, documents)

    MegatronHost.student = watched
    block = block_of(Layout(), **ASKS, **({"data": {"documents": "apart"}} if name.endswith("apart") else {}))
    one, two = place / name / "one", place / name / "two"
    second = {"stage": 2, "total_steps": 2 * STEPS, "previous": str(one / "checkpoints")}
    facts: dict[str, Any] = {}
    for out, options in ((one, {}), (two, second))[: 1 + KINDS[name].second]:
        destroy_num_microbatches_calculator()
        train(place, name, out, block, options)
        (file,) = out.rglob("metrics.jsonl")
        facts[out.name] = [json.loads(line) for line in file.read_text().splitlines()]
    (file,) = one.rglob("ranking.json")
    return facts | {"ranking": json.loads(file.read_text())["provenance"], "documents": True in seen}


def check(kind: Kind, facts: Mapping[str, Any]) -> None:
    """What was ranked on, trained and validated; masks and documents counted."""
    seen = facts["ranking"]
    assert seen["samples"] > 0 and ("counted" in seen) == kind.masked, facts
    if kind.masked:
        assert 0 < seen["counted"] < seen["tokens"]
    for stage in ("one", "two")[: 1 + kind.second]:
        lines = facts[stage]
        steps = [line for line in lines if line["kind"] == "step"]
        assert [line["step"] for line in steps] == list(range(1, STEPS + 1)), stage
        assert all(line["grad_norm"] > 0 and line["tokens"] > 0 for line in steps), stage
        validations = [line["losses"] for line in lines if line["kind"] == "heldout"]
        assert validations and all(0 < loss < 10 for losses in validations for loss in losses.values()), stage
        assert sorted(validations[-1]) == ["full", "large", "small"], stage
    assert facts["documents"] == kind.packed, facts


def check_as_stock(facts: Mapping[str, list[float]]) -> None:
    """The whole member loses in every step what the host's own fine-tuning loses, which learns."""
    pairs = [(facts[name], facts[name.replace("stock", "whole")]) for name in facts if name.startswith("stock")]
    assert pairs and len(facts) == 2 * len(pairs)
    for stock, own in pairs:
        assert len(own) == len(stock) == 2 * STEPS and stock[-1] < stock[0], facts
        assert all(abs(a - b) <= APART * b for a, b in zip(own, stock, strict=True)), facts

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members cut from one family decode greedily to the same tokens in vLLM, in transformers and in our own runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nemo_elastic.runtime import load_family
from tests.formats.hf.hf_client import Worker, worker

from .families import CASES, TEXTS, write_member
from .server import NEW, inside

pytestmark = [pytest.mark.vllm, pytest.mark.hf, pytest.mark.long, pytest.mark.slow(minutes=5)]
#: Fewer different tokens in a continuation would be a loop, which proves little.
VARIED = 8
#: So many times further must the best token lead than log-probabilities differ: no tie decides.
MARGIN = 10


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with worker(tmp_path_factory.mktemp("hf")) as running:
        yield running


@pytest.mark.parametrize("name", CASES)
def test_a_member_says_the_same_everywhere(name: str, hf: Worker, tmp_path: Path) -> None:
    case = CASES[name]
    folder = write_member(tmp_path, case)
    remote = not case.member.is_uniform  # its folder brings code of its own
    decoded, said = inside("decode", folder, tmp_path / "vllm", texts=TEXTS, new=NEW, remote=remote)
    if case.refused is not None:
        assert decoded is None and case.refused in said
        return
    assert decoded is not None, said[-3000:]
    family = load_family(folder)
    for text, got in zip(TEXTS, decoded, strict=True):
        ids, tokens = family.tokenizer.encode(text), got["tokens"]
        assert got["prompt"] == ids and len(set(tokens)) >= VARIED
        assert family.select().generate([ids], NEW, ()) == [tokens]
        arrays, _ = hf.arrays("run", np.array([ids + tokens]), folder=str(folder))
        z_tv = arrays["logits"][0, len(ids) - 1 : -1].astype(np.float64)
        assert z_tv.argmax(-1).tolist() == tokens
        logp_tv = z_tv - np.log(np.exp(z_tv).sum(-1, keepdims=True))
        best_t2 = np.sort(logp_tv, -1)[:, -2:]
        assert MARGIN * np.abs(best_t2[:, 1] - got["logprobs"]).max() <= (best_t2[:, 1] - best_t2[:, 0]).min()


def test_no_two_members_say_the_same(tmp_path: Path) -> None:
    said = []
    for number, case in enumerate(CASES.values()):
        family = load_family(write_member(tmp_path / str(number), case))
        said.append(family.select().generate([family.tokenizer.encode(TEXTS[0])], NEW, ())[0])
    assert len(set(map(tuple, said))) == len(CASES)

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Token files as a run names them: splits that would be empty are those that megatron-core would make so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.data.indexed import write_indexed
from nemo_elastic.errors import ElasticError
from nemo_elastic.hosts.common.token_files import (
    check_token_files,
    empty_splits,
    files_of,
    prefixes_of,
    splits_of,
)


def check(prefixes: list[str], length: int, split: str | None) -> None:
    check_token_files(("paths", prefixes), ("length", length), ("split", split))


@pytest.mark.nemo
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=3).filter(any), st.integers(1, 3000))
def test_a_split_is_empty_where_megatron_core_gives_it_no_documents(shares: list[int], documents: int) -> None:
    from megatron.core.datasets.blended_megatron_dataset_config import (
        convert_split_vector_to_split_matrix,
        parse_and_normalize_split,
    )

    text = ",".join(map(str, shares))
    ends = convert_split_vector_to_split_matrix(parse_and_normalize_split(text))
    theirs = [bool(end) and round(end[0] * documents) >= round(end[1] * documents) for end in ends]
    empty = empty_splits(shares, documents)
    assert [name in empty for name in ("train", "validation", "test")] == theirs


def test_files_are_long_enough_and_leave_documents_for_each_split(tmp_path: Path) -> None:
    prefix = str(tmp_path / "text")
    write_indexed(tmp_path / "text", [np.arange(100)] * 100, 512)
    check([prefix, "/cluster/text"], 64, "98,1,1")
    for split, name in (("9999,8,2", "validation"), ("99,1,0.1", "test")):
        with pytest.raises(ElasticError, match=rf"^split: '{split}' .* {prefix} for {name}, "):
            check([prefix], 64, split)
    for split in ("0,1,1", "99.8.1,1", "1,-1", "1,1,1,1"):
        with pytest.raises(ElasticError, match=rf"^split: '{split}' "):
            check(["/cluster/text"], 64, split)
    check([prefix], 64, None)
    with pytest.raises(ElasticError, match=r"^length: 10000 "):
        check([prefix], 10_000, None)
    with pytest.raises(ElasticError, match=r"^paths: '/cluster/text\.jsonl' "):
        check(["/cluster/text.jsonl"], 64, None)


def test_data_are_one_list_or_a_list_for_each_split() -> None:
    assert splits_of([0.7, "/a", 0.3, "/b"]) == [0.7, "/a", 0.3, "/b"]
    each = {"train": ["/a"], "validation": ["/b"], "test": ["/b"]}
    assert splits_of({"train": ["/a"], "validation": ["/b"]}) == each
    assert prefixes_of(["0.7", "/a", 0.3, "/b"]) == ["/a", "/b"]
    for data in ("0.7 /a 0.3 /b", ["/a", "/b"], {"train": ["/a"], "validation": [1.0, "/b"]}):
        assert files_of(data) == ["/a", "/b"]
    for data in ("/a", {"train": ["/a"]}, ["/a.jsonl"]):
        with pytest.raises(ElasticError, match=r"^data: "):
            splits_of(data)

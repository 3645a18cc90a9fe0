# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whose file an unfinished ranking is; ranks that share a model are in `tests/parallel/test_rankings.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_elastic.megatron.unfinished import unfinished_file
from nemo_elastic.ranking import OtherRanking


def test_every_group_of_ranks_has_a_file_and_no_other_layout_goes_on_from_it(tmp_path: Path) -> None:
    files = [unfinished_file(tmp_path, 2, 3, 1, rank) for rank in range(3)]
    assert len(set(files)) == 3
    for file in files:
        file.write_bytes(b"")
        (tmp_path / f".{file.name}.0123abcd.tmp").write_bytes(b"")  # what a kill in a save leaves
    assert [unfinished_file(tmp_path, 2, 3, 1, rank) for rank in range(3)] == files
    for tensor, data, expert in ((1, 3, 1), (2, 1, 1), (2, 2, 1), (2, 4, 1), (4, 3, 1), (2, 3, 2)):
        told = rf"other ranks than these \(tensor-parallel size {tensor}, .* {data}"
        told += rf", expert-parallel size {expert}\)" if expert > 1 else r"\)"
        with pytest.raises(OtherRanking, match=told):
            unfinished_file(tmp_path, tensor, data, expert, 0)

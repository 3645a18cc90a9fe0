# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.data.indexed import check_prefix, count, open_tokens, read_index, token_dtype, write_indexed
from nemo_elastic.errors import ElasticError

DOCUMENTS = st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=20), min_size=1, max_size=10)


def write(folder: Path, documents: list[list[int]], vocab: int = 1000) -> Path:
    write_indexed(folder / "x", [np.array(d, dtype=np.int32) for d in documents], vocab)
    return folder / "x"


@given(DOCUMENTS, st.sampled_from([1000, 70_000]))
def test_tokens_come_back(documents: list[list[int]], vocab: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prefix = write(Path(folder), documents, vocab)
        index = read_index(prefix)
        assert index.lengths.tolist() == [len(d) for d in documents]
        assert index.documents.tolist() == list(range(len(documents) + 1))
        assert count(prefix) == (index.tokens, len(documents)) == (sum(map(len, documents)), len(index.lengths))
        tokens = open_tokens(prefix)
        assert tokens.dtype == token_dtype(vocab)
        assert tokens.tolist() == [n for d in documents for n in d]
        with pytest.raises(ValueError, match="read-only"):
            tokens[0] = 1


@pytest.mark.nemo
@pytest.mark.parametrize("vocab", [65_499, 65_500])
def test_the_bytes_are_those_of_megatron(tmp_path: Path, vocab: int) -> None:
    torch = pytest.importorskip("torch")
    megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    random = np.random.default_rng(vocab)
    documents = [random.integers(0, vocab, size).tolist() for size in (1, 700, 3, 64)]
    ours = write(tmp_path, documents, vocab)
    theirs = tmp_path / "theirs"
    builder = megatron.IndexedDatasetBuilder(f"{theirs}.bin", dtype=megatron.DType.optimal_dtype(vocab))
    for document in documents:
        builder.add_item(torch.tensor(document))
        builder.end_document()
    builder.finalize(f"{theirs}.idx")
    for suffix in ("bin", "idx"):
        assert Path(f"{ours}.{suffix}").read_bytes() == Path(f"{theirs}.{suffix}").read_bytes()
    dataset = megatron.IndexedDataset(str(ours))
    assert [dataset[i].tolist() for i in range(len(dataset))] == documents
    # and our reader takes several sequences per document, which we never write
    joined = [token for document in documents for token in document]
    builder = megatron.IndexedDatasetBuilder(f"{theirs}.bin", dtype=megatron.DType.optimal_dtype(vocab))
    builder.add_document(torch.tensor(joined), [len(d) for d in documents])
    builder.finalize(f"{theirs}.idx")
    assert read_index(theirs).documents.tolist() == [0, 4]
    assert open_tokens(theirs).tolist() == joined


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        ("idx", lambda b: b"NOTMEGATR" + b[9:], "not a Megatron index"),
        ("idx", lambda b: b[:9] + b"\x02" + b[10:], "version 2"),
        ("idx", lambda b: b[:17] + b"\x05" + b[18:], "token type 5"),
        ("idx", lambda b: b[:-1], "cut short"),
        ("idx", lambda b: b + b"\0" * 3, "longer"),
        ("idx", lambda b: b[:34] + b"\x04" + b[35:], "does not fit"),
        ("idx", lambda b: b[:-8] + b"\x07" + b[-7:], "does not fit"),
        ("bin", lambda b: b[:-2], "does not fit"),
    ],
)
def test_damage_is_reported(tmp_path: Path, suffix: str, change, message: str) -> None:
    prefix = write(tmp_path, [[1, 2, 3], [4]])
    file = Path(f"{prefix}.{suffix}")
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ElasticError, match=message):
        read_index(prefix)


def test_missing_files_are_named(tmp_path: Path) -> None:
    prefix = write(tmp_path, [[1]])
    Path(f"{prefix}.bin").unlink()
    with pytest.raises(ElasticError, match=r"x\.bin: no such file"):
        open_tokens(prefix)


@pytest.mark.parametrize("name", ["/cluster/text.bin", "text"])
def test_a_file_is_no_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("one two")
    write_indexed(tmp_path / "pair", [np.arange(3)], 512)
    with pytest.raises(ElasticError, match=f"^data: '{name}' "):
        check_prefix("data", name)
    for prefix in ("pair", "/cluster/v1.2", str(tmp_path / "pair")):
        check_prefix("data", prefix)


@pytest.mark.parametrize(("vocab", "token"), [(1000, 1000), (70_000, -1)])
def test_a_token_outside_the_vocabulary_is_reported(tmp_path: Path, vocab: int, token: int) -> None:
    prefix = write(tmp_path, [[1, 2, 3], [vocab - 1]], vocab)
    assert open_tokens(prefix, vocab).tolist() == [1, 2, 3, vocab - 1]
    tokens = np.memmap(f"{prefix}.bin", dtype=token_dtype(vocab), mode="r+")
    tokens[2] = token
    with pytest.raises(ElasticError, match=rf"x\.bin: {token} "):
        open_tokens(prefix, vocab)
    assert open_tokens(prefix)[2] == token

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Our reader and writer against the safetensors library, and against headers that lie."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.dtypes import ITEMSIZE, word
from nemo_elastic.formats.hf.reading import open_shard
from nemo_elastic.formats.hf.writing import SINGLE, write_weights
from nemo_elastic.formats.tensor import Tensor
from tests.slicing.helpers import scratch

DTYPES = {
    torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool,
}  # fmt: skip


def write(folder: Path, tensors: dict[str, Tensor], progress=None) -> Path:
    """Write one file; give its path."""
    folder.mkdir(exist_ok=True)
    write_weights({folder: tensors}, progress=progress)
    return folder / SINGLE


@st.composite
def raws(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(sorted(ITEMSIZE)))
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=1, max_size=3)))
    seed = draw(st.integers(0, 99))
    bits = np.random.default_rng(seed).integers(0, 2 ** (8 * ITEMSIZE[dtype]), shape, dtype=np.uint64)
    words = bits.astype(word(dtype))
    return Tensor.of_words(dtype, words & np.array(1, words.dtype) if dtype == "BOOL" else words)


@settings(max_examples=60)
@given(st.dictionaries(st.text("ab.é", min_size=1), raws(), max_size=5))
def test_what_is_written_is_read_back(tensors):
    with scratch() as place:
        read = open_shard(write(place, tensors))
        assert set(read) == set(tensors)
        for name, raw in tensors.items():
            assert read[name].dtype == raw.dtype and np.array_equal(read[name].words, raw.words)
        assert [ITEMSIZE[r.dtype] for r in read.values()] == sorted(ITEMSIZE[r.dtype] for r in read.values())[::-1]


def test_the_library_reads_what_we_write_and_we_what_it_writes(tmp_path):
    state = {
        f"t{i}": torch.from_numpy(np.random.default_rng(i).standard_normal((3, 5))).to(dtype)
        for i, dtype in enumerate(sorted(DTYPES, key=str))
    }
    safetensors.torch.save_file(state, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    theirs = open_shard(tmp_path / "theirs.safetensors")
    path = write(tmp_path, {n: Tensor.of(t) for n, t in state.items()})
    ours = safetensors.torch.load_file(path)
    for name, tensor in state.items():
        assert theirs[name].torch().dtype == ours[name].dtype == tensor.dtype
        for other in (theirs[name].torch(), theirs[name].torch(copy=False), ours[name]):
            assert torch.equal(other.contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8)), name
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_equal_tensors_make_equal_files(tmp_path):
    tensors = {"b": Tensor.of(np.arange(3.0)), "a": Tensor.of(np.arange(5, dtype=np.float32))}
    one, two = write(tmp_path / "1", tensors), write(tmp_path / "2", dict(reversed(tensors.items())))
    assert one.read_bytes() == two.read_bytes() and int.from_bytes(one.read_bytes()[:8], "little") % 8 == 0
    with pytest.raises(ValueError, match="read-only"):
        open_shard(one)["a"].words[0] = 0
    open_shard(one)["a"].torch().zero_()  # a copy by default
    assert open_shard(one)["a"].words.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_values_without_torch_are_torchs(dtype):
    short = dtype.itemsize == 1
    tensor = torch.arange(256 if short else 65536).to(torch.uint8 if short else torch.uint16).view(dtype)
    np.testing.assert_array_equal(Tensor.of(tensor).numpy(), tensor.float().numpy())


def test_arrays_and_tensors_as_words():
    assert Tensor.of(np.zeros((2, 3), ">f4")).dtype == "F32"
    big = np.arange(4, dtype=">i2")
    np.testing.assert_array_equal(Tensor.of(big).numpy(), big)
    assert Tensor.of(torch.zeros(2, dtype=torch.bfloat16)).dtype == "BF16"
    strided = torch.arange(6.0).view(2, 3).T
    np.testing.assert_array_equal(Tensor.of(strided).numpy(), strided.numpy())
    for value in (np.zeros(2, np.complex64), torch.zeros(2, dtype=torch.complex64)):
        with pytest.raises(ElasticError, match=r"dtype .*complex64 cannot be stored"):
            Tensor.of(value)
    with pytest.raises(ElasticError, match="F8_E8M0"):
        Tensor.of_words("F8_E8M0", np.zeros(2, np.uint8)).numpy()


def file_of(header, data=b"", length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(start, stop, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


WHOLE = "not a whole safetensors file"


LIES = [
    (b"\x01\x00", WHOLE),
    (file_of({}, length=2**62), WHOLE),
    (file_of(b'{"a": 1, "a": 2}'), WHOLE),
    (file_of({"a": tensor(0, 8, (-2,))}, bytes(8)), WHOLE),
    (file_of({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)), WHOLE),
    (file_of({"a": tensor(0, 8)}, bytes(9)), WHOLE),
    (file_of({"a": tensor(0, 8, (16,), "F4")}, bytes(8)), "'a' has dtype 'F4'; allowed are BOOL"),
    (file_of({"a": tensor(0, 4, (1,) * 33)}, bytes(4)), "'a' has shape .*, which numpy cannot hold"),
    (file_of({"a": tensor(0, 0, (0, 2**63))}), r"'a' has shape .0, 9223372036854775808., which numpy"),
]


@pytest.mark.parametrize(("content", "message"), LIES, ids=range(len(LIES)))
def test_a_file_that_lies_is_one_line(content, message, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ElasticError, match=message) as caught:
        open_shard(path)
    assert caught.value.message.startswith(str(path)) and "\n" not in caught.value.message


def test_the_most_that_numpy_holds_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    shapes = {"a": (1,) * 32, "b": (0, 2**59), "c": (0,) * 32}
    header = {name: tensor(0 if name == "a" else 4, 4, shape) for name, shape in shapes.items()}
    path.write_bytes(file_of(header, bytes(4)))
    assert {name: raw.shape for name, raw in open_shard(path).items()} == shapes

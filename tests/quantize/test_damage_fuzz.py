# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Any damage to a folder in low precision, drawn by hypothesis: one clear line, or the same weights as before."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.dtypes import ITEMSIZE
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.schemes import LAYOUTS
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.runtime import load_family
from tests.hostile import read_or_refused
from tests.slicing.test_faults_fuzz import never_a_traceback

from .damage import Tensors, low, with_tensors

FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
WHICH = [f"{p}-{x}" for p in ("nvfp4", "fp8") for x in LAYOUTS]
DTYPES = sorted(set(ITEMSIZE) - {"F8_E8M0"})


@pytest.fixture(scope="module")
def whole(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    place = tmp_path_factory.mktemp("whole")
    return {which: open_source(low(dense, place / which, *which.split("-", 1))) for which in WHICH}


@contextlib.contextmanager
def room() -> Iterator[Path]:
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # flushing to a disk would take the time
    with tempfile.TemporaryDirectory(dir=memory) as place:
        yield Path(place)


def values(source: Checkpoint, but: frozenset[str] = frozenset()) -> dict[str, torch.Tensor]:
    """Of all but those of some modules."""
    names = [name for name in source.names if name.rpartition(".")[0] not in but]
    return {name: source.torch(name, torch.float32).float() for name in names}


@settings(FUZZ, max_examples=50)
@given(st.sampled_from(WHICH), st.data())
def test_any_tensor_may_be_wrong(whole: dict[str, Checkpoint], which: str, data: st.DataObject) -> None:
    """It has other words, another dtype or shape, another name, or is gone."""
    changed: list[str] = []

    def change(tensors: Tensors) -> None:
        for _ in range(data.draw(st.integers(1, 2))):
            name = data.draw(st.sampled_from(sorted(n for n in tensors if ".1.mixer" in n or ".0.mixer" in n)))
            raw = tensors[name]
            what = data.draw(st.sampled_from(["words", "words", "dtype", "shape", "name", "gone", "other"]))
            changed.append(name)
            if what == "words" and raw.words.size:
                words = raw.words.copy().reshape(-1).view(np.uint8)
                for _ in range(data.draw(st.integers(1, 4))):
                    words[data.draw(st.integers(0, words.size - 1))] = data.draw(
                        st.sampled_from([0, 0x7F, 0x80, 0xFF, 1])
                    )
                tensors[name] = Tensor.of_words(raw.dtype, words.view(raw.words.dtype).reshape(raw.shape))
            elif what == "dtype":
                tensors[name] = Tensor.of_words(
                    data.draw(st.sampled_from([d for d in DTYPES if ITEMSIZE[d] == raw.words.itemsize])), raw.words
                )
            elif what == "shape":
                shape = data.draw(
                    st.sampled_from([(raw.words.size,), (1, *raw.shape), raw.shape[::-1], (*raw.shape, 1)])
                )
                tensors[name] = Tensor.of_words(raw.dtype, raw.words.reshape(shape))
            elif what == "other":
                tensors[name] = tensors[data.draw(st.sampled_from(sorted(tensors)))]
            else:
                del tensors[name]
                if what == "name":
                    last = data.draw(st.sampled_from(["weight_scale_inv", "k_scale", "weight", "weight_scale", "x"]))
                    tensors[name.rpartition(".")[0] + "." + last] = raw

    with room() as place:
        folder = with_tensors(whole[which].folder, place / "folder", change)
        opened = read_or_refused(lambda: open_source(folder))
        if opened is not None:
            modules = frozenset(name.rpartition(".")[0] for name in changed)
            theirs, ours = values(opened, modules), values(whole[which], modules)
            assert all(torch.equal(theirs[n], ours[n]) for n in ours)
            if read_or_refused(lambda: load_family(folder)) is not None:  # what runs has numbers alone
                assert all(bool(t.isfinite().all()) for t in values(opened).values())
        never_a_traceback(folder)

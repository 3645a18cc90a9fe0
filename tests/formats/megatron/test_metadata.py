# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What `.metadata` says has to be possible before anything is read; where the weights of a checkpoint are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata

from nemo_elastic.formats.megatron.metadata import ByteRange, Piece, _covered, last_iteration
from nemo_elastic.formats.megatron.stored import Stored
from tests.hosts.nemo.poison import DESCRIBED, change, metadata_of, refused

NAME = "embedding.word_embeddings.weight"
FULL = "module." + NAME


def test_the_tracker_of_a_run_is_a_small_file(tmp_path: Path) -> None:
    tracker = tmp_path / "latest_checkpointed_iteration.txt"
    tracker.write_text("1" * 5000)
    refused(f"{tracker.name}: larger than 1 KiB", lambda: last_iteration(tmp_path))


def test_metadata_that_is_too_long_or_gone_is_reported(checkpoint: Path) -> None:
    os.truncate(checkpoint / "weights" / ".metadata", 2**28 + 1)
    refused("metadata: larger than", lambda: Stored(checkpoint))
    (checkpoint / "weights" / ".metadata").unlink()
    refused("metadata: is missing", lambda: Stored(checkpoint))


def places(metadata: Metadata, name: str = FULL) -> Any:
    (info,) = (s for i, s in metadata.storage_data.items() if i.fqn == name)
    return info


def entry(metadata: Metadata) -> Any:
    return metadata.state_dict_metadata[FULL]


def double(metadata: Metadata) -> None:
    entry(metadata).chunks = entry(metadata).chunks * 2


def forget(metadata: Metadata) -> None:
    (index,) = (i for i in metadata.storage_data if i.fqn == FULL)
    del metadata.storage_data[index]
    del metadata.state_dict_metadata["module.output_layer._extra_state"]


LIES: dict[str, tuple[Callable[[Metadata], Any], str]] = {
    "a file from the root": (
        lambda m: setattr(places(m), "relative_path", "/etc/passwd"),
        "names the file '/etc/passwd'",
    ),
    "a piece twice": (double, "do not make up its shape"),
    "a piece outside": (lambda m: setattr(entry(m), "size", torch.Size([2, 64])), "has a piece outside of it"),
    "more than its bytes": (lambda m: setattr(places(m), "length", 500), "has 500 bytes"),
    "a place before the file": (lambda m: setattr(places(m), "offset", -1), "numbers of entries or bytes"),
    "no place": (forget, "it does not say where"),
    "another form": (lambda m: setattr(places(m), "transform_descriptors", ["zstd"]), "stored in torch's format"),
    "a layout": (
        lambda m: setattr(entry(m).properties, "layout", torch.sparse_coo),
        "is no dense tensor",
    ),
    "nine dimensions": (lambda m: setattr(entry(m), "size", torch.Size([1] * 9)), "numbers of entries"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_before_anything_is_read(checkpoint: Path, lie: str) -> None:
    edit, match = LIES[lie]
    change(checkpoint, edit)
    refused(f"weights/.metadata: not a checkpoint's metadata .*{match}", lambda: Stored(checkpoint))


def test_what_lies_beyond_the_end_of_a_file_is_refused_before_there_is_room_for_it(checkpoint: Path) -> None:
    def enlarge(metadata: Metadata) -> None:
        entry(metadata).size = entry(metadata).chunks[0].sizes = torch.Size([2**30, 2**20])
        places(metadata).length = 2**52

    change(checkpoint, enlarge)
    refused("distcp: has .* of .* bytes: the file is cut off", lambda: Stored(checkpoint).read(NAME))


def test_another_tensor_than_said_is_refused(checkpoint: Path) -> None:
    def swap(metadata: Metadata) -> None:
        other = places(metadata, "module.output_layer.weight")
        mine = places(metadata)
        other.offset, other.length, mine.offset, mine.length = mine.offset, mine.length, other.offset, other.length

    stored = Stored(change(checkpoint, swap))
    assert torch.equal(stored.read("output_layer.weight"), Stored(change(checkpoint, swap)).read(NAME))
    change(checkpoint, lambda m: setattr(entry(m).properties, "dtype", torch.int32))
    refused(f"{NAME} cannot be read .*torch.int32, as is said", lambda: Stored(checkpoint).read(NAME))


def test_what_is_described_undamaged_is_taken(checkpoint: Path) -> None:
    """So that the random damage of tests/test_fuzz_readers.py begins at something whole."""
    (checkpoint / "weights" / ".metadata").write_bytes(metadata_of(DESCRIBED))
    assert Stored(checkpoint).sizes == {"a": (4, 3)}


@pytest.mark.parametrize(
    ("size", "boxes", "whole"),
    [
        ((), [((), ())], True),
        ((), [], False),
        ((4,), [((0,), (2,)), ((2,), (2,))], True),
        ((4,), [((0,), (2,)), ((3,), (1,))], False),
        # five boxes around a middle: no straight cut parts them
        ((3, 3), [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((2, 1), (1, 2)), ((1, 0), (2, 1)), ((1, 1), (1, 1))], True),
        # as much as is needed, and twice in the same place
        ((2, 2), [((0, 0), (1, 2)), ((0, 0), (1, 2))], False),
    ],
)
def test_boxes_fill_a_box_exactly(size: Any, boxes: Any, whole: bool) -> None:
    assert _covered(size, tuple(Piece(o, s, ByteRange("a", 0, 1)) for o, s in boxes)) is whole

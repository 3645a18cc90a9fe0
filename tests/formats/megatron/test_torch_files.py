# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint may hold before anybody acts on it."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata

from nemo_elastic.formats.megatron.metadata import read_metadata
from nemo_elastic.formats.megatron.stored import open_folder
from nemo_elastic.formats.megatron.torch_files import check_harmless
from tests.hosts.nemo.poison import change, refused, with_template

from .test_no_code_runs import saved

NAME = "embedding.word_embeddings.weight"
FULL = "module." + NAME
NAME_HF = "backbone.embeddings.weight"


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def with_content(checkpoint: Path, content: bytes) -> None:
    """Let the object among the weights, an extra state, be these bytes."""
    (place,) = read_metadata(checkpoint / "weights").objects.values()
    with (checkpoint / "weights" / place.file).open("ab") as file:
        begin = file.tell()
        file.write(content)

    def point(metadata: Metadata) -> None:
        (info,) = (s for i, s in metadata.storage_data.items() if i.fqn.endswith("_extra_state/shard_0_1"))
        info.offset, info.length = begin, len(content)

    change(checkpoint, point)


# ------------------------------------------------------------------ objects


def test_what_nemo_writes_is_harmless(checkpoint: Path) -> None:
    held = check_harmless(checkpoint)
    assert FULL in held.tensors and "module.decoder.layers.0.mixer.in_proj._extra_state/shard_0_1" in held.objects
    assert check_harmless(checkpoint / "weights").ends == held.ends


def test_common_may_name_values_alone(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "weights" / "common.pt"
    torch.save({"a": Runs(tmp_path / "ran")}, path)
    refused(
        r"weights/common.pt: is not a file that NeMo writes \(it names posix.mkdir\)",
        lambda: check_harmless(checkpoint),
    )
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").is_dir(), "so the test can fail"


@pytest.mark.parametrize("name", ["common.pt", ".metadata"])
def test_what_has_changed_is_looked_at_again(checkpoint: Path, tmp_path: Path, name: str) -> None:
    """Looks are remembered; a file of the same size with the old times is none that was looked at."""
    path = checkpoint / "weights" / name
    check_harmless(checkpoint)
    before, length = path.stat(), path.stat().st_size
    new = pickle.dumps(Runs(tmp_path / "ran"))
    path.write_bytes(new.ljust(length, b"."))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (length, before.st_mtime_ns)
    refused(name, lambda: check_harmless(checkpoint))


@pytest.mark.parametrize("only_weights", [True, False])
def test_common_is_looked_at_whatever_the_metadata_names(checkpoint: Path, tmp_path: Path, only_weights: bool) -> None:
    """megatron-core reads the file wherever there is one."""
    change(checkpoint, with_object("common_state/shard_0_1"))
    assert "common_state/shard_0_1" in check_harmless(checkpoint, only_weights).objects
    torch.save({"a": Runs(tmp_path / "ran")}, checkpoint / "weights" / "common.pt")
    refused(r"common.pt: .*\(it names posix.mkdir\)", lambda: check_harmless(checkpoint, only_weights))


def with_object(name: str) -> Callable[[Metadata], None]:
    """Let an object of a checkpoint have another name."""

    def edit(metadata: Metadata) -> None:
        old = next(i for i in metadata.storage_data if i.fqn.endswith("shard_0_1"))
        metadata.storage_data[type(old)(name)] = metadata.storage_data.pop(old)
        metadata.state_dict_metadata[name] = metadata.state_dict_metadata.pop(old.fqn)

    return edit


def test_without_common_it_is_the_object_that_todays_megatron_core_reads(checkpoint: Path) -> None:
    (checkpoint / "weights" / "common.pt").unlink()
    refused("common.pt: cannot be read", lambda: check_harmless(checkpoint, only_weights=True))
    change(checkpoint, with_object("common_state/shard_0_1"))
    check_harmless(checkpoint, only_weights=True)
    refused("common.pt: cannot be read", lambda: check_harmless(checkpoint))  # NeMo's megatron-core reads no other


def test_where_a_run_of_bridges_stands_is_looked_at(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "weights" / "train_state.pt"
    torch.save({"step": torch.tensor(3)}, path)
    check_harmless(checkpoint, only_weights=True)
    torch.save({"step": Runs(tmp_path / "ran")}, path)
    refused("train_state.pt: is not a file that NeMo writes", lambda: check_harmless(checkpoint, only_weights=True))


def test_objects_among_the_weights_may_name_values_alone(checkpoint: Path, tmp_path: Path) -> None:
    """megatron-core gives them to torch.load without its guard."""
    with_content(checkpoint, saved(Runs(tmp_path / "ran")))
    refused(
        r"_extra_state/shard_0_1: is not a file that NeMo writes \(it names posix.mkdir\)",
        lambda: check_harmless(checkpoint),
    )
    assert not (tmp_path / "ran").exists()


#: as releases of TransformerEngine save what they unpickle
STATES: dict[str, Callable[[bytes], Any]] = {
    "bytes": io.BytesIO,
    "tensor": lambda content: torch.frombuffer(bytearray(content), dtype=torch.uint8),
}


@pytest.mark.parametrize("kind", STATES)
def test_a_state_that_transformer_engine_would_unpickle_is_refused(checkpoint: Path, kind: str) -> None:
    """It may be an object, or lie in what is not sharded, which megatron-core merges into the rest."""
    common, state = checkpoint / "weights" / "common.pt", STATES[kind](pickle.dumps(1))
    torch.save({"state_dict": {"a._extra_state": torch.empty(0), "b._extra_state": None, "rng": state}}, common)
    check_harmless(checkpoint)
    torch.save({"state_dict": [{"a._extra_state": (state,)}]}, common)
    refused("common.pt: has a state of FP8", lambda: check_harmless(checkpoint))
    check_harmless(checkpoint, extra_states=False)
    torch.save({}, common)
    with_content(checkpoint, saved(state))
    refused("_extra_state/shard_0_1: has a state of FP8", lambda: check_harmless(checkpoint))
    check_harmless(checkpoint, extra_states=False)


#: a value, then twice that: 41 times
DOUBLED = b"K\x01" + b"2\x86" * 41
INDEX = b"ctorch.distributed.checkpoint.metadata\nMetadataIndex\n"
LARGE: dict[str, tuple[bytes, str]] = {
    "the hash of a key": (b"}" + DOUBLED + b"Ns.", "more than 4096 others"),
    "a key in a list of opcodes": (b"}(" + DOUBLED + b"q\x00h\x00tNs.", "more than 4096 others"),
    "the memo": (b"Nr\x00\x00\x00\x13.", "its memo is larger"),
}


@pytest.mark.parametrize("kind", LARGE)
def test_pickles_that_take_more_than_their_bytes_are_refused(checkpoint: Path, kind: str) -> None:
    (content, words), weights = LARGE[kind], checkpoint / "weights"
    with zipfile.ZipFile(weights / "common.pt", "w") as archive:
        archive.writestr("archive/DATA.PKL", b"\x80\x02" + content)
        archive.writestr("archive/version", "3")
    refused(rf"common.pt: .*{words}", lambda: check_harmless(checkpoint))
    (weights / ".metadata").write_bytes(b"\x80\x02" + content)
    refused(rf"\.metadata: .*{words}", lambda: check_harmless(checkpoint))


def test_a_key_of_the_metadata_is_names_and_numbers(checkpoint: Path) -> None:
    """megatron-core's reader hashes what is in one, whatever that holds."""
    (checkpoint / "weights" / ".metadata").write_bytes(b"\x80\x02}" + INDEX + INDEX + b")R\x85RNs.")
    refused(r"\.metadata: .*more than names and numbers", lambda: check_harmless(checkpoint))


def test_what_unpacks_to_more_than_its_bytes_is_refused(checkpoint: Path) -> None:
    path = checkpoint / "weights" / "common.pt"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/9", bytes(2**16))
    refused("common.pt: .*it unpacks to more than its", lambda: check_harmless(checkpoint))


def test_what_nemo_would_run_or_follow_is_refused(checkpoint: Path) -> None:
    (checkpoint / "weights" / "modelopt_state").mkdir()
    refused("modelopt_state' is not allowed", lambda: check_harmless(checkpoint))
    check_harmless(checkpoint, only_weights=True)  # as megatron-core alone reads it, a teacher of ModelOpt's


@pytest.mark.nemo
def test_megatron_core_is_given_nothing_that_was_not_looked_at(checkpoint: Path, tmp_path: Path) -> None:
    from nemo_elastic.megatron.models import load_model_weights

    path = checkpoint / "weights" / ".metadata"
    path.write_bytes(with_template(path.read_bytes(), tmp_path / "ran"))
    refused("it names torch.distributed.checkpoint._fsspec", lambda: load_model_weights(None, checkpoint))


@pytest.mark.parametrize("name", [".metadata", "common.pt", "metadata.json", "__0_0.distcp"])
@pytest.mark.parametrize("how", ["cut", "pipe"])
def test_a_file_that_is_missing_or_cut_is_named(checkpoint: Path, name: str, how: str) -> None:
    path = checkpoint / "weights" / name
    content = path.read_bytes()
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(content[: len(content) * 3 // 4])
    gone = name == "metadata.json" and how == "pipe"  # what makes a folder a checkpoint
    refused("a NeMo checkpoint folder" if gone else f"weights/{name}: ", lambda: check_harmless(checkpoint))


def test_a_checkpoint_of_links_is_read(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "weights").rename(tmp_path / "elsewhere")
    (checkpoint / "weights").symlink_to(tmp_path / "elsewhere")
    for number, path in enumerate(sorted(p for p in (tmp_path / "elsewhere").iterdir() if p.is_file())):
        path.rename(tmp_path / str(number))
        path.symlink_to(tmp_path / str(number))
    assert len(open_folder(checkpoint).tensors[NAME_HF].words) and check_harmless(checkpoint)

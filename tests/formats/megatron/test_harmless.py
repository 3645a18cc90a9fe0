# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint may hold before anybody acts on it: `harmless` and `metadata`."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path, PosixPath
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.folder import open_folder
from nemo_elastic.formats.megatron.harmless import check_harmless
from nemo_elastic.formats.megatron.metadata import ByteRange, Piece, _covered, read_metadata
from nemo_elastic.formats.megatron.stored import Stored, last_iteration
from tests.hosts.nemo.checkpoints import store
from tests.hosts.nemo.cutting import PARENT, random_tensors
from tests.hosts.nemo.poison import TOLD, change, metadata_of, with_template

NAME = "embedding.word_embeddings.weight"
FULL = "module." + NAME
NAME_HF = "backbone.embeddings.weight"


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = store(tmp_path_factory.mktemp("harmless") / "one", PARENT, PARENT.full, random_tensors(PARENT))
    torch.save({"a": torch.zeros(2), "path": PosixPath("a"), "n": [1.5, None]}, folder / "weights" / "common.pt")
    return folder


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "one"))


def refused(match: str, read: Callable[[], Any]) -> None:
    with pytest.raises(ElasticError, match=match) as caught:
        read()
    assert "\n" not in caught.value.message


def object_file(checkpoint: Path) -> Path:
    (place,) = read_metadata(checkpoint / "weights").objects.values()
    return checkpoint / "weights" / place.file


# ------------------------------------------------------------------ objects


def test_what_nemo_writes_is_harmless(checkpoint: Path) -> None:
    held = check_harmless(checkpoint)
    assert FULL in held.tensors and "module.decoder.layers.0.mixer.in_proj._extra_state/shard_0_1" in held.objects
    assert check_harmless(checkpoint / "weights").needed == held.needed


@pytest.mark.parametrize("zipped", [True, False])
def test_common_may_name_values_alone(checkpoint: Path, tmp_path: Path, zipped: bool) -> None:
    path = checkpoint / "weights" / "common.pt"
    torch.save({"a": Runs(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
    words = r"\(it names posix.mkdir\)" if zipped else "not what torch.save writes"
    refused(rf"weights/common.pt: not what NeMo writes.*{words}", lambda: check_harmless(checkpoint))
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


def test_common_may_be_no_bare_pickle(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "weights" / "common.pt").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    refused("common.pt: not what NeMo writes", lambda: check_harmless(checkpoint))


@pytest.mark.parametrize("only_weights", [True, False])
def test_common_is_looked_at_whatever_the_metadata_names(
    checkpoint: Path, tmp_path: Path, only_weights: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """megatron-core reads the file wherever there is one."""
    path = checkpoint / "weights" / "common.pt"
    for name in ("common_state/shard_0_1", "common_state/x"):
        change(checkpoint, with_object(name))
        assert name in check_harmless(checkpoint, only_weights).objects
    torch.save({"a": Runs(tmp_path / "ran")}, path)
    refused(r"common.pt: .*\(it names posix.mkdir\)", lambda: check_harmless(checkpoint, only_weights))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.load(path)
    assert (tmp_path / "ran").is_dir(), "so the test can fail"


def with_object(name: str) -> Callable[[Metadata], None]:
    """Let an object of a checkpoint have another name."""

    def edit(metadata: Metadata) -> None:
        old = next(i for i in metadata.storage_data if i.fqn.endswith("shard_0_1") or i.fqn.startswith("common_state"))
        metadata.storage_data[type(old)(name)] = metadata.storage_data.pop(old)
        metadata.state_dict_metadata[name] = metadata.state_dict_metadata.pop(old.fqn)

    return edit


def test_without_common_it_is_the_object_that_todays_megatron_core_reads(checkpoint: Path) -> None:
    (checkpoint / "weights" / "common.pt").unlink()
    change(checkpoint, with_object("common_state/x"))
    refused("common.pt: cannot be read", lambda: check_harmless(checkpoint, only_weights=True))
    change(checkpoint, with_object("common_state/shard_0_1"))
    check_harmless(checkpoint, only_weights=True)
    refused("common.pt: cannot be read", lambda: check_harmless(checkpoint))  # NeMo's megatron-core reads no other


def test_where_a_run_of_bridges_stands_is_looked_at(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "weights" / "train_state.pt"
    torch.save({"step": torch.tensor(3)}, path)
    check_harmless(checkpoint, only_weights=True)
    torch.save({"step": Runs(tmp_path / "ran")}, path)
    refused("train_state.pt: not what NeMo writes", lambda: check_harmless(checkpoint, only_weights=True))


def both(folder: Path, first: Any, second: Any) -> bytes:
    """A file that is the first to torch.load, which looks for the table of contents where the end says, and the second
    to Python's zipfile, which looks right before the end."""

    def parts(value: Any) -> tuple[bytes, bytes, bytes]:
        torch.save(value, folder / "archive")
        content = (folder / "archive").read_bytes()
        size, at = struct.unpack("<II", content[-10:-2])
        return content[:at], content[at : at + size], content[-22:]

    (records, table, end), (other_records, other_table, _) = parts(first), parts(second)
    assert len(table) == len(other_table) and len(records) >= len(other_records)
    moved = bytearray(other_table)
    position = 0
    while position < len(moved):
        name, extra, comment = struct.unpack("<HHH", moved[position + 28 : position + 34])
        (at,) = struct.unpack("<I", moved[position + 42 : position + 46])
        moved[position + 42 : position + 46] = struct.pack("<I", at + len(records) - len(other_records))
        position += 46 + name + extra + comment
    return records + table + other_records + bytes(moved) + end


@pytest.mark.parametrize("how", ["a pickle before", "two tables"])
def test_what_is_one_thing_to_us_and_another_to_torch_is_refused(checkpoint: Path, tmp_path: Path, how: str) -> None:
    path, runs = checkpoint / "weights" / "common.pt", Runs(tmp_path / "ran")
    if how == "two tables":
        path.write_bytes(both(tmp_path, [runs, "x" * 5000], [1]))
    else:
        content = path.read_bytes()
        torch.save(runs, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes() + content)
    assert zipfile.is_zipfile(path)
    words = "torch.load would find something else" if how == "two tables" else "not what torch.save writes"
    refused(f"common.pt: not what NeMo writes .*{words}", lambda: check_harmless(checkpoint))
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").is_dir(), "so the test can fail"


def test_common_may_be_no_program(checkpoint: Path) -> None:
    class Program(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.save(torch.jit.trace(Program(), torch.zeros(1)), checkpoint / "weights" / "common.pt")
    refused("common.pt: not what NeMo writes", lambda: check_harmless(checkpoint))


def test_objects_among_the_weights_may_name_values_alone(checkpoint: Path, tmp_path: Path) -> None:
    """megatron-core gives them to torch.load without its guard."""
    path = object_file(checkpoint)
    content = io.BytesIO()
    torch.save(Runs(tmp_path / "ran"), content)
    with path.open("ab") as file:
        begin = file.tell()
        file.write(content.getvalue())

    def point(metadata: Metadata) -> None:
        (info,) = (s for i, s in metadata.storage_data.items() if i.fqn.endswith("_extra_state/shard_0_1"))
        info.offset, info.length = begin, len(content.getvalue())

    change(checkpoint, point)
    refused(
        r"_extra_state/shard_0_1: not what NeMo writes \(it names posix.mkdir\)", lambda: check_harmless(checkpoint)
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["modelopt_state", "adapter_metadata.json"])
def test_what_nemo_would_run_or_follow_is_refused(checkpoint: Path, name: str) -> None:
    (checkpoint / "weights" / name).mkdir()
    refused(f"{name}' is not allowed; a checkpoint without it", lambda: check_harmless(checkpoint))
    check_harmless(checkpoint, only_weights=True)  # as megatron-core alone reads it, a teacher of ModelOpt's


def test_metadata_that_runs_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "weights" / ".metadata"
    path.write_bytes(with_template(path.read_bytes(), tmp_path / "ran"))
    refused("it names torch.distributed.checkpoint._fsspec", lambda: check_harmless(checkpoint))
    assert not (tmp_path / "ran").exists()


@pytest.mark.nemo
def test_megatron_core_is_given_nothing_that_was_not_looked_at(checkpoint: Path, tmp_path: Path) -> None:
    from nemo_elastic.megatron.models import load_model_weights

    path = checkpoint / "weights" / ".metadata"
    path.write_bytes(with_template(path.read_bytes(), tmp_path / "ran"))
    refused("it names torch.distributed.checkpoint._fsspec", lambda: load_model_weights(None, checkpoint))


@pytest.mark.parametrize("name", [".metadata", "common.pt", "metadata.json", "__0_0.distcp"])
@pytest.mark.parametrize("how", ["gone", "cut", "empty", "pipe"])
def test_a_file_that_is_missing_or_cut_is_named(checkpoint: Path, name: str, how: str) -> None:
    path = checkpoint / "weights" / name
    content = path.read_bytes()
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how != "gone":
        path.write_bytes(content[: len(content) * 3 // 4 if how == "cut" else 0])
    gone = name == "metadata.json" and how in ("gone", "pipe")  # what makes a folder a checkpoint
    refused("a NeMo checkpoint folder" if gone else f"weights/{name}: ", lambda: check_harmless(checkpoint))


@pytest.mark.parametrize("name", [".metadata", "common.pt", "metadata.json", "__0_0.distcp", "model.yaml"])
def test_no_file_of_a_checkpoint_is_a_link_out_of_it(checkpoint: Path, tmp_path: Path, name: str) -> None:
    path = checkpoint / ("context" if name == "model.yaml" else "weights") / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    words = f"{name}: is a link out of its folder, which is not followed"
    if name != "model.yaml":
        refused(words, lambda: check_harmless(checkpoint))
    if name != "common.pt":
        refused(words.removeprefix("__0_0.distcp: "), lambda: open_folder(checkpoint).tensors[NAME_HF].words)


@pytest.mark.parametrize("name", ["context", "weights"])
def test_no_folder_of_a_checkpoint_is_a_link_out_of_it(checkpoint: Path, tmp_path: Path, name: str) -> None:
    (checkpoint / name).rename(tmp_path / "elsewhere")
    (checkpoint / name).symlink_to(tmp_path / "elsewhere")
    refused(f"{name}: is a link out of its folder", lambda: open_folder(checkpoint))


def test_a_checkpoint_in_the_hubs_cache_is_links_to_its_blobs(checkpoint: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in checkpoint.rglob("*") if p.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(f"../../../../blobs/{number}")
    snapshot = Path(shutil.move(checkpoint, tmp_path / "models--a--b" / "snapshots" / "0123" / "one"))
    assert len(open_folder(snapshot).tensors[NAME_HF].words) and check_harmless(snapshot)


@pytest.mark.parametrize("how", ["pipe", "device", "long"])
def test_the_tracker_of_a_run_is_a_small_file(tmp_path: Path, how: str) -> None:
    tracker = tmp_path / "latest_checkpointed_iteration.txt"
    if how == "pipe":
        os.mkfifo(tracker)
    elif how == "device":
        tracker.symlink_to("/dev/zero")
    else:
        tracker.write_text("1" * 5000)
    words = {"pipe": "is a pipe", "device": "is a link out of its folder", "long": "larger than 1 KiB"}[how]
    refused(f"{tracker.name}: {words}", lambda: last_iteration(tmp_path))


# ------------------------------------------------------------------ what metadata says


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
    "a file above": (lambda m: setattr(places(m), "relative_path", "../a"), "which is not in the same folder"),
    "the folder": (lambda m: setattr(places(m), "relative_path", ".."), "which is not in the same folder"),
    "no name": (lambda m: setattr(places(m), "relative_path", 7), "the state of a _StorageInfo"),
    "no pieces": (lambda m: setattr(entry(m), "chunks", []), "do not make up its shape"),
    "a piece twice": (double, "do not make up its shape"),
    "a piece that is too small": (
        lambda m: setattr(entry(m).chunks[0], "sizes", torch.Size([2, 64])),
        "do not make up",
    ),
    "a piece outside": (lambda m: setattr(entry(m), "size", torch.Size([2, 64])), "has a piece outside of it"),
    "a piece of other dimensions": (lambda m: setattr(entry(m), "size", torch.Size([2**12])), "has a piece outside"),
    "more than its bytes": (lambda m: setattr(places(m), "length", 500), "does not fit into 500 bytes"),
    "fewer bytes than any": (lambda m: setattr(places(m), "length", 0), "is said to take 0 bytes"),
    "a place before the file": (lambda m: setattr(places(m), "offset", -1), "a number of bytes"),
    "no place": (forget, "it does not say where"),
    "no places": (lambda m: setattr(m, "storage_data", None), "the state of a Metadata"),
    "another form": (lambda m: setattr(places(m), "transform_descriptors", ["zstd"]), "in another form"),
    "a layout": (
        lambda m: setattr(entry(m).properties, "layout", torch.sparse_coo),
        "it calls torch.serialization._get_layout",
    ),
    "seven dimensions": (lambda m: setattr(entry(m), "size", torch.Size([1] * 7)), "it calls torch.Size"),
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
    refused("distcp: has .* bytes, .* are said to be in it", lambda: Stored(checkpoint).read(NAME))


def test_many_tensors_in_the_same_bytes_are_refused(checkpoint: Path) -> None:
    """A small file would fill the memory."""
    told = {"dtype": "float32", "size": [64, 2**12], "chunks": [[[i, 0], [1, 2**12]] for i in range(64)],
            "places": [["module.a", [i, 0], "__0_0.distcp", 0, 2**17] for i in range(64)]}  # fmt: skip
    (checkpoint / "weights" / ".metadata").write_bytes(metadata_of(told))
    refused("distcp: has .* bytes, 8388608 are said to be in it; it is cut off", lambda: Stored(checkpoint).read("a"))


def test_another_tensor_than_said_is_refused(checkpoint: Path) -> None:
    def swap(metadata: Metadata) -> None:
        other = places(metadata, "module.output_layer.weight")
        mine = places(metadata)
        other.offset, other.length, mine.offset, mine.length = mine.offset, mine.length, other.offset, other.length

    stored = Stored(change(checkpoint, swap))
    assert torch.equal(stored.read("output_layer.weight")[0], Stored(change(checkpoint, swap)).read(NAME)[0])
    change(checkpoint, lambda m: setattr(entry(m).properties, "dtype", torch.int32))
    refused(f"{NAME} cannot be read .*torch.int32, as is said", lambda: Stored(checkpoint).read(NAME))


def test_what_is_told_undamaged_is_taken(checkpoint: Path) -> None:
    """So that the random damage of tests/test_fuzz_readers.py begins at something whole."""
    (checkpoint / "weights" / ".metadata").write_bytes(metadata_of(TOLD))
    assert Stored(checkpoint).sizes == {"a": (4, 3)}


@pytest.mark.parametrize(
    ("size", "boxes", "whole"),
    [
        ((), [((), ())], True),
        ((), [], False),
        ((0, 4), [], True),
        ((4,), [((0,), (2,)), ((2,), (2,))], True),
        ((4,), [((0,), (2,)), ((1,), (2,)), ((3,), (1,))], False),
        ((4,), [((0,), (2,)), ((3,), (1,))], False),
        ((4, 4), [((0, 0), (2, 4)), ((2, 0), (2, 1)), ((2, 1), (2, 3))], True),
        # five boxes around a middle: no straight cut parts them
        ((3, 3), [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((2, 1), (1, 2)), ((1, 0), (2, 1)), ((1, 1), (1, 1))], True),
        ((3, 3), [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((2, 1), (1, 2)), ((1, 0), (2, 1))], False),
        # as much as is needed, and twice in the same place
        ((2, 2), [((0, 0), (1, 2)), ((0, 0), (1, 2))], False),
    ],
)
def test_boxes_fill_a_box_exactly(size: Any, boxes: Any, whole: bool) -> None:
    assert _covered(size, tuple(Piece(o, s, ByteRange("a", 0, 1)) for o, s in boxes)) is whole

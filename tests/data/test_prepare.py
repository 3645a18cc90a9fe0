# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Texts and conversations by a tokenizer of 131,072 entries: what is written, and what is left out."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from nemo_elastic.data import encoded
from nemo_elastic.data import prepare as prepared
from nemo_elastic.data.encoded import end_of
from nemo_elastic.data.folder import ChatFolder, DataFolder
from nemo_elastic.data.packing import pack, packed_rows
from nemo_elastic.data.prepare import prepare
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.tokenizer import FamilyTokenizer
from tests.data.large import VOCAB, asked, sums, write_gap, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("large") / "tokenizer")


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def texts(place: Path, count: int = 40) -> Path:
    """Texts as JSONL, some of them long."""
    words = "def f(x): return x + 12  # naïve, 日本語, 😀\n"
    rows = (json.dumps({"text": f"{i} {words * (1 + i % 5)}"}, ensure_ascii=False) for i in range(count))
    path = place / "texts.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_texts_become_a_data_folder_with_tokens_of_four_bytes(tokenizer: Path, tmp_path: Path) -> None:
    path = texts(tmp_path)
    folder = prepare(tmp_path / "out", [path], tokenizer)
    assert isinstance(folder, DataFolder) and folder == DataFolder.open(tmp_path / "out")
    assert folder.vocab_size == VOCAB and folder.tokens("train").dtype == np.int32
    assert folder.tokens("train").max() > 2**16 and folder.end_id == 1
    opened = FamilyTokenizer.read(tokenizer)
    result = {opened.decode(ids[:-1]) for half in ("train", "val") for ids in folder.documents(half)}
    assert result == {json.loads(line)["text"] for line in path.read_text().splitlines()}
    assert all(ids[-1] == 1 for half in ("train", "val") for ids in folder.documents(half))
    assert folder.available("train_long") == "train" and folder.prefix("train_long") == folder.prefix("train")


def test_a_document_is_a_whole_file_and_its_content_decides_the_split(tokenizer: Path, tmp_path: Path) -> None:
    """Also of few files: a long stage reads long documents. Copies under other names are on the same side."""
    texts = [f"{i} {'def f(x): return x + 12 ' * 200}" for i in range(6)]
    sides = []
    for name in ("one", "two/deep"):
        (tmp_path / name).mkdir(parents=True)
        for i, text in enumerate(texts):
            (tmp_path / name / (f"{i}.txt" if name == "one" else f"{9 - i}.md")).write_text(text)
    (tmp_path / "all.jsonl").write_text("\n" + "".join(json.dumps({"text": text}) + "\n" for text in texts[::-1]))
    opened = FamilyTokenizer.read(tokenizer)
    for source in ("one", "two", "all.jsonl"):
        folder = prepare(tmp_path / f"{source} out", [tmp_path / source], tokenizer)
        sides.append([{opened.decode(ids[:-1]) for ids in folder.documents(half)} for half in ("train", "val")])
    assert sides[0][0] | sides[0][1] == {*texts} and sides[0][1] and sides == sides[:1] * 3


@pytest.mark.parametrize(("most", "low", "high"), [(2**26, 0.05, 0.07), (2**12, 0.005, 0.03)])
def test_six_in_a_hundred_are_held_out_up_to_some_bytes(
    most: int, low: float, high: float, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepared._HELD_OUT_BYTES == 2**26
    monkeypatch.setattr(prepared, "_HELD_OUT_BYTES", most)
    for name, rows in (
        ("texts", [f'{{"text": "{i} words and words"}}' for i in range(6000)]),
        ("chats", [sums(3000)]),
    ):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(rows))
        folder = prepare(tmp_path / name, [path], tokenizer)
        if isinstance(folder, ChatFolder):
            counts = folder.conversations
        else:
            counts = {split: info.documents for split, info in folder.splits.items()}
        assert low < counts["val"] / sum(counts.values()) < high


def test_the_largest_id_decides_how_tokens_are_stored(small: DataFolder, tmp_path: Path) -> None:
    """There may be fewer tokens than it says."""
    place = write_gap(tmp_path / "tokenizer", small.tokenizer_dir)
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "near <far>"}\n' * 40)
    folder = prepare(tmp_path / "out", [path], place)
    assert folder.vocab_size == 70_001 and folder.tokens("train").max() == folder.tokens("val").max() == 70_000
    path.write_text('{"input": "near", "output": "<far>"}\n' * 40)
    chats = prepare(tmp_path / "chats", [path], place)
    assert chats.vocab_size == 70_001 and 70_000 in loaded(chats, "training")[0]["input_ids"]


def test_the_end_of_a_text_is_named_in_the_tokenizers_settings(tmp_path: Path) -> None:
    place = write_tokenizer(tmp_path / "t")
    settings = place / "tokenizer_config.json"
    for value, expected in (("<eos>", 1), ({"content": "<pad>"}, 0)):
        settings.write_text(json.dumps({"eos_token": value}))
        assert end_of(FamilyTokenizer.read(place), place) == expected
    settings.write_text(json.dumps({"eos_token": "</s>"}))
    with pytest.raises(ElasticError, match=r"tokenizer_config.json: "):
        prepare(tmp_path / "out", [texts(tmp_path)], place)


def test_texts_are_written_while_they_are_read_and_an_interruption_leaves_nothing(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus may be larger than memory."""
    monkeypatch.setattr(encoded, "BATCH", 1000)
    source, seen = texts(tmp_path, 400), []

    def tell(what: str, share: float) -> None:
        seen.append((share, sum(path.stat().st_size for path in tmp_path.glob(".out*/train.bin"))))
        if share > 0.8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "out", [source], tokenizer, progress=tell)
    assert seen[-1][1] > 3 * next(size for share, size in seen if share > 0.3 and size) / 2
    assert list(tmp_path.iterdir()) == [source]


# ------------------------------------------------------------------ conversations


def chats(place: Path) -> Path:
    path = place / "chats.jsonl"
    lines = [
        *sums(60).splitlines(),
        asked("What?", " "),  # 61
        asked("What?", "long " * 100),  # 62
        asked("What? " * 100, "Well."),  # 63
        json.dumps({"messages": [{"role": "user", "content": "What?"}]}),  # 64
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def loaded(folder: ChatFolder, half: str) -> list[dict[str, list[int]]]:
    if folder.packed == "npy":
        return list(np.load(folder.path / f"{half}.npy", allow_pickle=True))
    from pyarrow import parquet

    return parquet.read_table(folder.path / f"{half}.idx.parquet").to_pylist()


@pytest.mark.parametrize("packed", ["npy", "parquet"])
def test_conversations_become_packed_sequences_that_count_answers(
    packed: str, tokenizer: Path, tmp_path: Path
) -> None:
    if packed == "parquet":
        pytest.importorskip("pyarrow")
    folder = prepare(tmp_path / "out", [chats(tmp_path)], tokenizer, length=96, packed=packed)
    assert isinstance(folder, ChatFolder) and folder.marked
    assert {k: folder.tally[k] for k in ("rows", "empty", "long")} == {"rows": 64, "empty": 2, "long": 2}
    assert sum(folder.conversations.values()) == 60 and min(folder.conversations.values()) > 0
    opened = FamilyTokenizer.read(tokenizer)
    said, counted = [], 0
    for half in ("training", "validation"):
        lines = (tmp_path / "out" / f"{half}.jsonl").read_text().splitlines()
        rows = loaded(folder, half)
        assert sum(len(row["seq_start_id"]) for row in rows) == len(lines)
        for row in rows:
            assert len(row["input_ids"]) == len(row["loss_mask"]) <= 96
            starts = [*row["seq_start_id"], len(row["input_ids"])]
            for start, end in pairwise(starts):
                ids, mask = row["input_ids"][start:end], row["loss_mask"][start:end]
                answer = [ids[i + 1] for i in range(len(ids) - 1) if mask[i]]  # of each, whether the next one counts
                assert mask[-1] == 0 and ids[-1] == 1
                said.append(opened.decode(ids))
                counted += sum(mask)
                # the end of the template's answer, and the one behind the text
                assert opened.decode(answer).strip() == said[-1].partition("<assistant>\n")[2].strip()
    assert sorted(said) == sorted(f"<user>\nWhat is {i} + {i}?\n<assistant>\nIt is {2 * i}.\n" for i in range(60))
    assert counted == folder.tally["counted"]


def test_long_ones_are_cut_where_that_is_asked_for(tokenizer: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "out", [chats(tmp_path)], tokenizer, length=96, too_long="cut")
    lines = list(folder.lines())
    assert [line[:10] for line in lines[2:5]] == ["2 of 64 co", "2 of 64 co", "1 of 64 co"]
    assert lines[3].endswith("line 62") and lines[4].endswith("line 63")
    assert sum(folder.conversations.values()) == 61


def test_a_length_that_leaves_no_conversation_says_so(tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(sums(20))
    with pytest.raises(ElasticError, match=r"20 of 20 conversations of more than 16 tokens.*chats.jsonl line 1"):
        prepare(tmp_path / "out", [path], tokenizer, length=16)
    assert not list(tmp_path.glob("out*"))


def test_a_template_without_marks_counts_all_and_says_so(tmp_path: Path) -> None:
    plain = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    folder = prepare(tmp_path / "out", [chats(tmp_path)], write_tokenizer(tmp_path / "t", plain))
    assert not folder.marked and folder.tally["counted"] == folder.tally["tokens"]
    assert "{% generation %}" in "\n".join(folder.lines())


def test_questions_and_answers_without_a_template(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"input": f"{i} + 1", "output": str(i + 1)}) + "\n" for i in range(40)))
    bare = write_tokenizer(tmp_path / "bare", None)
    folder = prepare(tmp_path / "out", [path], bare)
    assert folder.marked and 0 < folder.tally["counted"] < folder.tally["tokens"]
    with pytest.raises(
        ElasticError, match=r"chats.jsonl line 1: messages: .*bare/chat_template.jinja, or give rows of `input`"
    ):
        prepare(tmp_path / "other", [chats(tmp_path)], bare)


@pytest.mark.parametrize("values", [{"too_long": "keep"}, {"packed": "zip"}, {"length": 1}])
def test_bad_values(values: dict, tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(ElasticError, match=f"^{next(iter(values))}: "):
        prepare(tmp_path / "out", [chats(tmp_path)], tokenizer, **values)


def test_one_conversation_is_too_few(tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text(asked("a", "b"))
    with pytest.raises(ElasticError, match=r"^sources: '1 conversations"):
        prepare(tmp_path / "out", [path], tokenizer)
    path.write_text(asked("a", "b") + "\n" + asked("c", "d"))
    folder = prepare(tmp_path / "out", [path], tokenizer)
    assert folder.conversations == {"train": 1, "val": 1}


def test_packs_hold_each_document_once_and_are_full() -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 500).tolist()
    packs = pack(lengths, 64, seed=1)
    assert sorted(i for numbers in packs for i in numbers) == list(range(500))
    fill = [sum(lengths[i] for i in numbers) for numbers in packs]
    assert max(fill) <= 64 and sum(fill) / 64 / len(packs) > 0.97
    assert packs == pack(lengths, 64, seed=1) != pack(lengths, 64, seed=2)
    documents = [(np.arange(3), np.array([False, True, True])), (np.arange(2), np.array([False, True]))]
    [row] = packed_rows([[1, 0]], documents)
    assert row == {"input_ids": [0, 1, 0, 1, 2], "loss_mask": [1, 0, 1, 1, 0], "seq_start_id": [0, 2]}

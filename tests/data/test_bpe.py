# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.data.build import EOS_ID, MIN_VOCAB, PAD_ID, check_vocab, encode, train_tokenizer
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.data.reasoning import Problem
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.tokenizer import FamilyTokenizer, load_tokenizer

TOKENIZER = train_tokenizer(["def f(x):\n    return x + 12\n" * 20, "12 apples and 345 pears"], 300)


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    (ids,) = FamilyTokenizer(TOKENIZER).encode_texts([text])
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@given(st.text(st.characters(codec="ascii") | st.sampled_from("0123456789")))
def test_digits_stand_alone(text: str) -> None:
    for token in TOKENIZER.encode(text).tokens:
        assert len(token) == 1 or not any(c.isdigit() for c in token)


def test_special_tokens_have_fixed_ids() -> None:
    assert TOKENIZER.token_to_id("<pad>") == PAD_ID == 0
    assert TOKENIZER.token_to_id("<eos>") == EOS_ID == 1
    assert TOKENIZER.get_vocab_size() <= 300


def test_many_texts_keep_their_order_and_get_an_end() -> None:
    texts = [f"text {n}" for n in range(150)]
    encoded = list(encode(FamilyTokenizer(TOKENIZER), texts))
    assert [TOKENIZER.decode(ids[:-1].tolist()) for ids in encoded] == texts
    assert all(ids.dtype == np.int32 and ids[-1] == EOS_ID for ids in encoded)


def test_a_prompt_is_a_prefix_of_its_problem(small: DataFolder) -> None:
    tokenizer = small.tokenizer()
    for problem in small.problems():
        prompt = tokenizer.encode(problem.prompt, add_special_tokens=False).ids
        assert tokenizer.encode(problem.text).ids[: len(prompt)] == prompt


@given(st.sampled_from(["12+3", "red blue", "A1", "none", "take 3"]), st.text("0123456789 +-=%ABXYZ", min_size=1))
def test_any_step_leaves_the_prompt_alone(step: str, question: str) -> None:
    problem = Problem("x", 1, question, (step,), "1")
    prompt = TOKENIZER.encode(problem.prompt).ids
    assert TOKENIZER.encode(problem.text).ids[: len(prompt)] == prompt


@pytest.mark.parametrize("vocab", [MIN_VOCAB - 1, 0, -5, 65_537, 1024.0, True])
def test_impossible_sizes_are_refused(vocab: int) -> None:
    with pytest.raises(ElasticError, match="vocab"):
        check_vocab(vocab)


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ElasticError, match=r"tokenizer\.json: no tokenizer here"):
        load_tokenizer(tmp_path)


HF_CHECK = """
import sys
from transformers import AutoTokenizer
t = AutoTokenizer.from_pretrained(sys.argv[1])
assert (t.pad_token_id, t.eos_token_id, len(t)) == (0, 1, int(sys.argv[2])), (t.pad_token_id, t.eos_token_id, len(t))
text = "def f(x):\\n    return  x , 12 !"
ids = t(text).input_ids
assert t.decode(ids) == text, t.decode(ids)
print(*ids)
"""


def _ids_in(python: str, small: DataFolder) -> list[int]:
    command = [python, "-c", HF_CHECK, str(small.tokenizer_dir), str(small.vocab_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [int(n) for n in done.stdout.split()]


@pytest.mark.long
def test_transformers_reads_the_folder(small: DataFolder) -> None:
    pytest.importorskip("transformers")
    assert _ids_in(sys.executable, small) == small.tokenizer().encode("def f(x):\n    return  x , 12 !").ids


@pytest.mark.hf
def test_new_transformers_reads_the_folder(small: DataFolder) -> None:
    python = os.environ.get("NEMO_ELASTIC_HF_PYTHON")
    if not python:
        pytest.skip("NEMO_ELASTIC_HF_PYTHON names no python")
    assert _ids_in(python, small) == small.tokenizer().encode("def f(x):\n    return  x , 12 !").ids

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A data folder of texts whose words are its tokens, for models of 0.15M parameters."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from nemo_elastic.data.bpe import EOS, PAD, encode, save_tokenizer
from nemo_elastic.data.build import Split, end, write_splits
from nemo_elastic.data.folder import MANIFEST, PROBLEMS, SPLITS, TOKENIZER, CorpusInfo, DataFolder
from nemo_elastic.io.outputs import atomic_dir


def word_tokenizer(words: Sequence[str]) -> Tokenizer:
    """A tokenizer of words between spaces, behind the special tokens of every data folder."""
    vocabulary = {word: i for i, word in enumerate((PAD, EOS, *words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def build_words(out: str | Path, words: Sequence[str], texts: Mapping[str, Sequence[str]]) -> DataFolder:
    """Write a data folder.

    Args:
        out: folder to write; it appears when it is whole, and must not exist.
        words: the vocabulary without its special tokens.
        texts: split -> its documents, for every split of a data folder.

    Raises:
        ElasticError: `out` exists.
    """
    tokenizer = word_tokenizer(words)
    with atomic_dir(Path(out), force=False) as folder:
        save_tokenizer(tokenizer, folder / TOKENIZER)
        splits = {name: Split([end(ids) for ids in encode(tokenizer, texts[name])], 0, 0) for name in SPLITS}
        infos = write_splits(folder, splits, tokenizer.get_vocab_size())
        (folder / PROBLEMS).write_text("")
        everything = hashlib.sha256("".join(info.sha256 for info in infos.values()).encode()).hexdigest()
        manifest = DataFolder(
            path=folder, vocab_size=tokenizer.get_vocab_size(), seed=0, reasoning=0.0, held_out_problems=0,
            python=platform.python_version(),
            corpus=CorpusInfo(
                "files", sum(map(len, texts.values())), sum(i.tokens for i in infos.values()), everything
            ),
            splits=infos, made_with={"tokenizers": version("tokenizers")},
        )  # fmt: skip
        (folder / MANIFEST).write_text(json.dumps(manifest.to_json(), indent=2) + "\n")
    return DataFolder.open(out)

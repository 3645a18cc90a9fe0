# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A data folder of texts whose words are its tokens, for models of 0.15M parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from nemo_elastic.data.build import EOS, PAD, encode, save_tokenizer
from nemo_elastic.data.folder import SPLITS, TOKENIZER, CorpusInfo, DataFolder, digest_of_splits
from nemo_elastic.data.prepare import Split, write_manifest, write_splits
from nemo_elastic.formats.tokenizer import FamilyTokenizer
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
    with atomic_dir(Path(out), force=False) as folder:
        save_tokenizer(word_tokenizer(words), folder / TOKENIZER)
        tokenizer = FamilyTokenizer.read(folder / TOKENIZER)
        splits = {name: Split(encode(tokenizer, texts[name])) for name in SPLITS}
        infos = write_splits(folder, splits, tokenizer.vocab_size)
        tokens = sum(info.tokens for info in infos.values())
        corpus = CorpusInfo("files", sum(map(len, texts.values())), tokens, digest_of_splits(infos))
        write_manifest(folder, infos, corpus, tokenizer.vocab_size, seed=0)
    return DataFolder.open(out)

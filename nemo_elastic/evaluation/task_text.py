# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a user gives as `--data` -> token ids that a family knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_elastic.errors import ElasticError

if TYPE_CHECKING:
    import numpy as np

    from nemo_elastic.data.folder import DataFolder
    from nemo_elastic.formats.source import Source

__all__ = ["check_tokens", "read_task"]


def read_task(data: Path, source: Source) -> list[np.ndarray]:
    """The token ids of each document of a task.

    Args:
        data: a data folder, of which the held-out split is read; or text, a file or a folder of files, which the
            family's own tokenizer cuts.
        source: the family.

    Raises:
        ElasticError: neither, tokens of another tokenizer, or text where the family has none.
    """
    from nemo_elastic.data.folder import MANIFEST, DataFolder

    if (data / MANIFEST).is_file():
        folder = DataFolder.open(data)
        check_tokens([source], folder)
        documents = folder.documents("val")
    else:
        documents = _encoded(data, source)
    vocab, largest = source.parent.vocab, max((int(ids.max()) for ids in documents if len(ids)), default=0)
    if largest >= vocab:
        raise ElasticError(f"--data: {data} has the token {largest}, {source.folder} knows {vocab}")
    return documents


def _encoded(data: Path, source: Source) -> list[np.ndarray]:
    """Texts as tokens, each with the token behind it that ends a text."""
    import numpy as np

    from nemo_elastic.data.bpe import encode
    from nemo_elastic.data.corpus import read_documents
    from nemo_elastic.runtime.prompts import Companions

    companions = Companions.of(source)
    end = sorted(companions.end_ids)[:1]
    texts = (document.text for document in read_documents([data]))
    return [np.append(ids, np.array(end, dtype=ids.dtype)) for ids in encode(companions.tokenizer.tokenizer, texts)]


def check_tokens(opened: Sequence[Source], folder: DataFolder | None) -> None:
    """Refuse data whose tokens mean something else to a model: its loss would be a number about nothing."""
    from nemo_elastic.formats.tokenizer_files import load_tokenizer

    if folder is None:
        return
    where = f"--data: {folder.path}"
    for source in opened:
        if folder.vocab_size > source.parent.vocab:
            raise ElasticError(
                f"{where} has {folder.vocab_size} tokens of vocabulary, {source.folder} knows {source.parent.vocab}"
            )
        own = source.folder / "tokenizer.json"
        if own.is_file() and load_tokenizer(source.folder).get_vocab() != folder.tokenizer().get_vocab():
            raise ElasticError(f"{where} was made with another tokenizer than that of {source.folder}")
    folder.tokens("val")  # looks at each of them

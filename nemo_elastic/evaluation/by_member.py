# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of every member of families: loss, accepted drafts, answers to problems, lm-eval tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_elastic.core.cost import counts
from nemo_elastic.data.eval_data import EvalData
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.nn.prediction import Predictor
from nemo_elastic.runtime import MemberModel, load_family, members_of

from .accuracy import answer_accuracy
from .drafts import accepted_drafts, predictor_of
from .harness import Harness
from .scoring import answer_loss, answer_windows

__all__ = ["Measures", "measured", "tokenizer_of", "wanted_members"]

#: tokens of a forward pass: longer sequences go through in smaller batches, so that memory stays
FORWARD = 4096


@dataclass(frozen=True)
class Measures:
    """The measures to run.

    Attributes:
        problems: most problems that are solved; tokens: that are predicted at least, in contexts of `seq_length`.
        harness: lm-eval with its tasks, of each `limit` documents at most; None for none.
    """

    problems: int
    tokens: int
    seq_length: int
    harness: Harness | None
    limit: int | None

    def of(
        self, model: MemberModel, predictor: Predictor | None, data: EvalData | None, tokenizer: Path | None
    ) -> dict[str, Any]:
        """The figures of one member and its MTP layers; lm-eval reads its text by the tokenizer in that folder."""
        out: dict[str, Any] = {}
        if data is not None:
            read = list(data.sample(self.seq_length + 1, -(-self.tokens // self.seq_length)))
            batch = max(1, FORWARD // self.seq_length)
            out = answer_loss(model, read, self.seq_length, batch, self.tokens).to_json()
            if predictor is not None:
                windows = answer_windows(read, self.seq_length, self.tokens)
                out["drafts"] = accepted_drafts(model.weights, predictor, windows, batch).to_json()
        if data is not None and data.folder is not None:
            problems = data.folder.problems()[: self.problems]
            if problems:
                out["answers"] = answer_accuracy(model, problems, data.folder.tokenizer_dir).to_json()
        if self.harness is not None and tokenizer is not None:
            out["tasks"] = self.harness.run(model, tokenizer, self.limit)
        return out


def tokenizer_of(source: Path, data: EvalData | None) -> Path:
    """The folder of the tokenizer that lm-eval reads: that of the source, or else of the data."""
    if (source / "tokenizer.json").is_file():
        return source
    if data is not None and data.folder is not None:
        return data.folder.tokenizer_dir
    raise ElasticError(f"{source}: has no tokenizer.json; give the --data folder that the model was trained on")


def wanted_members(sources: Sequence[Checkpoint], only: Sequence[str]) -> list[list[str]]:
    """Names of the members to measure, for each source: all of them where `only` is empty."""
    wanted = [[name for name in members_of(source) if not only or name in only] for source in sources]
    missing = sorted(set(only) - {name for names in wanted for name in names})
    if missing:
        known = ", ".join(dict.fromkeys(name for source in sources for name in members_of(source)))
        raise ElasticError(f"--member: no source has {', '.join(missing)}; the members are {known}")
    return wanted


def measured(
    sources: Iterable[tuple[Checkpoint, list[str], EvalData | None, Path | None]],
    device: str,
    measures: Measures,
    done: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    """A row of figures for each wanted member, one source in memory at a time.

    Each source comes with the names of its members, its data and its tokenizer's folder. `done` is called with how
    many members were measured since the last call. An error names the member and its source.
    """
    for source, names, data, tokenizer in sources:
        if not names:
            continue
        family = load_family(source, device=device)
        for name in names:
            model = family.select(name)
            row = {"source": str(source.folder), "member": name, **counts(model.parent, model.subnet)}
            predictor = None if data is None else predictor_of(source, model.subnet, device)
            try:
                yield row | measures.of(model, predictor, data, tokenizer)
            except ElasticError as exc:
                raise exc.within(name).within(source.folder) from None
            family.release()
            done(1)

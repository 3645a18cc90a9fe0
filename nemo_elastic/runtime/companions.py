# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What lies beside a family's weights and is needed for text: its tokenizer, and which tokens end an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.source import Source
from nemo_elastic.io.read import read_json

from .auto.calibration import Calibration
from .auto.file import read_calibration
from .tokenizer import FamilyTokenizer

GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Companions:
    """Files beside the weights, read when they are first needed.

    Attributes:
        folder: where they are; None for a family that was made in memory.
        config: its `config.json`.
    """

    folder: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Source) -> Companions:
        """Those of an opened folder."""
        return cls(source.companions, source.config)

    @cached_property
    def tokenizer(self) -> FamilyTokenizer:
        """The tokenizer.

        Raises:
            ElasticError: there is none, or it is damaged.
        """
        if self.folder is None:
            raise ElasticError("tokenizer: a family that was made in memory has none; give token ids")
        return FamilyTokenizer.read(self.folder)

    def calibration(self, members: Mapping[str, int]) -> Calibration:
        """What `nemo-elastic calibrate` found.

        Args:
            members: of the family, with their parameters.

        Raises:
            ElasticError: there is none, it is damaged, or it was made of another family.
        """
        if self.folder is None:
            raise ElasticError("a family that was made in memory has no calibration; give one", "auto")
        return read_calibration(self.folder, members)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer: `eos_token_id` of the generation config, or else of `config.json`; may be none.

        Raises:
            ElasticError: it is no token id and no list of them.
        """
        path = None if self.folder is None else self.folder / GENERATION
        if path is not None and path.is_file():
            settings = read_json(path)
            if not isinstance(settings, dict):
                raise ElasticError("not a JSON object", path)
            if settings.get("eos_token_id") is not None:
                return _ids(f"{path}: eos_token_id", settings["eos_token_id"])
        return _ids("config.json: eos_token_id", self.config.get("eos_token_id"))


def _ids(name: str, given: Any) -> frozenset[int]:
    ids = [] if given is None else given if isinstance(given, list) else [given]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise bad(name, given, "the id of a token, or a list of ids")
    return frozenset(ids)

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Our own settings of a server, as they travel through vLLM's `--additional-config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from nemo_elastic.core.dial import check_cost
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.values import integer

#: the key in vLLM's `additional_config`
KEY = "nemo_elastic"
#: most bytes of a request's body where nobody says: some millions of token ids
MOST_OF_BODY = 2**25


@dataclass(frozen=True)
class Settings:
    """What the command line of a server says to our part of the engine.

    Attributes:
        end_of_thinking: the text that ends the thinking of a pair, None for `</think>`.
        end_ids: its token ids; found from the text when the server starts.
        auto: the dial of the model `auto` where a request has none; None for the usual.
        draft: the member that drafts for larger ones; None for none.
        max_body: most bytes of a request's body; None for the usual.
    """

    end_of_thinking: str | None = None
    end_ids: tuple[int, ...] = ()
    auto: float | None = None
    draft: str | None = None
    max_body: int | None = None

    @property
    def most_of_body(self) -> int:
        """Most bytes of a request's body."""
        return MOST_OF_BODY if self.max_body is None else self.max_body

    @classmethod
    def read(cls, additional: Any) -> Settings:
        """From `additional_config`.

        Raises:
            ElasticError: an unknown field or a wrong value.
        """
        given = additional.get(KEY, {}) if isinstance(additional, Mapping) else {}
        if not isinstance(given, Mapping):
            raise bad(f"additional_config.{KEY}", given, "a JSON object")
        unknown = sorted(set(map(str, given)) - {field.name for field in fields(cls)})
        if unknown:
            raise ElasticError(f"additional_config.{KEY}: unknown field {unknown[0]!r}")
        for name in ("end_of_thinking", "draft"):
            if given.get(name) is not None and not isinstance(given[name], str):
                raise bad(f"additional_config.{KEY}.{name}", given[name], "a text")
        ids = given.get("end_ids", ())
        if not isinstance(ids, (list, tuple)):
            raise bad(f"additional_config.{KEY}.end_ids", ids, "a list of token ids")
        ends = tuple(integer(f"additional_config.{KEY}.end_ids", i, 0, "a list of token ids") for i in ids)
        auto = given.get("auto")
        dial = None if auto is None else check_cost(auto, f"additional_config.{KEY}.auto")
        most = given.get("max_body")
        if most is not None:
            most = integer(f"additional_config.{KEY}.max_body", most, 1, "a number of bytes")
        return cls(given.get("end_of_thinking"), ends, dial, given.get("draft"), most)

    def within(self, additional: Mapping[str, Any] | None) -> dict[str, Any]:
        """`additional_config` with these settings in it."""
        own = {k: v for k, v in asdict(self).items() if v not in (None, ())}
        return {**(additional or {}), KEY: {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}}

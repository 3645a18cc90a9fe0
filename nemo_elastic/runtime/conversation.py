# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One conversation with a family, for `nemo-elastic chat`: its messages, the answering member, and time and memory of
an answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.errors import printable
from nemo_elastic.slicing.card import human_bytes

from .answer import Stream
from .family_runtime import FamilyRuntime


class Conversation:
    """Messages so far, or text where there is no chat template; the member `budget` answers, `draft` drafts for it.

    `how` are options of `MemberModel.generate`.
    """

    def __init__(
        self, family: FamilyRuntime, budget: str | None, how: dict[str, Any], draft: str | None = None
    ) -> None:
        self._family = family
        self._how: dict[str, Any] = {**how, "draft": draft}
        self._member = family.select(budget)
        self._draft = None if draft is None else family.select(draft)
        self.is_chat = family.tokenizer.chat_template is not None
        self._answers = 0
        self._last: dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the messages and the text."""
        self._messages: list[dict[str, str]] = []
        self._text = ""

    @property
    def name(self) -> str:
        """Name of the member that answers, printable."""
        return printable(self._member.name or "full")

    def select(self, budget: str) -> None:
        """Let another member answer from here on."""
        self._member = self._family.select(budget)

    def members(self) -> str:
        """The members in a line, the one that answers in brackets."""
        names = [f"[{n}]" if n == self._member.name else n for n in self._family.names]
        drafts = self._drafting()
        drafting = "" if drafts is None else f", {printable(drafts)} drafts"
        return f"{', '.join(map(printable, names))}: {self._member.parameters:,} parameters answer{drafting}"

    def _drafting(self) -> str | None:
        """Name of the member that drafts for the one that answers now."""
        return self._draft.name if self._draft is not None and self._draft.drafts_for(self._member) else None

    def answer(self, text: str, show: Callable[[str], None]) -> None:
        """Answer a text, piece by piece; an interrupted answer stays in the conversation as far as it came."""
        between = "\n" if self._text and not self._text.endswith("\n") else ""
        asked = [*self._messages, {"role": "user", "content": text}]
        prompt = asked if self.is_chat else self._text + between + text
        how = self._how | {"seed": self._how["seed"] + self._answers}
        pieces: list[str] = []
        began = time.perf_counter()
        stream = self._member.generate(prompt, stream=True, **how)
        try:
            with closing(stream):
                for piece in stream:
                    pieces.append(piece)
                    show(piece)
        finally:
            answer, seconds = "".join(pieces), time.perf_counter() - began
            self._answers += 1
            self._messages = [*asked, {"role": "assistant", "content": answer}] if self.is_chat else []
            self._text = "" if self.is_chat else f"{prompt}{answer}"
            self._last = self._measured(answer, stream, seconds)

    def _measured(self, text: str, stream: Stream, seconds: float) -> dict[str, Any]:
        read, new, drafts = stream.prompt_tokens[0], stream.new_tokens[0], self._drafting()
        drafted = {"member": drafts, "drafted_tokens": stream.drafted[0], "accepted_tokens": stream.accepted[0]}
        return {
            "member": self._member.name,
            "parameters": self._member.parameters,
            "text": text,
            "prompt_tokens": read,
            "new_tokens": new,
            "seconds": seconds,
            "tokens_per_second": new / seconds,
            "draft": None if drafts is None else drafted,
            "bytes": {"weights": self._family.nbytes, "members": self._family.slice_bytes, "process": self._process()},
        }

    def report(self) -> dict[str, Any]:
        """Figures of the last answer: seconds include the prompt, sizes are in bytes."""
        return self._last

    def summary(self) -> str:
        """The figures of the last answer in a line."""
        last, sizes = self._last, self._last["bytes"]
        several = f" for {n} members" if (n := len(self._family.names)) > 1 else ""
        weights = f"{human_bytes(sizes['weights'])} of weights{several}"
        if sizes["members"]:
            weights += f" + {human_bytes(sizes['members'])} for members"
        process = "" if sizes["process"] is None else f", {human_bytes(sizes['process'])} in all"
        draft = ""
        if (d := last["draft"]) is not None:
            draft = f", {d['accepted_tokens']} of {d['drafted_tokens']} accepted that {printable(d['member'])} drafted"
        return (
            f"({self.name}: {last['new_tokens']} tokens after {last['prompt_tokens']}, "
            f"{last['tokens_per_second']:.1f} tokens/s{draft}; {weights}{process})"
        )

    def _process(self) -> int | None:
        """Memory of this process in bytes: allocated by torch on a GPU, resident on a CPU; None if unknown."""
        device = self._member.weights.embedding.device
        if device.type == "cuda":
            return torch.cuda.memory_allocated(device)
        statm = Path("/proc/self/statm")
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") if statm.is_file() else None

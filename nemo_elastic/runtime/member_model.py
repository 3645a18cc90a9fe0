# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One member of a family, ready to run: logits, and answers to text, messages or token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.tokenizer import FamilyTokenizer, check_messages
from nemo_elastic.io.read import read_json
from nemo_elastic.io.values import integer
from nemo_elastic.nn.cache import Cache
from nemo_elastic.nn.forward import forward
from nemo_elastic.nn.generate import Decoding, token_ids, token_limits
from nemo_elastic.nn.weights import Weights

from .answer import Answer, Stream, stop_strings
from .speculation import Speculation
from .token_sampling import MostLikely, Sampled, Sampling

GENERATION = "generation_config.json"
#: most tokens that may be drafted at once: each costs both members a state of every Mamba layer
MOST_DRAFTED = 16


@dataclass(frozen=True)
class Companions:
    """Tokenizer and other files of the folder, read when they are first needed.

    Attributes:
        folder: where they are; None for a family that was made in memory.
        config: its `config.json`.
    """

    folder: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Checkpoint) -> Companions:
        """Those of an opened folder."""
        return cls(source.companions, source.config)

    @cached_property
    def tokenizer(self) -> FamilyTokenizer:
        """The tokenizer, with its chat template."""
        if self.folder is None:
            raise ElasticError("tokenizer: a family that was made in memory has none; give token ids")
        return FamilyTokenizer.read(self.folder)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer: `eos_token_id` of the generation config, or else of `config.json`."""
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


class MemberModel:
    """One member, ready to run; `FamilyRuntime.select` makes it, and is how it finds a draft.

    Attributes:
        name: its name in the family, None for another shape.
        subnet: its shape.
        weights: of its forward: views of the family's matrices, and gathered vectors.
    """

    def __init__(
        self,
        name: str | None,
        weights: Weights,
        companions: Companions | None = None,
        select: Callable[[str | Subnet], MemberModel] | None = None,
    ) -> None:
        self.name, self.weights = name, weights
        self.parent, self.subnet = weights.parent, weights.member
        self._companions, self._select = companions or Companions(), select

    def __call__(self, tokens_bl: torch.Tensor, cache: Cache | None = None, last: bool = False) -> torch.Tensor:
        """Logits [b, l, v] of token ids [b, l], without gradients.

        Args:
            tokens_bl: token ids [b, l].
            cache: from `init_cache`: the tokens before these. Moved on in place.
            last: logits of the last position only, [b, 1, v].
        """
        with torch.no_grad():
            return forward(self.weights, tokens_bl.to(self.weights.embedding.device), cache=cache, last=last)

    def init_cache(self, batch: int) -> Cache:
        """State before the first token of `batch` sequences."""
        batch = integer("batch", batch, 1, "a positive integer")
        return Cache.empty(self.parent, self.subnet, batch, self.weights.embedding)

    def generate(
        self,
        prompts: str | torch.Tensor | Sequence[Any],
        max_new_tokens: int | Sequence[int] = 256,
        stop_ids: Iterable[int] | None = None,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        stop: str | Sequence[str] | None = None,
        stream: bool = False,
        draft: str | Subnet | None = None,
        k: int | None = None,
    ) -> Any:
        """What comes after each prompt, without the prompt.

        Prompts of a batch may have any lengths: each gets what it would get alone, but for the order in which a batch
        is summed. By default the most likely token is taken.

        Example::

            member.generate("The first", max_new_tokens=32)  # a text
            member.generate([{"role": "user", "content": "Hello"}])  # by the model's chat template
            member.generate(["One", "Two, three"], temperature=0.7, top_p=0.9, seed=1)  # a list of texts
            for piece in member.generate("Once", stream=True):
                print(piece, end="", flush=True)

        Args:
            prompts: a text; messages, each with `role` and `content`; token ids (a list or a tensor [l]); or a list of
                one of these, of token ids also a tensor [b, l].
            max_new_tokens: the most new tokens, for all or one number for each prompt; at least 1.
            stop_ids: tokens that end an answer; by default `eos_token_id` of the folder's generation config or config.
                An empty list continues.
            temperature, top_p, top_k, seed: how the next token is chosen, see `Sampling`; 0 samples nothing.
            stop: strings before which an answer ends. Of tokens, those come out whose text is before it.
            stream: yield pieces as they are generated, see `Stream`.
            draft: a smaller member of the family that drafts what this one then reads, several tokens at once. What
                comes out is this member's output: the same tokens, or where tokens are sampled the same distribution
                (not the same samples). A member that is not smaller than this one drafts nothing.
            k: number of draft tokens, 1 to 16; None adapts it to the accepted share so far.

        Returns:
            For a text or messages the text of the answer, for token ids new token ids, with the one that ended it; for
            a list of prompts a list of these. With `stream` an iterator of pieces.

        Raises:
            ElasticError: a value of the wrong type or out of its range, a prompt without tokens, a token that the
                model does not know, text or messages where the family has no tokenizer or no chat template, a draft
                that is not in the family, `k` without a draft.
        """
        given = read_prompts(prompts, self._companions, self.parent.vocab)
        limits = token_limits(max_new_tokens, len(given.ids), low=1)
        how, stops = Sampling(temperature, top_p, top_k, seed), stop_strings(stop)
        drafts = self._draft(draft, k)
        ends = self._companions.end_ids if stop_ids is None else frozenset(_stop_ids(stop_ids))
        tokenizer = self._companions.tokenizer if given.are_text or stops else None
        answers = [Answer(tokenizer, stops, ends, given.are_text) for _ in given.ids]
        chooser = Sampled(how) if how.temperature else MostLikely()
        if drafts is None:
            decoding = Decoding(self.weights, given.ids, limits, ends, chooser.choose)
        else:
            decoding = Speculation(self.weights, drafts.weights, given.ids, limits, ends, chooser, k)
        running = Stream(decoding, given.ids, answers, given.single)
        return running if stream else _gathered(running, given)

    def drafts_for(self, member: MemberModel) -> bool:
        """Whether this member drafts for another: only one with fewer parameters can pay."""
        return self.parameters < member.parameters

    def _draft(self, which: str | Subnet | None, k: int | None) -> MemberModel | None:
        """The member that drafts; None for plain decoding."""
        if k is not None:
            integer("k", k, 1, f"how many tokens are drafted at once, 1 to {MOST_DRAFTED}", MOST_DRAFTED)
            if which is None:
                raise bad("k", k, "a draft as well, which k belongs to")
        if which is None:
            return None
        if self._select is None or not isinstance(which, (str, Subnet)):
            raise bad("draft", which, "the name of a member of the same family, or a Subnet")
        try:
            draft = self._select(which)
        except ElasticError as exc:
            raise (exc.of("draft") if isinstance(which, str) else exc.within("draft")) from None
        return draft if draft.drafts_for(self) else None

    @property
    def parameters(self) -> int:
        """Parameters of this member."""
        return parameters(self.parent, self.subnet)

    def __repr__(self) -> str:
        return f"MemberModel({self.name or 'unnamed'}: {self.parameters:,} parameters)"


def _stop_ids(stop_ids: Any) -> list[int]:
    """Stop tokens; one that the model does not know ends nothing."""
    allowed = "a list of token ids"
    if isinstance(stop_ids, torch.Tensor):
        stop_ids = stop_ids.tolist()
    if isinstance(stop_ids, (str, bytes)) or not isinstance(stop_ids, Iterable):
        raise bad("stop_ids", stop_ids, allowed)
    return [integer("stop_ids", i, 0, allowed) for i in stop_ids]


@dataclass(frozen=True)
class Prompts:
    """Prompts as token ids.

    Attributes:
        ids: of each prompt.
        single: a single prompt, not a batch.
        are_text: prompts are texts or messages, so answers are text.
    """

    ids: list[list[int]]
    single: bool
    are_text: bool


def read_prompts(given: Any, companions: Companions, vocab: int) -> Prompts:
    """Read prompts of any form that `MemberModel.generate` takes; the tokenizer is read only for text."""
    if isinstance(given, str):
        return Prompts(token_ids([companions.tokenizer.encode(given)], vocab), True, True)
    if isinstance(given, torch.Tensor) or hasattr(given, "ndim"):
        if given.ndim not in (1, 2):
            raise bad("prompts", f"{given.ndim} dimensions", "one for the tokens of a prompt, or [prompts, tokens]")
        single = given.ndim == 1
        return Prompts(token_ids(given[None] if single else given, vocab), single, False)
    if not isinstance(given, Sequence) or isinstance(given, (bytes, bytearray)):
        raise bad("prompts", given, "a text, messages, token ids, or a list of one of these")
    first = given[0] if len(given) else None
    if isinstance(first, Mapping):
        return Prompts(token_ids([companions.tokenizer.encode_chat(check_messages(given))], vocab), True, True)
    if isinstance(first, str):
        return Prompts(token_ids([companions.tokenizer.encode(text) for text in given], vocab), False, True)
    if isinstance(first, Sequence) and len(first) and isinstance(first[0], Mapping):
        chats = [check_messages(chat, f"prompts[{i}]") for i, chat in enumerate(given)]
        return Prompts(token_ids([companions.tokenizer.encode_chat(chat) for chat in chats], vocab), False, True)
    single = isinstance(first, (Integral, float))  # a float is no id, and is refused as one
    return Prompts(token_ids([given] if single else given, vocab), single, False)


def _gathered(running: Stream, given: Prompts) -> Any:
    """Whole answers in the form of their prompts: texts or token ids, one or a list."""
    out: list[list[Any]] = [[] for _ in given.ids]
    for i, piece in running.numbered():
        out[i].append(piece)
    answers = ["".join(pieces) for pieces in out] if given.are_text else out
    return answers[0] if given.single else answers

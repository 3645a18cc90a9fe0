# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One member of a family, ready to run: logits, and answers to text or tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.values import integer
from nemo_elastic.nn.cache import Cache
from nemo_elastic.nn.forward import forward
from nemo_elastic.nn.generate import Decoding, Prefill, most_likely, token_limits
from nemo_elastic.nn.weights import Weights

from .answer import Answer, Stream, gathered, stop_strings
from .prompts import Companions, Prompts, read_prompts
from .speculation import Speculation
from .token_sampling import MostLikely, Sampled, Sampler, Sampling

#: most tokens that may be drafted at once: each costs both members a state of every Mamba layer
MOST_DRAFTED = 16


class MemberModel:
    """One member, ready to run; `FamilyRuntime.select` makes it.

    Args:
        name, weights: see below.
        companions: files beside the weights, for text.
        select: of the family, to find a draft.

    Attributes:
        name: its name in the family, None for a shape of its own.
        subnet: its shape.
        weights: what its forward reads: views of the family's matrices, and gathered vectors.
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
                An empty list lets it go on.
            temperature, top_p, top_k, seed: how the next token is chosen, see `Sampling`; 0 samples nothing.
            stop: strings before which an answer ends. Of tokens, those come out whose text is before it.
            stream: give the pieces as they come, see `Stream`.
            draft: a smaller member of the family that drafts what this one then reads, several tokens at once. What
                comes out is this member's own: the same tokens, or where tokens are sampled the same distribution (not
                the same samples). A member that is not smaller than this one drafts nothing.
            k: how many tokens it drafts at once, 1 to 16; None for as many as pay by what was accepted so far.

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
        how = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
        running = self.start(given, limits, stop_ids, stop=stop, draft=draft, k=k, **how)
        return running if stream else gathered(running, given)

    def start(
        self,
        given: Prompts,
        limits: Sequence[int],
        stop_ids: Iterable[int] | None = None,
        *,
        stop: str | Sequence[str] | None = None,
        draft: str | Subnet | None = None,
        k: int | None = None,
        begun: Prefill | None = None,
        **sampling: Any,
    ) -> Stream:
        """`generate` of prompts that were read already, as a stream.

        Args:
            given: the prompts.
            limits: most new tokens of each, at least 1.
            stop_ids, stop, draft, k: as in `generate`.
            begun: what this member's own reading of the prompts has left; what a draft helps reads them anew.
            sampling: fields of `Sampling`.

        Raises:
            ElasticError: as in `generate`.
        """
        how, stops = Sampling(**sampling), stop_strings(stop)
        drafts = self._draft(draft, k)
        ends = self._companions.end_ids if stop_ids is None else frozenset(_ids(stop_ids))
        tokenizer = self._companions.tokenizer if given.are_text or stops else None
        answers = [Answer(tokenizer, stops, ends, given.are_text) for _ in given.ids]
        if drafts is None:
            choose = Sampler(how) if how.temperature else most_likely
            decoding = Decoding(self.weights, given.ids, limits, ends, choose, begun)
        else:
            chooser = Sampled(how) if how.temperature else MostLikely()
            decoding = Speculation(self.weights, drafts.weights, given.ids, limits, ends, chooser, k)
        return Stream(decoding, given.ids, answers, given.single)

    def drafts_for(self, member: MemberModel) -> bool:
        """Whether this member drafts for another: only one with fewer parameters can pay."""
        return self.parameters < member.parameters

    def _draft(self, which: str | Subnet | None, k: int | None) -> MemberModel | None:
        """The member that drafts; None for plain decoding."""
        if k is not None:
            integer("k", k, 1, f"how many tokens are drafted at once, 1 to {MOST_DRAFTED}", MOST_DRAFTED)
            if which is None:
                raise bad("k", k, "without a draft nothing is drafted; give a draft as well")
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


def _ids(stop_ids: Any) -> list[int]:
    """Stop tokens; one that the model does not know ends nothing."""
    allowed = "a list of token ids"
    if isinstance(stop_ids, torch.Tensor):
        stop_ids = stop_ids.tolist()
    if isinstance(stop_ids, (str, bytes)) or not isinstance(stop_ids, Iterable):
        raise bad("stop_ids", stop_ids, allowed)
    return [integer("stop_ids", i, 0, allowed) for i in stop_ids]

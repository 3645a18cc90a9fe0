# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""lm-evaluation-harness tasks on members of a family in memory: no member has to be written to disk first.

The harness is optional (`pip install lm-eval`, 0.4.13 or later) and is imported only for `--tasks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.data.encoded import end_of
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.formats.tokenizer import FamilyTokenizer
from nemo_elastic.io.values import integer
from nemo_elastic.nn.generate import check_finite
from nemo_elastic.nn.rows import Rows
from nemo_elastic.runtime import MemberModel

from .scoring import Model, greedy_answers, log_probs

#: tokens of a window of rolling log-likelihood (Nemotron-H has no positions, so this is a bound on memory, not on it)
WINDOW = 2048
#: lm-eval's default number of generated tokens for tasks without a limit
MAX_NEW_TOKENS = 256


class Harness:
    """Tasks of the harness, by the names that `lm-eval ls tasks` lists or from a folder with the user's task files.

    `ElasticError` if the harness is not installed, does not have a task, or a task needs a function that we lack.
    """

    def __init__(self, tasks: Sequence[str], include: str | Path | None = None) -> None:
        try:
            import lm_eval  # pyright: ignore[reportMissingImports]
            from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as exc:
            raise ElasticError(
                f"--tasks: {exc.name} is not installed; pip install 'lm-eval>=0.4.13' brings it"
            ) from None
        self._evaluate: Any = lm_eval.simple_evaluate
        self._manager = TaskManager(include_path=None if include is None else str(include))
        self.tasks = list(tasks)
        unknown = [name for name in tasks if not self._manager.match_tasks([name])]
        if unknown:
            raise ElasticError(f"--tasks: lm-eval has no task {', '.join(map(repr, unknown))}")
        for name, task in self._manager.load(self.tasks)["tasks"].items():
            with inside(f"--tasks: {name}"):
                _generation(task.get_config("generation_kwargs") or {})

    def run(
        self, member: MemberModel, tokenizer_dir: str | Path, limit: int | None = None, batch: int = 8
    ) -> dict[str, dict[str, float]]:
        """Run all tasks on one member, each on up to `limit` documents.

        Returns task -> metric (`name`, or `name,filter` where the task has filters) -> value.
        """
        run = self._evaluate(
            model=make_lm(member, tokenizer_dir, batch),
            tasks=self.tasks,
            task_manager=self._manager,
            limit=limit,
            bootstrap_iters=0,
            log_samples=False,
        )
        return {
            task: {k.removesuffix(",none"): v for k, v in values.items() if _is_metric(k, v)}
            for task, values in run["results"].items()
        }


def _is_metric(key: str, value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and "_stderr" not in key
        and key != "sample_len"
    )


def make_lm(member: MemberModel, tokenizer_dir: str | Path, batch: int = 8) -> Any:
    """A model as the harness wants it: a subclass of its `TemplateLM`, which encodes text in its usual way."""
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
        get_rolling_token_windows,
        make_disjoint_window,
    )

    opened = FamilyTokenizer.read(Path(tokenizer_dir))
    tokenizer, end = opened.tokenizer, end_of(opened, Path(tokenizer_dir))

    class MemberLM(TemplateLM):  # pyright: ignore[reportUntypedBaseClass]
        @property
        def eot_token_id(self) -> int:
            return end

        @property
        def tokenizer_name(self) -> str:
            return str(tokenizer_dir)

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return tokenizer.encode(string, add_special_tokens=bool(add_special_tokens)).ids

        def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            return score_continuations(member, [(context, rest) for _, context, rest in requests], batch)

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            out = []
            for request in requests:
                ids = self.tok_encode(request.args[0])
                windows = get_rolling_token_windows(ids, self.prefix_token_id, WINDOW, 1)
                scored = score_continuations(member, [make_disjoint_window(w) for w in windows], batch)
                out.append(sum(logprob for logprob, _ in scored))
            return out

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            texts, settings = zip(*(request.args for request in requests), strict=True)
            stops, limits = zip(*(_generation(s) for s in settings), strict=True)
            new = greedy_answers(member, [self.tok_encode(t) or [end] for t in texts], limits, end, batch)
            return [cut_at(tokenizer.decode(ids), s) for ids, s in zip(new, stops, strict=True)]

    return MemberLM()


def score_continuations(model: Model, pairs: Sequence[tuple[list[int], list[int]]], batch: int) -> list[Any]:
    """Log-probabilities of lm-eval's (context, continuation), and whether greedy decoding gives the same."""
    rows = Rows.joined([Rows.continuation(*pair) for pair in pairs])
    likeliest = [True] * len(pairs)

    def compare(numbers: list[int], logits_blv: torch.Tensor) -> None:
        for i, logits_lv in zip(numbers, logits_blv, strict=True):
            context, rest = pairs[i]
            own_tv = check_finite(logits_lv[len(context) - 1 :][: len(rest)])
            likeliest[i] = own_tv.argmax(-1).tolist() == rest

    return list(zip(log_probs(model, rows, batch, compare).sum(1).tolist(), likeliest, strict=True))


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stops in it."""
    return text[: min((at for stop in stops if stop and (at := text.find(stop)) >= 0), default=len(text))]


def _generation(settings: dict[str, Any]) -> tuple[list[str], int]:
    """Stop strings and limit of a request; sampling is refused, not ignored."""
    if settings.get("do_sample") and settings.get("temperature", 1.0) > 0:
        raise bad("do_sample", True, "eval decodes greedily")
    until = settings.get("until") or []
    stops = [until] if isinstance(until, str) else until
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise bad("until", until, "a text, or a list of texts")
    limits = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    name = next((name for name in limits if settings.get(name) is not None), None)
    return stops, MAX_NEW_TOKENS if name is None else integer(name, settings[name], 1, "a positive integer")

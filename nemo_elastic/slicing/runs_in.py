# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where a member runs, and what it needs there: one line for `inspect`, `slice` and the cards.

docs/deploy.md has the table of what was tried.
"""

from __future__ import annotations

from nemo_elastic.core.family import Subnet

__all__ = ["runs_in"]

#: axes that vLLM keeps one width of for all layers
_ONE_STATE = ("mamba_heads", "mamba_head_dim")


def runs_in(member: Subnet) -> str:
    """Software that runs a member as it is written, with what each needs.

    Args:
        member: its shape.

    Returns:
        E.g. "transformers, vLLM, llama.cpp, NeMo", or with needs in brackets.
    """
    code = "" if member.is_uniform else "its own code"
    attention = bool(member.widths("attention_heads"))
    served = all(len(set(member.widths(axis))) <= 1 for axis in _ONE_STATE)
    slow = "" if attention else "no cache, so slow"
    told = [_with("transformers", code, slow)]
    if served:
        told.append(_with("vLLM", code))
    if member.is_uniform:
        told += ["llama.cpp", "NeMo"] if attention else ["NeMo"]
    return ", ".join(told)


def _with(name: str, *needs: str) -> str:
    given = "; ".join(n for n in needs if n)
    return f"{name} ({given})" if given else name

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Adam's moments in checkpoints of the distributed optimizer, where gradients lie in several buckets.

To save, megatron-core puts the states of a buffer's buckets one after the other, without the padding at the end of
each (`DistributedOptimizer.get_parameter_state_dp_zero`), and cuts each weight's out by its place in the buffer, which
counts that padding (`sharded_param_state_fully_reshardable`): from the second bucket on, weights get states of others,
and a run that goes on from there has a wrong optimizer. So it is in 0.15.3 and 0.19.2, and
`tests/megatron/test_moments.py` says when it no longer is. With overlap of gradient reduction there are several
buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

__all__ = ["save_own_moments"]


def save_own_moments(optimizer: Any) -> None:
    """Let an optimizer of megatron-core, or each of a chained one, save each weight's states as this weight's."""
    for leaf in getattr(optimizer, "chained_optimizers", [optimizer]):
        if isinstance(leaf, DistributedOptimizer):
            stock = leaf.sharded_param_state_fully_reshardable
            leaf.sharded_param_state_fully_reshardable = _without_padding(leaf.buffers, stock)


def _without_padding(buffers: Sequence[Any], stock: Callable[..., Any]) -> Callable[..., Any]:
    def sharded_param_state_fully_reshardable(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as places:
            for buffer in buffers:
                places.enter_context(_places_without_padding(buffer))
            return stock(*args, **kwargs)

    return sharded_param_state_fully_reshardable


@contextmanager
def _places_without_padding(buffer: Any) -> Iterator[None]:
    """A buffer's weights are where they would be if no bucket were padded at its end."""
    padding = [bucket.grad_data.numel() - bucket.numel_unpadded for bucket in buffer.buckets]
    stock = buffer.param_index_map
    buffer.param_index_map = {
        param: (start - sum(padding[:number]), end - sum(padding[:number]), number)
        for param, (start, end, number) in stock.items()
    }
    try:
        yield
    finally:
        buffer.param_index_map = stock

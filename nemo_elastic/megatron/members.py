# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Router and found members in megatron-core's distributed checkpoints."""

from __future__ import annotations

from typing import Any

from megatron.core import parallel_state

from nemo_elastic.train.members import Members

from .compat import shard


class SavedMembers(Members):
    """Members that megatron-core saves and loads with the model."""

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Router and members for a distributed checkpoint: replicas on every rank, so one rank of all writes them.

        megatron-core takes a module of its own to lie on one pipeline stage; this one lies on all.
        """
        state = shard(self.state_dict(keep_vars=True), prefix, {}, sharded_offsets)
        for tensor in state.values():
            tensor.replica_id = (parallel_state.get_pipeline_model_parallel_rank(), *tensor.replica_id[1:])
        return state

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The host of this environment: NeMo's has no Megatron-Bridge, and Megatron-Bridge's no NeMo."""

from __future__ import annotations

from importlib.util import find_spec

from tests.workers import work

ON_NEMO = find_spec("nemo") is not None
ON_BRIDGE = find_spec("megatron") is not None and find_spec("megatron.bridge") is not None
#: of its folder here, and of its tables in docs/tables
HERE = "nemo" if ON_NEMO else "bridge"

if ON_BRIDGE:
    from tests.support.bridge import import_bridge

    import_bridge()


def work_here(module: str, *args: object) -> str:
    """Run a module to its end where the host can be imported; see `tests.workers.work`."""
    return work(module, *args) if ON_NEMO else work("tests.support.bridge", "-m", module, *args)

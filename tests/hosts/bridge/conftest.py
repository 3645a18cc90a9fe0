# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge has an environment of its own: elsewhere nothing here is collected."""

from __future__ import annotations

from tests.hosts.here import ON_BRIDGE

collect_ignore_glob = [] if ON_BRIDGE else ["test_*.py"]

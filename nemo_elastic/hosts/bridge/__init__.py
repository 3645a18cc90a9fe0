# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge as a host: a family trained by its own loop, from a `ConfigContainer` and an `elastic:` block."""

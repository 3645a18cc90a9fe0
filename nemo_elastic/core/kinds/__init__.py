# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Kinds of layers: one record each, and what everything else asks of a kind stands in it."""

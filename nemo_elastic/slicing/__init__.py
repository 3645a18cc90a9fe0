# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Cutting members out of whatever is opened, making families, cards, checks: numpy and JSON, no torch, no NeMo."""

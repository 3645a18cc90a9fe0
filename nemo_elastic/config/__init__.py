# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The `elastic:` block: its sections, its budgets and axes, its JSON schema."""

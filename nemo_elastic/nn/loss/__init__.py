# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The loss of a head from hidden states: its terms, rows of logits, and chunks of tokens."""

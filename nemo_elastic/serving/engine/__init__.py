# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What runs inside vLLM: imported by vLLM alone, by the names that `arguments` writes into its settings."""

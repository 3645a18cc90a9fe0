# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Code that runs inside vLLM, which imports it by the names that `arguments` writes into its settings."""

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo elastic train`: NeMo-Run's command line with an `elastic:` block."""

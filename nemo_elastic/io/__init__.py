# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Files: whole or not at all when written; when read, within limits, and never out of their folder."""

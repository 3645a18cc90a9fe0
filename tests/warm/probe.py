# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A program for test_warm.py: it says what it finds, and ends as it is asked to."""

import json
import multiprocessing
import os
import signal
import sys
import time


def _square(x: int) -> tuple[int, bool]:
    return x * x, "torch" in sys.modules


def main(way: str) -> None:
    facts = {
        "argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ), "first": sys.path[0],
        "read": sys.stdin.read(), "nemo": "nemo.collections.llm" in sys.modules,
    }  # fmt: skip
    facts["env"].pop("LC_CTYPE", None)
    print(json.dumps(facts), flush=True)
    print("an error", file=sys.stderr, flush=True)
    if way == "code":
        sys.exit(7)
    if way == "words":
        sys.exit("it ends so")
    if way == "bug":
        raise ZeroDivisionError("ours")
    if way == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "spawn":
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(json.dumps(pool.map(_square, [3])[0]))
    if way == "interrupted":
        try:
            print("waits", flush=True)
            time.sleep(600)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1])

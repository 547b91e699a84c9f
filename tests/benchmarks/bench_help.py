"""Time ``wbpy --help``, which is to answer within 0.3 s, beside a Python that does nothing.

python -m tests.benchmarks.bench_help [--rounds N] [--json PATH]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.harness import Case, main


def help_text(quick: bool) -> Case:
    """Whole processes: the wall time counts, for the CPU time is that of the children."""

    def answer(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    candidates = {
        "wbpy --help": lambda: answer("-m", "wbpy", "--help"),
        "python -c pass": lambda: answer("-c", "pass"),
    }
    return Case("help", "calls", 1.0, candidates, "python -c pass")


if __name__ == "__main__":
    sys.exit(main({"help": help_text}, Path(__file__)))

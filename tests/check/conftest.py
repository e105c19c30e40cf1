"""The planted defects lie in `benchmarks`, the writers of other tools' files in `tests`."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

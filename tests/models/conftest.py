"""Makes the helpers of this folder, and the planted cohorts, importable by its tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

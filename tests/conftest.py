"""What all tests share: the project's root is importable, so that `from tests.sim.link import Link` works."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

"""For nbval: no network, no longer than stated, and the learner's own progress is left alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "notebooks"))

from guards import pytest_collection_modifyitems, pytest_configure, pytest_runtest_protocol  # noqa: E402, F401

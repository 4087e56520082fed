"""Why a process that loads images was lost: told by what happened, not always by memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detr_mini.data.loading import LoadingError, workers_errors

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch.multiprocessing
from test_training import Squares, tiny_recipe, Detr, fit
def work():
    torch.multiprocessing.set_start_method("spawn", force=True)
    fit(Detr(tiny_recipe().model), Squares(), tiny_recipe(steps=1), progress=False, workers=1)
    print("went well")
{call}
"""


def run(tmp_path: Path, call: str) -> subprocess.CompletedProcess:
    """A script in a process of its own."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(tests=str(Path(__file__).parent), call=call))
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=os.environ, timeout=240)


def test_a_script_without_a_guard_is_told_so(tmp_path):
    done = run(tmp_path, "work()")
    assert done.returncode == 1 and "if __name__ == \"__main__\":" in done.stderr.splitlines()[-1]
    assert "memory ran out" not in done.stderr


def test_a_killed_process_is_still_told_as_such():
    with pytest.raises(LoadingError, match="often memory ran out"), workers_errors():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

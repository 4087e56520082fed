"""Every fault of the list in faults.py: one clear line, nothing half-written, nothing lost; and the table says so."""

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fault_ground import Ground
from faults import FAULTS, GROUPS, Fault, table
from PIL import Image
from safetensors.torch import load_file

from detr_mini.__main__ import main
from detr_mini.data import download

README = Path(__file__).parents[2] / "data" / "README.md"
START, END = "<!-- faults: python tests/unit/faults.py -->\n", "\n<!-- end of faults -->"


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    with made.end, made.undo:
        yield made


def files_of(folder: Path) -> dict[str, str]:
    """Every file below a folder, and a checksum of it."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def require_whole(path: Path) -> None:
    """Fails for a file that cannot be read to its end."""
    if path.suffix in (".json", ".jsonl"):
        text = path.read_text()
        assert text.endswith("\n") or not text
        for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
            assert json.loads(part) is not None
    elif path.suffix == ".png":
        Image.open(path).load()
    elif path.suffix == ".safetensors":
        assert load_file(path)
    elif path.suffix == ".pt":
        assert torch.load(path, weights_only=True)["step"] > 0
    elif path.suffix == ".zip":
        assert not zipfile.is_zipfile(path) or zipfile.ZipFile(path).testzip() is None


def status_of(command: list[str]) -> int:
    """What a shell would get."""
    try:
        return download.main(command[1:]) if command[0] == "download" else main(command)
    except SystemExit as stopped:
        return stopped.code


def pattern(sees: str) -> re.Pattern:
    """The words that the user sees, where "..." is anything."""
    return re.compile(".*".join(map(re.escape, sees.split("..."))))


def said(fault: Fault, out: str, err: str) -> list[str]:
    """The lines in which the fault must be told."""
    assert "Traceback" not in out + err
    errors = [line for line in err.splitlines() if "error: " in line]
    if fault.status == 0 or fault.out:
        assert errors == []
        return out.splitlines()
    last = err.splitlines()[-1]
    if fault.status == 1:
        assert errors == [last] and last.startswith("error: ")
    return [last.removeprefix("error: ")]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.group}: {fault.wrong}")
def test_fault(fault: Fault, ground: Ground, capsys: pytest.CaptureFixture) -> None:
    command = fault.do(ground)
    before = files_of(ground.folder)
    capsys.readouterr()
    status = status_of(command)
    lines = said(fault, *capsys.readouterr())
    ground.mend()
    assert status == fault.status, lines
    assert any(pattern(fault.sees).fullmatch(line) for line in lines), "\n".join(lines)
    after = files_of(ground.folder)
    changed = {name for name in after if after[name] != before.get(name)}
    assert {name for name in before if not name.endswith(".tmp")} <= set(after) and changed <= set(fault.leaves)
    assert fault.status == 1 or not [name for name in after if name.endswith(".tmp")]
    for name in changed:
        require_whole(ground.folder / name)
    if fault.then:
        fault.then(ground, command)


def test_list_is_large_enough_and_says_everything_once() -> None:
    """Forty and more that end in an error, each group among them, no row twice, what is to be done in most."""
    assert sum(fault.status != 0 for fault in FAULTS) >= 40
    assert tuple(dict.fromkeys(fault.group for fault in FAULTS)) == GROUPS
    rows = [(fault.group, fault.wrong) for fault in FAULTS]
    assert len(set(rows)) == len(rows)


def test_table_in_the_readme_is_the_list() -> None:
    """`python tests/unit/faults.py` prints what stands between the markers."""
    held = README.read_text().partition(START)[2].partition(END)[0]
    assert held == table()

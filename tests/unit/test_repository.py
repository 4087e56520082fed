"""The files around the package say the same: pyproject.toml, environment.yml, constraints, Makefile, README."""

import os
import random
import re
import socket
import subprocess
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from rattler import MatchSpec

import detr_mini

ROOT = Path(__file__).resolve().parents[2]
BINARY = {".npz", ".png", ".jpg", ".safetensors"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
EVERY = [*RUNTIME, *(requirement for lines in EXTRAS.values() for requirement in lines)]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
CONDA = [line for line in ENVIRONMENT["dependencies"] if isinstance(line, str)]
PIP = next(line["pip"] for line in ENVIRONMENT["dependencies"] if isinstance(line, dict))
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
# Command lines of the README's bash blocks, without their comments.
COMMANDS = [line.split("  #")[0].strip() for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
            for line in block.splitlines()]


def by_name(requirements: list[Requirement]) -> dict[str, str]:
    """Package -> its version specifier."""
    return {canonicalize_name(requirement.name): str(requirement.specifier) for requirement in requirements}


def pinned() -> dict[str, Version]:
    """Package -> version in the constraints file."""
    lines = (ROOT / "tests" / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(number) for name, number in pairs}


def tracked() -> list[Path]:
    """Files that git knows, as paths from the top."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git clone: which files belong to the project is not known")
    return [Path(name) for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


# --- pyproject.toml and what must agree with it -----------------------------------------------------------


@pytest.mark.parametrize("requirement", EVERY, ids=str)
def test_every_dependency_has_a_lower_bound_and_no_other(requirement: Requirement) -> None:
    """Lower bounds say what is needed; an upper one would only age."""
    assert [part.operator for part in requirement.specifier] == [">="]


@pytest.mark.parametrize("requirement", EVERY, ids=str)
def test_constraints_pin_every_dependency(requirement: Requirement) -> None:
    """The tests' exact version exists for each dependency and is one that pyproject.toml allows."""
    assert pinned()[canonicalize_name(requirement.name)] in requirement.specifier


def test_ci_runs_the_pinned_versions() -> None:
    """In CI the environment is that of the constraints file; elsewhere it may be any that fits."""
    if os.environ.get("CI") != "true":
        pytest.skip("only CI promises the exact versions of tests/constraints.txt")
    installed = {}
    for requirement in EVERY:
        try:
            installed[canonicalize_name(requirement.name)] = Version(version(requirement.name)).public
        except PackageNotFoundError:
            installed[canonicalize_name(requirement.name)] = "missing"
    assert installed == {name: pinned()[name].public for name in installed}


def test_one_version_everywhere() -> None:
    """Package, pyproject.toml and CITATION.cff name the same version and licence."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert detr_mini.__version__ == PROJECT["version"] == citation["version"]
    assert PROJECT["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


# --- environment.yml --------------------------------------------------------------------------------------


def test_conda_environment_is_strict_conda() -> None:
    """conda-forge only, every conda line a valid match specification, one Python bound in both files."""
    assert ENVIRONMENT["channels"] == ["conda-forge", "nodefaults"]
    specifications = {line.split()[0]: MatchSpec(line, strict=True) for line in CONDA}
    assert set(specifications) == {"python", "pip"}
    assert str(specifications["python"].version) == PROJECT["requires-python"]


def test_conda_environment_installs_what_pip_does() -> None:
    """The pip part names exactly the packages and bounds of the package and the extras that it installs."""
    (editable,) = [line for line in PIP if line.startswith("-e ")]
    extras = re.fullmatch(r"-e \.\[([a-z,]+)\]", editable)[1].split(",")
    wanted = by_name([*RUNTIME, *(requirement for extra in extras for requirement in EXTRAS[extra])])
    assert by_name([Requirement(line) for line in PIP if line != editable]) == wanted


def test_conda_environment_says_who_uses_a_package() -> None:
    """Each package has a comment with its notebooks: every one, or numbers that exist."""
    numbers = {path.name[:2] for path in (ROOT / "notebooks" / "source").glob("*.py")}
    lines = [line for line in (ROOT / "environment.yml").read_text().splitlines() if line.lstrip().startswith("- ")]
    packages = [line for line in lines if line.strip().split("  #")[0][2:] in [*CONDA, *PIP]]
    assert len(packages) == len(CONDA) + len(PIP)
    for line in packages:
        comment = line.partition("  # ")[2]
        assert "every" in comment or set(re.findall(r"\b\d\d\b", comment)) & numbers, line
        assert set(re.findall(r"\b\d\d\b", comment)) <= numbers, line


# --- README and Makefile ----------------------------------------------------------------------------------


def test_first_screen_has_the_two_commands() -> None:
    """Whoever opens the README sees `make lab` and `make test` without scrolling."""
    screen = README.splitlines()[:30]
    assert any(line.startswith("make lab") for line in screen)
    assert any(line.startswith("make test") for line in screen)


def test_readme_names_only_targets_that_exist() -> None:
    """Each `make ...` of the README, in a block or in a sentence, is a target of the Makefile."""
    named = {line.split()[1] for line in COMMANDS if line.startswith("make ")} | set(re.findall(r"`make (\w+)", README))
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    assert {"lab", "test"} <= named <= TARGETS
    assert set(re.findall(r"^make (\w+)", contributing, re.MULTILINE)) <= TARGETS
    for name in ("TORCH", "ONE"):
        assert f"{name}=" in README + contributing and f"$({name})" in MAKEFILE


def test_every_target_is_listed_by_help() -> None:
    """`make` alone shows all of them, and all of them are phony."""
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"make (\w+)", shown)) == TARGETS - {"help"}
    assert set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()) == TARGETS


def test_readme_installs_extras_and_files_that_exist() -> None:
    """pip's extras, conda's file and environment name, and the notebook that is opened are the real ones."""
    extras = re.findall(r'pip install -e "\.\[([a-z,]+)\]"', README)
    assert extras and all(extra in EXTRAS for line in extras for extra in line.split(","))
    assert "conda env create -f environment.yml" in COMMANDS
    assert f"conda activate {ENVIRONMENT['name']}" in COMMANDS
    opened = [line.split()[-1] for line in COMMANDS if line.startswith("jupyter lab")]
    assert opened and all((ROOT / path).exists() for path in opened)
    assert f"/lab/tree/{opened[0]} " in MAKEFILE


def test_cpu_build_is_the_same_choice_everywhere() -> None:
    """README, Makefile and environment.yml point to one address for PyTorch without CUDA."""
    for text in (README, MAKEFILE, (ROOT / "environment.yml").read_text()):
        assert set(re.findall(r"--extra-index-url (\S+)", text)) == {"https://download.pytorch.org/whl/cpu"}


def test_makefile_installs_extras_that_exist() -> None:
    """A typo in an extra would install less, with only a warning of pip's."""
    lines = re.findall(r"--editable '\.\[([a-z,]+)\]'", MAKEFILE)
    assert lines and all(extra in EXTRAS for line in lines for extra in line.split(","))


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("python -m detr_mini ")])
def test_readme_commands_parse(line: str) -> None:
    """Every command line of the README is one that the program understands."""
    from detr_mini.__main__ import parser

    words = line.split()[3:]
    if "--help" in words:
        with pytest.raises(SystemExit, match="0"):
            parser().parse_args(words)
    else:
        assert parser().parse_args(words).command == words[0]


def test_readme_links_lead_somewhere() -> None:
    """Every relative link of the README is a file or folder of the project."""
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links and [link for link in links if not (ROOT / link).exists()] == []


# --- what a forge reads -----------------------------------------------------------------------------------

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_install_and_run_what_exists(path: Path) -> None:
    """Extras, make targets and files that a workflow names are the project's own."""
    workflow = yaml.safe_load(path.read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    said = "\n".join(step.get("run", "") for step in steps)
    assert any("pytest" in step.get("run", "") for step in steps)
    for extras in re.findall(r'"\.\[([a-z,]+)\]"', said):
        assert set(extras.split(",")) <= set(EXTRAS)
    assert set(re.findall(r"\bmake (\w+)", said)) <= TARGETS
    for name in re.findall(r"tests/[\w./]+", said):
        assert (ROOT / name).exists(), name


def test_workflows_try_the_oldest_python_that_is_promised() -> None:
    """Every system, with the lowest Python of pyproject.toml among the versions."""
    matrix = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]["unit"]["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"


def test_commits_are_linted_by_the_ruff_of_the_tests() -> None:
    """One version of ruff in pre-commit and in the constraints."""
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert Version(hook["rev"].removeprefix("v")) == pinned()["ruff"]


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_issue_forms_are_forms(path: Path) -> None:
    """Each has a name, a description and fields with an id and a label, or is the folder's configuration."""
    form = yaml.safe_load(path.read_text())
    if path.stem != "config":
        assert form["name"] and form["description"]
        assert all(field["attributes"]["label"] and field["id"] for field in form["body"])


def test_the_installed_command_is_the_module() -> None:
    """`detr-mini` calls what `python -m detr_mini` calls."""
    module, _, function = PROJECT["scripts"]["detr-mini"].partition(":")
    from detr_mini import __main__

    assert module == __main__.__name__ and getattr(__main__, function) is __main__.main


# --- what is in the repository ----------------------------------------------------------------------------


def test_no_tracked_file_names_a_place_on_one_machine() -> None:
    """No home folder and no path of this clone: what is committed must hold on every machine."""
    here = {ROOT, ROOT.parent, Path.home()} - {Path("/"), Path(tempfile.gettempdir())}
    patterns = [r"/(home|Users)/\w", r"[A-Z]:\\Users\\\w", *(rf"(?<![\w./-]){re.escape(str(path))}/" for path in here)]
    place = re.compile("|".join(patterns))
    guards = {"notebooks/build.py", "tests/notebooks/test_build.py", "tests/unit/test_repository.py"}
    texts = [path for path in tracked() if path.suffix not in BINARY and path.as_posix() not in guards]
    found = {str(path): match[0] for path in texts if (match := place.search((ROOT / path).read_text("utf-8")))}
    assert found == {}


def test_line_ends_are_line_feeds() -> None:
    """No carriage return in a text file: hashes and notebook comparisons read bytes."""
    texts = [path for path in tracked() if path.suffix not in BINARY]
    assert [str(path) for path in texts if b"\r\n" in (ROOT / path).read_bytes()] == []


# --- the ground that tests stand on (tests/conftest.py) ---------------------------------------------------


def test_tests_reach_no_network_but_loopback() -> None:
    """A connection or a look-up that leaves the machine fails at once and says why; loopback works."""
    with socket.socket() as client, pytest.raises(OSError, match="tests have no network: connect to 192.0.2.1"):
        client.connect(("192.0.2.1", 80))
    with pytest.raises(OSError, match="tests have no network: look up example.org"):
        socket.create_connection(("example.org", 80), timeout=1)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
        assert client.getpeername() == server.getsockname()


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_starts_from_the_same_numbers(turn: int) -> None:
    """The same draws in both turns, from all three generators."""
    drawn = random.random(), float(np.random.rand()), float(torch.rand(1))
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    assert drawn == (random.random(), float(np.random.rand()), float(torch.rand(1)))

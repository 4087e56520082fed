"""Build the course's notebooks from their text.

    python notebooks/build.py            build every notebook: run it in a fresh kernel, clean it, store it
    python notebooks/build.py 01 09      only these
    python notebooks/build.py --prose 10 only words have changed: run nothing, keep the outputs
    python notebooks/build.py --check    run nothing; say where stored notebooks and sources disagree

A notebook is edited in notebooks/source/NN_name.py, in jupytext's percent format. Each cell is stored as it
stands there, in notebooks/NN_name.ipynb. Two tags decide what differs between the two notebooks of a source:

    # %% tags=["exercise"]    the stub that a student fills in
    # %% tags=["solution"]    the very next cell: what takes the stub's place in notebooks/solutions/

A Markdown cell tagged "solution" stands in the solved notebook only. A source without exercises has no solved
notebook.

A picture needs words for those who do not see it. `plots.show(figure, alt="...")` stores both in one <img> element,
where they survive every export. For a bare PNG they are the plain-text form of the same output:

    display({"image/png": png, "text/plain": "Loss against step: it halves within 100 steps."}, raw=True)

The notebook test (nbval) knows neither clear_output() nor display updates: a cell that redraws itself while it runs
needs the tag "nbval-ignore-output". Give it nothing else to show, so that the results are still compared.
"""

import argparse
import hashlib
import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from detr_mini.files import atomic

HERE = Path(__file__).resolve().parent
CELL_SECONDS = 900
MAX_BYTES = 600_000
MIN_DESCRIPTION = 30  # characters
OF_ONE_MACHINE = re.compile("|".join([r"/(home|Users|root|tmp|mnt|var/folders)/\S+", r"[A-Z]:\\Users\\\S+",
                                      r"/site-packages/\S+", re.escape(str(HERE.parent)) + r"\S*"]))
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}
# exercise and solution: see above. slide and skip: in the slides, or not. gpu: the paper's recipe.
# nbval-...: the notebook test does not run a cell, or does not compare what it prints.
TAGS = {"exercise", "solution", "slide", "skip", "gpu", "nbval-skip", "nbval-ignore-output"}


class BuildError(ValueError):
    """A source that cannot be built, said in one line that names the file, the cell and the cure."""


# --- from text to cells ---------------------------------------------------------------------------------


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell, in the order of the source."""
    return list(cell.metadata.get("tags", []))


def read_source(path: Path) -> list[NotebookNode]:
    """Cells of one source, in order, each with its type, its text and its tags. BuildError when malformed."""
    cells = jupytext.read(path, fmt="py:percent").cells
    for number, cell in enumerate(cells, 1):
        if fault := cell_fault(cell) or pair_fault(cells, number - 1):
            raise BuildError(f"{path.name}, cell {number}: {fault}")
    if not cells:
        raise BuildError(f"{path.name}: no cell; start one with a line '# %%' or '# %% [markdown]'")
    return cells


def cell_fault(cell: NotebookNode) -> str | None:
    """What is wrong with a cell taken alone, or None."""
    if cell.cell_type not in ("code", "markdown"):
        return f"type {cell.cell_type!r}; a cell is '# %%' or '# %% [markdown]'"
    if not cell.source.strip():
        return "empty; write something or take its marker out"
    # lines_to_next_cell is jupytext's own note of blank lines.
    if unknown := sorted(set(cell.metadata) - {"tags", "lines_to_next_cell"}):
        return f"{unknown[0]!r} in its marker; only tags=[...] may stand there"
    if unknown := sorted(set(tags(cell)) - TAGS):
        return f"unknown tag {unknown[0]!r}; known are {', '.join(sorted(TAGS))}"
    return None


def pair_fault(cells: list[NotebookNode], index: int) -> str | None:
    """What is wrong with the exercise or solution at `index` and its neighbour, or None."""
    def is_code_with(tag: str, position: int) -> bool:
        inside = 0 <= position < len(cells)
        return inside and cells[position].cell_type == "code" and tag in tags(cells[position])

    cell = cells[index]
    if "exercise" in tags(cell) and not (cell.cell_type == "code" and is_code_with("solution", index + 1)):
        return "an exercise is a code cell, and the next cell is its solution"
    if is_code_with("solution", index) and not is_code_with("exercise", index - 1):
        return "a solution that is code comes right after its exercise"
    return None


def notebooks_of(source: Path) -> dict[Path, NotebookNode]:
    """Where each notebook of a source is stored -> that notebook, not yet run: student's, solved if any."""
    cells, folder = read_source(source), source.parent.parent
    student = [cell for cell in cells if "solution" not in tags(cell)]
    found = {folder / f"{source.stem}.ipynb": assemble(student)}
    if len(student) < len(cells):
        solved = [cell for cell in cells if "exercise" not in tags(cell)]
        found[folder / "solutions" / f"{source.stem}.ipynb"] = assemble(solved)
    return found


def assemble(cells: list[NotebookNode]) -> NotebookNode:
    """A notebook of these cells. A cell's id comes from its text, so that editing one cell moves no other."""
    seen, built = Counter(), []
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] += 1
        identity = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        new = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
        built.append(new(cell.source, id=identity, metadata={"tags": tags(cell)} if tags(cell) else {}))
    return nbformat.v4.new_notebook(cells=built, metadata=METADATA)


# --- run, clean, store ----------------------------------------------------------------------------------


def run(notebook: NotebookNode, path: Path) -> None:
    """Execute a notebook in place, in a fresh kernel started in its folder. BuildError when a cell fails."""
    with tempfile.TemporaryDirectory() as home:
        # Nobody's IPython profile takes part, and MPLBACKEND would keep the figures out of the outputs.
        environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
        environment |= {"IPYTHONDIR": home, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
                        "DETR_MINI_PROGRESS": "off"}  # whoever builds keeps their own progress out of the outputs
        client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3",
                                store_widget_state=False, record_timing=False,
                                extra_arguments=["--log-level=ERROR"],
                                resources={"metadata": {"path": str(path.parent)}})
        try:
            client.execute(env=environment)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise BuildError(f"{path.name} stopped, nothing is stored:\n{error}") from None


def clean(notebook: NotebookNode) -> None:
    """Take out, in place, what would differ at the next run although nothing has changed."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = merge_streams(cell.outputs)
            for output in cell.outputs:
                output.get("data", {}).pop(WIDGET_VIEW, None)
            cell.outputs = [output for output in cell.outputs if output.get("data") != {}]


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """One output per stream, where it first spoke: how a kernel splits its prints changes from run to run."""
    streams, merged = {}, []
    for output in outputs:
        if output.output_type != "stream":
            merged.append(output)
        elif output.name in streams:
            streams[output.name].text += output.text
        else:
            merged.append(streams.setdefault(output.name, output))
    for stream in streams.values():
        # A progress bar writes over its own line; keep what is seen at the end.
        stream.text = re.sub(r"^.*\r(?=[^\n])", "", stream.text, flags=re.MULTILINE)
    return merged


def store(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook where `path` says, whole or not at all."""
    nbformat.validate(notebook)
    with atomic(path) as temporary:
        temporary.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8", newline="\n")


def build(source: Path) -> list[Path]:
    """Run, clean and store the notebooks of one source; nothing is stored unless all of them ran."""
    found = notebooks_of(source)
    for path, notebook in found.items():
        print(f"running {path.relative_to(source.parent.parent)}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        run(notebook, path)
        clean(notebook)
    for path, notebook in found.items():
        store(notebook, path)
    return list(found)


def reword(source: Path) -> None:
    """Store the notebooks of a source with the outputs they have. BuildError when a code cell has changed."""
    found = notebooks_of(source)
    for path, notebook in found.items():
        code = [[cell for cell in one.cells if cell.cell_type == "code"]
                for one in (nbformat.read(path, as_version=4), notebook)]
        if [cell.source for cell in code[0]] != [cell.source for cell in code[1]]:
            raise BuildError(f"{path.name}: more than words has changed, so it has to run: build it without --prose")
        for stored, new in zip(*code, strict=True):
            new.outputs, new.execution_count = stored.outputs, stored.execution_count
    for path, notebook in found.items():
        store(notebook, path)


# --- check what is stored -------------------------------------------------------------------------------


def check(source: Path) -> list[str]:
    """Every way in which the stored notebooks of a source are not what it builds: one line each."""
    faults = []
    for path, expected in notebooks_of(source).items():
        name = path.relative_to(source.parent.parent)
        if not path.exists():
            faults.append(f"{name}: missing")
            continue
        try:
            stored = nbformat.read(path, as_version=4)
        except ValueError as error:
            faults.append(f"{name}: not a notebook ({error}); build it again")
            continue
        faults += [f"{name}: {fault}" for fault in [*differences(stored, expected), *health(stored)]]
        if (size := path.stat().st_size) > MAX_BYTES:
            faults.append(f"{name}: {size} bytes; the limit is {MAX_BYTES}, draw smaller figures")
    return faults


def differences(stored: NotebookNode, expected: NotebookNode) -> list[str]:
    """Where a stored notebook differs from its source in cells, text, tags, ids or notebook metadata."""
    faults = []
    if stored.metadata != expected.metadata:
        faults.append("its metadata is not what the build writes")
    if len(stored.cells) != len(expected.cells):
        return [*faults, f"{len(stored.cells)} cells, but {len(expected.cells)} in the source"]
    for number, (old, new) in enumerate(zip(stored.cells, expected.cells, strict=True), 1):
        for part in ("cell_type", "source", "metadata", "id"):
            if old.get(part) != new[part]:
                faults.append(f"cell {number}: its {part} is not that of the source")
                break
    return faults


def health(stored: NotebookNode) -> list[str]:
    """Signs that a stored notebook was not run from top to bottom, or that an output is unfit to be read."""
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    faults = [] if any(cell.outputs for cell in code) else ["no cell has an output"]
    for number, cell in enumerate(code, 1):
        if cell.execution_count != number:
            faults.append(f"code cell {number}: execution count {cell.execution_count}, not {number}")
        found = filter(None, map(output_fault, cell.outputs))
        faults += [f"code cell {number}: {fault}" for fault in found]
    return faults


def output_fault(output: NotebookNode) -> str | None:
    """What is wrong with one stored output, or None."""
    data = output.get("data", {})
    if output.output_type == "error":
        return f"ends in an error, {output.ename}"
    if WIDGET_VIEW in data:
        return "a widget view that no stored notebook can show"
    plain = data.get("text/plain", "")
    described = len(plain) >= MIN_DESCRIPTION and not plain.startswith("<")
    if any(kind.startswith("image/") for kind in data) and not described:
        return f"a picture without a description (its plain text is {plain[:50]!r})"
    for element in re.findall(r"<img\b[^>]*>", data.get("text/html", "")):
        words = re.search(r'\balt="([^"]*)"', element)
        if words is None or len(words[1]) < MIN_DESCRIPTION:
            return "an <img> without a description (alt); show figures with plots.show"
    texts = [output.get("text", ""), *(text for kind, text in data.items() if kind.startswith("text/"))]
    texts = [re.sub(r"base64,[\w+/=]+", "", text) for text in texts]  # in a picture's bytes any letters may turn up
    if found := next((match for text in texts if (match := OF_ONE_MACHINE.search(text))), None):
        return f"names a place on one machine, {found[0]!r}"
    return None


def orphans(folder: Path) -> list[str]:
    """Stored notebooks that no source builds."""
    stored = {*folder.glob("*.ipynb"), *folder.glob("solutions/*.ipynb")}
    built = {path for source in sources(folder, []) for path in notebooks_of(source)}
    return [f"{path.relative_to(folder)}: no source builds it" for path in sorted(stored - built)]


# --- command line ---------------------------------------------------------------------------------------


def sources(folder: Path, names: list[str]) -> list[Path]:
    """Sources of a course folder in reading order; `names` are numbers or stems, none of them means all."""
    every = sorted(folder.glob("source/*.py"))
    for name in names:
        if not any(path.stem == name or path.stem.startswith(f"{name}_") for path in every):
            raise BuildError(f"no source is called {name!r}; there are {', '.join(p.stem for p in every)}")
    return [path for path in every if not names or path.stem in names or path.stem.split("_")[0] in names]


def main(arguments: list[str] | None = None, folder: Path = HERE) -> int:
    """Build or check; 0 when all went well, 1 otherwise, with the reasons on standard error."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("names", nargs="*", help="numbers (09) or names (09_train_detr); none means all")
    parser.add_argument("--prose", action="store_true", help="only words have changed: keep the outputs")
    parser.add_argument("--check", action="store_true", help="run nothing, only compare")
    options = parser.parse_args(arguments)
    faults = []
    try:
        for source in sources(folder, options.names):
            if options.prose:
                reword(source)
            elif not options.check:
                build(source)
            faults += check(source)
        faults += [] if options.names else orphans(folder)
    except BuildError as error:
        faults.append(str(error))
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

"""A notebook as one HTML page whose pictures still answer: no kernel, no network, one file to pass on.

    python -m detr_mini.course.export notebooks/05_encoder.ipynb            # writes 05_encoder.html
    python -m detr_mini.course.export my.ipynb --to pages/my.html

The notebook is run first, from top to bottom. nbconvert makes the page. A widget that draws in the browser itself
(an anywidget, as AttentionExplorer) is put into it with all that it knows and answers to pointer and keys. Sliders that
ask a kernel cannot; in their place stands the still picture that the notebook stores.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from detr_mini.files import atomic

VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
HOST = Path(__file__).with_suffix(".js")
NOTHING = "data:text/javascript,"  # a script that loads nothing, in place of one from a server


def run(notebook: NotebookNode, folder: Path) -> None:
    """Run a notebook in place, in a fresh kernel in its folder, and keep its widgets' state. The learner's progress in
    the course is left alone. CellExecutionError when a cell fails."""
    client = NotebookClient(notebook, timeout=None, store_widget_state=True, kernel_name=kernel_of(notebook),
                            resources={"metadata": {"path": folder}})
    client.execute(env=os.environ | {"DETR_MINI_PROGRESS": "off"})


def kernel_of(notebook: NotebookNode) -> str:
    """The kernel that a notebook names, if this machine has it; else this Python's own, "python3".

    A notebook saved elsewhere names the kernel of that machine.
    """
    named = notebook.metadata.get("kernelspec", {}).get("name", "")
    return named if named in KernelSpecManager().find_kernel_specs() else "python3"


def enliven(notebook: NotebookNode) -> int:
    """Put every anywidget, with its state, where its still picture was; take all other live views out, in place.

    Returns how many widgets are alive.
    """
    widgets = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [(output.data, output.data.pop(VIEW)) for output in outputs if VIEW in output.get("data", {})]
    alive = 0
    for data, view in shown:
        widget = widgets.get(view["model_id"], {})
        if widget.get("model_module") == "anywidget":
            alive += 1
            data["text/html"] = live_html(widget, data.get("text/html", ""), f"live-{alive}")
    return alive


def live_html(widget: dict, still: str, identity: str) -> str:
    """A place with the still picture in it, the widget's state, and a script that puts the live widget there."""
    own = {name: value for name, value in widget["state"].items()
           if not name.startswith("_") or name in ("_esm", "_css")}
    buffers = {part["path"][0]: part["data"] for part in widget.get("buffers", []) if len(part["path"]) == 1}
    state = json.dumps({"state": own, "buffers": buffers}).replace("<", "\\u003c")
    return "\n".join([
        f'<div id="{identity}">{still}</div>',
        f'<script type="application/json" id="{identity}-state">{state}</script>',
        f'<script type="module">{HOST.read_text()}\nawait host("{identity}");</script>',
    ])


def page(notebook: NotebookNode, title: str) -> str:
    """The HTML of a notebook that ran. It asks the network for nothing, unless the notebook has formulas in TeX."""
    enliven(notebook)
    formulas = any("$" in cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    exporter = HTMLExporter(require_js_url=NOTHING, **({} if formulas else {"mathjax_url": NOTHING}))
    return exporter.from_notebook_node(notebook, {"metadata": {"name": title}})[0]


def main(arguments: list[str] | None = None) -> int:
    """Run and write; 0 when all went well, 1 otherwise, with the reason on standard error."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m detr_mini.course.export", description=__doc__,
                                     formatter_class=layout)
    parser.add_argument("notebook", type=Path, help="a notebook, .ipynb")
    parser.add_argument("--to", type=Path, help="where the page goes; by default NAME.html in the present folder")
    options = parser.parse_args(arguments)
    target = options.to or Path(f"{options.notebook.stem}.html")
    try:
        notebook = nbformat.read(options.notebook, as_version=4)
        run(notebook, options.notebook.resolve().parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic(target) as temporary:
            temporary.write_text(page(notebook, options.notebook.stem), encoding="utf-8")
    except (OSError, ValueError, CellExecutionError) as error:
        print(f"{options.notebook}: {error}", file=sys.stderr)
        return 1
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""python -m detr_mini export-onnx"""

import argparse
from pathlib import Path

from detr_mini.commands.shared import add_weights, positive
from detr_mini.printing import plain


def add_export_onnx(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "export-onnx", help="a detector as one ONNX file, for programs without PyTorch",
        description="Write a detector as ONNX: images (1, 3, H, W) in, scores (1, Q, C) and boxes (1, Q, 4) out. The "
        "size is fixed. onnxruntime runs the file beside PyTorch before it is kept. Needs the extra: "
        'pip install "detr_mini[onnx]"',
    )
    add_weights(command)
    command.add_argument("--to", type=Path, default=Path("detector.onnx"), help="file to write (default: %(default)s)")
    command.add_argument("--height", type=int, help="of the images, in pixels (default: as the detector is evaluated)")
    command.add_argument("--width", type=int, help="of the images, in pixels (default: the height)")
    command.set_defaults(run=run_export_onnx)


def run_export_onnx(options: argparse.Namespace) -> None:
    """Write the file, and say how near its answers are to PyTorch's."""
    from detr_mini.onnx_export import export
    from detr_mini.weights import open_weights

    found = open_weights(options.weights, options.preset)
    for line in found.said[:1]:
        print(line, flush=True)
    height = positive(options.height, "--height") if options.height is not None else found.recipe.eval_size
    width = positive(options.width, "--width") if options.width is not None else height
    difference = export(found, options.to, (height, width))
    size = options.to.stat().st_size / 1e6
    print(f"{plain(options.to)}: {size:.1f} MB, for images of {width} x {height}; onnxruntime and PyTorch differ by "
          f"{difference:.1g} at most on a random image")

"""A trained detector as one ONNX file, for programs without PyTorch: a browser, a phone, C++.

    export(open_weights("final.safetensors"), Path("detector.onnx"))

The file takes `images` (1, 3, H, W), float32, resized and normalised as the detector wants them, and gives `scores`
(1, Q, C), from 0 to 1, and `boxes` (1, Q, 4), centre, width and height as parts of the image. There is no suppression
to be done. Its metadata say the class names, the size, and the mean and standard deviation of the colours, as JSON. The
size is fixed: positions are computed for one size, and a free one is not offered.

Before the file is kept, onnxruntime runs it on a random image beside PyTorch.
"""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from detr_mini.detr import Detr
from detr_mini.files import atomic, require_place
from detr_mini.sampling import sample_by_grid
from detr_mini.variants import deformable_attention
from detr_mini.weights import Weights

OPSET = 20
# The exporter's optimiser (torch 2.14) leaves a node of these without its input.
AS_TRACED = ("conditional", "dab", "deformable", "sam")
ALLOWED = 1e-3  # difference of a score or a part of the image, beyond which a file is not kept


class Answers(nn.Module):
    """A detector that gives scores and boxes of its last layer; images (1, 3, H, W)."""

    def __init__(self, model: Detr) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(images)
        recipe = self.model.recipe
        if recipe.head == "softmax":
            return output.logits[-1].softmax(-1)[..., :-1], output.boxes[-1]
        return output.logits[-1][..., : recipe.classes].sigmoid(), output.boxes[-1]


def export(found: Weights, to: Path, size: tuple[int, int] | None = None) -> float:
    """Write a detector as ONNX; returns the largest difference between onnxruntime and PyTorch on a random image.

    size: height and width of the images, by default the square of the size that the detector is evaluated at. Raises
    ImportError saying what to install, ValueError for a size below 32 pixels and when the two disagree; no file is
    written then.
    """
    require_onnx()
    require_place(to)
    height, width = size or (found.recipe.eval_size, found.recipe.eval_size)
    if min(height, width) < 32:
        raise ValueError(f"a picture of {width} x {height} pixels is too small: give 32 or more")
    answers, images = Answers(found.model.eval()), torch.randn(1, 3, height, width)
    with torch.no_grad(), by_grid():
        wanted = answers(images)
        program = traced(answers, images, optimize=found.model.system not in AS_TRACED)
    for name, value in described(found, height, width).items():
        program.model.metadata_props[name] = json.dumps(value)
    with atomic(to) as temporary:
        program.save(str(temporary))
        difference = compared(temporary, images, wanted)
        if not difference <= ALLOWED:
            raise ValueError(f"onnxruntime's answers differ from PyTorch's by {difference:.2g}: {to} was not written")
    return difference


def require_onnx() -> None:
    """ImportError, with the cure, when one of the three packages is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f'{error.name} is not installed: pip install "detr_mini[onnx]"') from None


@contextlib.contextmanager
def by_grid() -> Iterator[None]:
    """Deformable attention samples through an operator that ONNX has, inside the block."""
    before = deformable_attention.sample
    deformable_attention.sample = sample_by_grid
    try:
        yield
    finally:
        deformable_attention.sample = before


def traced(answers: nn.Module, images: Tensor, optimize: bool) -> "torch.onnx.ONNXProgram":
    """The exporter, without what it says about itself."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        return torch.onnx.export(answers, (images,), dynamo=True, opset_version=OPSET, optimize=optimize, verbose=False,
                                 input_names=["images"], output_names=["scores", "boxes"])


def described(found: Weights, height: int, width: int) -> dict[str, object]:
    """What a program must know to use the file."""
    recipe = found.recipe
    return {"detector": found.model.system, "classes": found.classes, "height": height, "width": width,
            "mean": recipe.mean, "std": recipe.std}


def compared(path: Path, images: Tensor, wanted: tuple[Tensor, Tensor]) -> float:
    """The largest difference between a file's answers in onnxruntime and `wanted`; infinite for what is no number."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: it would tell of every node that it leaves for run time
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    answers = session.run(["scores", "boxes"], {"images": images.numpy()})
    pairs = zip(answers, wanted, strict=True)
    differences = torch.stack([(torch.from_numpy(one) - other).abs().max() for one, other in pairs])
    return float(differences.max()) if torch.isfinite(differences).all() else float("inf")

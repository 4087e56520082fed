"""Hold a detector against numbers measured on the authors' own implementation.

    python tests/golden/check.py tests/golden/detr.json [MORE.json ...]

Each FILE.json has FILE.npz and FILE.keys.json beside it. The weights and images follow the recipe in fill.py, so no
weight file is needed. Prints the largest difference of every entry beside its tolerance. Everything is computed in
float32; gradients that miss a tolerance are computed again in float64, to tell rounding from a mistake. Exits with 1
when one is exceeded, with 2 when a system is unknown or a file is missing or broken.
"""

import json
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from fill import array, fill  # noqa: E402
from systems import BUILDERS, NUMBERS, OBSERVERS, Pass  # noqa: E402

from detr_mini.checkpoints import load_official, to_official  # noqa: E402
from detr_mini.detr import Detr  # noqa: E402
from detr_mini.losses import SetCriterion  # noqa: E402
from detr_mini.matching import Matches  # noqa: E402
from detr_mini.recipes import LossRecipe  # noqa: E402
from detr_mini.trace import AttentionTrace  # noqa: E402


class UnknownCase(Exception):
    """A file that this checker cannot judge; the message says why."""


@dataclass
class Case:
    """One golden file: its description, its arrays, and the official names."""

    facts: dict
    arrays: dict[str, np.ndarray]
    keys: dict

    @classmethod
    def read(cls, path: Path) -> "Case":
        """Read FILE.json with its two companions; UnknownCase naming the file when one is missing or broken."""
        try:
            facts = json.loads(path.read_text())
            with np.load(path.with_suffix(".npz")) as stored:
                arrays = {name: stored[name] for name in stored.files}
            keys = json.loads(path.with_suffix(".keys.json").read_text())
        except (OSError, ValueError) as error:
            raise UnknownCase(f"{path}: cannot be read as a golden file ({error})") from error
        if not isinstance(facts, dict) or "system" not in facts:
            raise UnknownCase(f"{path}: names no system; expected a golden JSON file")
        return cls(facts, arrays, keys)


@dataclass
class Row:
    """One comparison: what was compared, the largest difference, and how much is allowed."""

    entry: str
    difference: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return bool(self.difference <= self.tolerance)  # False for NaN


def build(case: Case) -> Detr:
    """The detector of a case, filled by the recipe under the official names."""
    system = case.facts["system"]
    if system not in BUILDERS:
        raise UnknownCase(f"system {system!r} is unknown here: known are {', '.join(BUILDERS)}")
    model = BUILDERS[system](case.facts).eval()
    weights = fill(case.keys["keys"], case.facts["weight_seed"], case.keys["canonical_of"])
    checksum = 0
    for name in sorted(weights):
        checksum = zlib.crc32(weights[name].numpy().tobytes(), zlib.crc32(name.encode(), checksum))
    assert checksum == case.facts["inputs"]["weights_crc32"], "the recipe does not give the weights it should"
    return load_official(model, weights)


def batch(case: Case) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """Images (B, 3, H, W) padded with zeros, their mask (B, H, W), and the targets."""
    sizes = case.facts["image_sizes_hw"]
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    images, mask = torch.zeros(len(sizes), 3, height, width), torch.ones(len(sizes), height, width, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        images[i, :, :h, :w] = array(f"image{i}", (3, h, w), case.facts["input_seed"])
        mask[i, :h, :w] = False
    targets = [
        {"labels": torch.tensor(t["labels"]), "boxes": torch.tensor(t["boxes"]), "image_id": i}
        for i, t in enumerate(case.facts["targets"])
    ]
    return images, mask, targets


def samples(prefix: str, values: Tensor) -> dict[str, Tensor]:
    """Mean, population standard deviation and first 16 values of everything after the first axis."""
    flat = values.flatten(1)
    return {
        f"{prefix}_mean": flat.mean(1), f"{prefix}_std": flat.std(1, correction=0), f"{prefix}_first16": flat[:, :16]
    }


def whole(prefix: str, values: Tensor) -> dict[str, Tensor]:
    """The same of one whole tensor."""
    return {name: value[0] for name, value in samples(prefix, values[None]).items()}


class Watch:
    """Collects the outputs of named modules during a forward pass."""

    def __init__(self, model: Detr) -> None:
        self.outputs: dict[str, list[Tensor]] = {}
        watched = {"position": [model.grid_position], "proj": model.input_proj, "memory": [model.encoder]}
        for name, modules in watched.items():
            for module in modules:
                module.register_forward_hook(self.hook(name))

    def hook(self, name: str):
        return lambda module, inputs, output: self.outputs.setdefault(name, []).append(output.detach())


def observe(case: Case, model: Detr) -> tuple[dict[str, Tensor], dict[str, float], dict, dict[str, Tensor]]:
    """Forward, loss, backward: arrays and losses by their golden names, matches, gradients by official names."""
    images, mask, targets = batch(case)
    watch = Watch(model)
    with AttentionTrace(model) as trace:
        output = model(images, mask)
    criterion = SetCriterion(loss_recipe(case), model.recipe.classes, model.recipe.head)
    losses = criterion(output, targets)
    total = criterion.total(losses)
    total.backward()
    seen, system = Pass(model, output, trace, targets, criterion.matches), case.facts["system"]
    arrays = common_arrays(case, model, output, watch, trace) | backbone_arrays(model, images)
    arrays |= OBSERVERS[system](seen) if system in OBSERVERS else {}
    matched = {f"layer{layer}": pairs(criterion.matches, layer, len(images)) for layer in range(len(output.logits))}
    if output.proposals is not None:
        matched["encoder"] = pairs(criterion.proposal_matches, 0, len(images))
    numbers = {name: float(value.detach()) for name, value in losses.items()} | {"total_loss": float(total.detach())}
    numbers |= NUMBERS[system](seen) if system in NUMBERS else {}
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return arrays, numbers, matched, gradients


def pairs(matches: Matches, layer: int, images: int) -> list[list[list[int]]]:
    """Per image the matched [query, target] pairs of one layer."""
    return [[list(pair) for pair in matches.pairs(layer, image)] for image in range(images)]


def common_arrays(case: Case, model: Detr, output, watch: Watch, trace: AttentionTrace) -> dict[str, Tensor]:
    """The arrays that every system has."""
    last = len(output.logits) - 1
    arrays = {"pred_boxes": output.boxes[-1], "pred_logits_q7": output.logits[-1, :, ::7]}
    arrays |= samples("layer_logits", output.logits) | samples("layer_boxes", output.boxes)
    arrays |= samples("dec_out", trace["decoder"].content)
    for level, projected in enumerate(watch.outputs["proj"]):
        arrays |= whole(f"proj{level}", projected)
    if "pos_probe" in case.arrays:
        positions = watch.outputs["position"]  # per level (B, H, W, d)
        arrays["pos_probe"] = torch.stack([position[1, 1, 2] for position in positions])
        arrays["pos_first"] = positions[0][0, 0, 0]
    memory, hidden = watch.outputs["memory"][0], trace[""].padding_mask  # (B, HW, d), (B, HW)
    valid = [one[~padding] for one, padding in zip(memory, hidden, strict=True)]
    arrays["memory_valid_mean"] = torch.stack([v.mean() for v in valid])
    arrays["memory_valid_std"] = torch.stack([v.std(correction=0) for v in valid])
    arrays["memory_first32"] = memory[:, 0, :32]
    for name, layer in (("xattn_first", 0), ("xattn_last", last)):
        if name in case.arrays:
            arrays[name] = trace[f"decoder.layers.{layer}.cross_attention"].weights[:, 0, 0]
    return arrays


@torch.no_grad()
def backbone_arrays(model: Detr, images: Tensor) -> dict[str, Tensor]:
    """Samples of all four stages of the backbone."""
    backbone, arrays = model.backbone, {}
    wanted, backbone.stages = backbone.stages, (1, 2, 3, 4)
    for stage, features in enumerate(backbone(images), start=1):
        arrays |= whole(f"backbone_layer{stage}", features)
    backbone.stages = wanted
    return arrays


def relative(got: float, want: float) -> float:
    return abs(got - want) / max(abs(want), 1e-6)


def compare_arrays(case: Case, arrays: dict[str, Tensor]) -> list[Row]:
    """Absolute differences; boxes and logits also by their median. An array that is not computed has difference inf.

    A file may say that only some of its images have defined numbers (padded images of SAM-DETR); it then has no
    tolerance for what mixes all images, and that is left out.
    """
    allowed, rows = case.facts["tolerance"], []
    defined = allowed["images_with_defined_numbers"]
    for name, want in case.arrays.items():
        kind = {"pred_boxes": "boxes", "pred_logits_q7": "logits"}.get(name)
        got = arrays[name].detach().numpy() if name in arrays else np.full(want.shape, np.inf)
        if got.shape != want.shape:
            raise UnknownCase(f"{name}: shape {got.shape}, expected {want.shape}")
        difference = np.abs(got - want)[defined] if kind else np.abs(got - want)
        limits = [allowed[f"{kind}_abs"], allowed[f"{kind}_median_abs"]] if kind else [allowed["other_arrays_abs"]]
        found = [(name, difference.max()), (f"{name} (median)", np.median(difference))]
        pairs = zip(found, limits, strict=False)
        rows += [Row(entry, float(value), limit) for (entry, value), limit in pairs if limit is not None]
    return rows


def compare_numbers(case: Case, numbers: dict[str, float], matched: dict) -> list[Row]:
    """Relative differences of every loss, and the number of layers whose matching differs (none may)."""
    allowed = case.facts["tolerance"]
    rows = [
        Row(name, relative(numbers.get(name, float("inf")), want), allowed["loss_rel"])
        for name, want in case.facts["losses"].items()
    ]
    rows.append(Row("total_loss", relative(numbers["total_loss"], case.facts["total_loss"]), allowed["total_loss_rel"]))
    wrong = sum(matched.get(layer) != pairs for layer, pairs in case.facts["matched"].items())
    return [*rows, Row("matched (layers that differ)", float(wrong), 0.0)]


def compare_gradients(case: Case, model: Detr, gradients: dict[str, Tensor]) -> list[Row]:
    """Relative differences of gradient norms: of all parameters, of the named ones, and the worst of every other."""
    official = to_official(model.system, gradients, list(case.keys["keys"]))
    norms = {name: float(gradient.norm()) for name, gradient in official.items()}
    allowed = case.facts["tolerance"]
    total = float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())
    rows = [Row("grad_norm", relative(total, case.facts["grad_norm"]), allowed["grad_norm_rel"])]
    for name, want in case.facts["grad_norm_named"].items():
        rows.append(Row(f"grad {name}", relative(norms.get(name, float("inf")), want), allowed["grad_norm_named_rel"]))
    floor = 1e-5 * case.facts["grad_norm"]  # gradients below this are rounding, in the official code as well
    others = {name: want for name, want in case.keys["grad_norms"].items() if want > floor}
    worst = max(others, key=lambda name: relative(norms.get(name, float("inf")), others[name]))
    rows.append(
        Row(f"grad, worst of all {len(others)}: {worst}", relative(norms.get(worst, float("inf")), others[worst]),
            10 * allowed["grad_norm_named_rel"])
    )
    return rows


def check(path: Path) -> list[Row]:
    """Every comparison of one golden file."""
    case = Case.read(path)
    torch.set_num_threads(1)
    model = build(case)
    arrays, numbers, matched, gradients = observe(case, model)
    rows = compare_arrays(case, arrays)
    if case.facts["tolerance"]["loss_rel"] is None:  # the loss mixes images with and without defined numbers
        return rows
    of_gradients = compare_gradients(case, model, gradients)
    if not all(row.holds for row in of_gradients):  # rounding, which differs from processor to processor, or an error?
        of_gradients = compare_gradients(case, model, double_gradients(case))
        of_gradients = [Row(f"{row.entry} (float64)", row.difference, row.tolerance) for row in of_gradients]
    return rows + compare_numbers(case, numbers, matched) + of_gradients


def double_gradients(case: Case) -> dict[str, Tensor]:
    """The gradients of `total_loss` through a detector in float64, where rounding has no say. The loss stays float32.

    The golden numbers are float32 results; each file tells under `float64_check` how far those are from float64.
    """
    standard, model = torch.get_default_dtype(), build(case).double()
    for module in model.modules():  # addresses are computed in float32: widen whatever goes into a module
        module.register_forward_pre_hook(lambda module, inputs: tuple(map(widened, inputs)))
    images, mask, targets = batch(case)
    criterion = SetCriterion(loss_recipe(case), model.recipe.classes, model.recipe.head)
    try:
        torch.set_default_dtype(torch.float64)
        output = model(images.double(), mask)
    finally:
        torch.set_default_dtype(standard)
    criterion.total(criterion(output, targets)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def widened(value: object) -> object:
    """A float32 tensor as float64; anything else as it is."""
    return value.double() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def loss_recipe(case: Case) -> LossRecipe:
    """The weights of losses and of matching costs of a case."""
    weights, costs = case.facts["loss_weights"], case.facts["matcher_costs"]
    return LossRecipe(
        weights["loss_ce"], weights["loss_bbox"], weights["loss_giou"],
        costs["cost_class"], costs["cost_bbox"], costs["cost_giou"],
    )


def main(paths: list[str]) -> int:
    if not paths or {"-h", "--help"} & set(paths):
        print(__doc__)
        return 0 if paths else 2
    status = 0
    for path in paths:
        try:
            rows = check(Path(path))
        except UnknownCase as error:
            print(f"{path}: {error}", file=sys.stderr)
            status = 2
            continue
        print(f"{path}\n{'entry':<70} {'difference':>12} {'tolerance':>12}")
        for row in rows:
            print(f"{row.entry:<70} {row.difference:12.3g} {row.tolerance:12.3g}{'' if row.holds else '  EXCEEDED'}")
        bad = sum(not row.holds for row in rows)
        print(f"{len(rows) - bad} of {len(rows)} entries hold\n")
        status = max(status, int(bad > 0))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

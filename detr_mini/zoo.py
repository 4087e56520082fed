"""The zoo: every detector by name, with its paper, its recipes, and how it differs from DETR."""

from dataclasses import dataclass

from detr_mini import recipes
from detr_mini.detr import Detr
from detr_mini.published import published
from detr_mini.recipes import ModelRecipe, Recipe
from detr_mini.side_by_side import SideBySide, compare
from detr_mini.variants.anchor import AnchorDetr
from detr_mini.variants.conditional import ConditionalDetr
from detr_mini.variants.dab import DabDetr
from detr_mini.variants.deformable import DeformableDetr
from detr_mini.variants.sam import SamDetr
from detr_mini.variants.smca import SmcaDetr

PRESETS = ("scenes", "coco")


@dataclass(frozen=True)
class Entry:
    """One detector: its class, the paper, what it fixes, and its recipe for scenes. Those for COCO: published.py."""

    detector: type[Detr]
    paper: str
    fixes: str
    scenes: Recipe


ENTRIES: dict[str, Entry] = {
    "detr": Entry(
        Detr,
        "Carion et al. 2020, End-to-End Object Detection with Transformers",
        "the base: detection as set prediction, no anchors, no suppression",
        recipes.DETR_SCENES,
    ),
    "conditional": Entry(
        ConditionalDetr,
        "Meng et al. 2021, Conditional DETR for Fast Training Convergence",
        "what a query looks for and where it looks are compared separately",
        recipes.CONDITIONAL_SCENES,
    ),
    "deformable": Entry(
        DeformableDetr,
        "Zhu et al. 2021, Deformable DETR: Deformable Transformers for End-to-End Object Detection",
        "a query looks at a few places that it chooses near a reference, on all scales",
        recipes.DEFORMABLE_SCENES,
    ),
    "smca": Entry(
        SmcaDetr,
        "Gao et al. 2021, Fast Convergence of DETR with Spatially Modulated Co-Attention",
        "a query first guesses a centre and then looks around it, through a Gaussian of its own in every head",
        recipes.SMCA_SCENES,
    ),
    "anchor": Entry(
        AnchorDetr,
        "Wang et al. 2022, Anchor DETR: Query Design for Transformer-Based Object Detection",
        "a query is a point that asks in several patterns; attention goes along rows and columns",
        recipes.ANCHOR_SCENES,
    ),
    "dab": Entry(
        DabDetr,
        "Liu et al. 2022, DAB-DETR: Dynamic Anchor Boxes are Better Queries for DETR",
        "a query is an anchor box that sets how far it looks and is corrected in every layer",
        recipes.DAB_SCENES,
    ),
    "sam": Entry(
        SamDetr,
        "Zhang et al. 2022, Accelerating DETR Convergence via Semantic-Aligned Matching",
        "a query asks with the image's own features, taken at salient points of its box",
        recipes.SAM_SCENES,
    ),
}


def names() -> list[str]:
    """The detectors that can be built."""
    return list(ENTRIES)


def entry(name: str) -> Entry:
    """One detector's entry; ValueError naming the choices for a name that is not there."""
    if name not in ENTRIES:
        raise ValueError(f"no detector {name!r}: choose one of {', '.join(ENTRIES)}")
    return ENTRIES[name]


def presets(name: str) -> dict[str, Recipe]:
    """A detector's recipes: "scenes", "coco", and the other forms that have a figure on COCO, such as "coco-dc5"."""
    return {"scenes": entry(name).scenes} | {preset: form.recipe for preset, form in published(name).items()}


def recipe(name: str, preset: str = "scenes") -> Recipe:
    """One detector's recipe; ValueError naming the choices for an unknown name or preset."""
    found = presets(name)
    if preset not in found:
        raise ValueError(f"no preset {preset!r}: choose one of {', '.join(found)}")
    return found[preset]


def build(name: str, preset: str = "scenes", model: ModelRecipe | None = None) -> Detr:
    """A detector with random weights. model: its shape; by default the preset's.

    The small backbone comes pre-trained. ResNet-50 comes with random weights: see `ResNet50.load_imagenet`.
    """
    detector = entry(name).detector(model or recipe(name, preset).model)
    if detector.recipe.backbone == "small":
        detector.backbone.load_pretrained()
    return detector


def build_bare(name: str, model: ModelRecipe) -> Detr:
    """A detector whose weights are about to be loaded: as `build`, and no file is read."""
    return entry(name).detector(model)


def show_diff(name: str) -> SideBySide:
    """How a detector differs from the base: every method it overrides beside the one it replaces, from the source.

    A notebook shows the result as tables; in a terminal, `print(zoo.show_diff("dab"))`. Raises ValueError for a name
    that is not there, and for the base itself.
    """
    detector = entry(name).detector
    if detector is Detr:
        variants = ", ".join(other for other in ENTRIES if other != name)
        raise ValueError(f"{name!r} is the base itself, so there is nothing to compare: choose one of {variants}")
    return compare(name, detector)


def sizes(name: str) -> str:
    """How large a detector is in both presets, counted on the model itself: "coco 41.5 M parameters, scenes 1.5 M"."""
    counts = {preset: count(entry(name).detector(recipe(name, preset).model)) for preset in reversed(PRESETS)}
    return ", ".join(f"{preset} {number / 1e6:.1f} M parameters" for preset, number in counts.items())


def count(model: Detr) -> int:
    """Parameters of a detector, trained or frozen."""
    return sum(parameter.numel() for parameter in model.parameters())

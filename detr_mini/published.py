"""The forms in which each detector's authors published a figure on COCO: recipe, AP, and where the figure is from.

    zoo.recipe("deformable", "coco-two-stage")

AP is that of val2017 with ResNet-50, as the authors' repositories list it. A recipe says what their code does by
default; where a figure was reached with a longer schedule, the epochs beside it say so.
"""

from dataclasses import dataclass, replace

from detr_mini import recipes
from detr_mini.recipes import Recipe, resized


@dataclass(frozen=True)
class Form:
    """A recipe and what came of it. ap: from 0 to 100; None where nobody published one. epochs: of that figure."""

    recipe: Recipe
    ap: float | None
    epochs: int
    source: str


def epochs(recipe: Recipe, number: int, drop: int) -> Recipe:
    """The same recipe with another schedule; the learning rate falls after epoch `drop`."""
    return replace(recipe, train=replace(recipe.train, epochs=number, drop=drop / number))


DETR, CONDITIONAL = "facebookresearch/detr, README", "Atten4Vis/ConditionalDETR, README"
DEFORMABLE, SMCA = "fundamentalvision/Deformable-DETR, README", "Gao et al. 2021"
ANCHOR, DAB = "megvii-research/AnchorDETR, README", "IDEA-Research/DAB-DETR, README"
SAM = "ZhangGongjie/SAM-DETR, README"
SAM_SHORT = epochs(resized(recipes.SAM_COCO, norm_input=True), 12, 10)

FORMS: dict[str, dict[str, Form]] = {
    "detr": {
        "coco": Form(recipes.DETR_COCO, 42.0, 500, DETR),
        "coco-dc5": Form(resized(recipes.DETR_COCO, dilation=True), 43.3, 500, DETR),
    },
    "conditional": {
        "coco": Form(recipes.CONDITIONAL_COCO, 41.0, 50, CONDITIONAL),
        "coco-dc5": Form(resized(recipes.CONDITIONAL_COCO, dilation=True), 43.7, 50, CONDITIONAL),
    },
    "deformable": {
        "coco": Form(recipes.DEFORMABLE_COCO, 44.5, 50, DEFORMABLE),
        "coco-single": Form(resized(recipes.DEFORMABLE_COCO, levels=1), 39.4, 50, DEFORMABLE),
        "coco-refine": Form(resized(recipes.DEFORMABLE_COCO, refine=True), 46.2, 50, DEFORMABLE),
        "coco-two-stage": Form(resized(recipes.DEFORMABLE_COCO, refine=True, two_stage=True), 46.9, 50, DEFORMABLE),
    },
    "smca": {
        "coco": Form(recipes.SMCA_COCO, 41.0, 50, SMCA),
        "coco-multi": Form(recipes.SMCA_MULTI_COCO, None, 50, "our reading of the paper, which reports 43.7"),
    },
    "anchor": {
        "coco": Form(recipes.ANCHOR_COCO, 42.1, 50, ANCHOR),
        "coco-dc5": Form(resized(recipes.ANCHOR_COCO, dilation=True), 44.3, 50, ANCHOR),
    },
    "dab": {
        "coco": Form(recipes.DAB_COCO, 42.2, 50, DAB),
        "coco-3-patterns": Form(resized(recipes.DAB_COCO, patterns=3), 42.6, 50, DAB),
        "coco-dc5": Form(resized(recipes.DAB_COCO, dilation=True), 44.5, 50, DAB),
    },
    "sam": {
        "coco": Form(recipes.SAM_COCO, 39.8, 50, SAM),
        "coco-smca": Form(resized(recipes.SAM_COCO, gaussian=True), 41.8, 50, SAM),
        "coco-12-epochs": Form(SAM_SHORT, 33.1, 12, SAM),
        "coco-smca-12-epochs": Form(resized(SAM_SHORT, gaussian=True), 36.0, 12, SAM),
    },
}

"""The forms in which each detector's authors published a figure on COCO: recipe, AP, and where the figure is from.

    zoo.recipe("deformable", "coco-two-stage")

AP is that of val2017 with ResNet-50, as the authors' repositories list it. A recipe says what their code does by
default; where a figure was reached with a longer schedule, the epochs beside it say so. How their code measured it is
part of a form too: the padding in a batch and the number of detections that are judged both move AP.
"""

from dataclasses import dataclass, replace

from detr_mini import recipes
from detr_mini.recipes import Recipe, resized


@dataclass(frozen=True)
class Form:
    """A recipe and what came of it. ap: from 0 to 100; None where nobody published one. epochs: of that figure.

    batch: images that were padded to one size together when it was measured. kept: detections per image, best first.
    """

    recipe: Recipe
    ap: float | None
    epochs: int
    source: str
    batch: int = 2
    kept: int = 100


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
        "coco-dc5": Form(resized(recipes.DETR_COCO, dilation=True), 43.3, 500, DETR, batch=1),
    },
    "conditional": {
        "coco": Form(recipes.CONDITIONAL_COCO, 41.0, 50, CONDITIONAL),
        "coco-dc5": Form(resized(recipes.CONDITIONAL_COCO, dilation=True), 43.7, 50, CONDITIONAL, batch=1),
    },
    "deformable": {
        "coco": Form(recipes.DEFORMABLE_COCO, 44.5, 50, DEFORMABLE),
        "coco-single": Form(resized(recipes.DEFORMABLE_COCO, levels=1), 39.4, 50, DEFORMABLE),
        "coco-refine": Form(resized(recipes.DEFORMABLE_COCO, refine=True), 46.2, 50, DEFORMABLE),
        "coco-two-stage": Form(resized(recipes.DEFORMABLE_COCO, refine=True, two_stage=True), 46.9, 50, DEFORMABLE),
    },
    "smca": {
        "coco": Form(recipes.SMCA_COCO, 41.0, 50, SMCA, kept=300),
        "coco-multi": Form(recipes.SMCA_MULTI_COCO, None, 50, "our reading of the paper, which reports 43.7"),
    },
    "anchor": {
        "coco": Form(recipes.ANCHOR_COCO, 42.1, 50, ANCHOR, batch=1),
        "coco-dc5": Form(resized(recipes.ANCHOR_COCO, dilation=True), 44.3, 50, ANCHOR, batch=1),
    },
    "dab": {
        "coco": Form(recipes.DAB_COCO, 42.2, 50, DAB, batch=1, kept=300),
        "coco-3-patterns": Form(resized(recipes.DAB_COCO, patterns=3), 42.6, 50, DAB, batch=1, kept=300),
        "coco-dc5": Form(resized(recipes.DAB_COCO, dilation=True), 44.5, 50, DAB, batch=1, kept=300),
    },
    "sam": {
        "coco": Form(recipes.SAM_COCO, 39.8, 50, SAM, batch=4),
        "coco-smca": Form(resized(recipes.SAM_COCO, gaussian=True), 41.8, 50, SAM, batch=4),
        "coco-12-epochs": Form(SAM_SHORT, 33.1, 12, SAM, batch=4),
        "coco-smca-12-epochs": Form(resized(SAM_SHORT, gaussian=True), 36.0, 12, SAM, batch=4),
    },
}

# DETR after as many epochs as the others, from Conditional DETR's authors; the schedule is that of their detector. This
# is no preset: its tensors are those of "coco", and a checkpoint could not be told from that one.
DETR_50_EPOCHS = Form(epochs(recipes.DETR_COCO, 50, 40), 34.8, 50, CONDITIONAL)


def dilated(recipe: Recipe, **model: object) -> Recipe:
    """SAM-DETR's recipe for DC5: one image on each of eight GPUs."""
    return replace(resized(recipe, dilation=True, **model), train=replace(recipe.train, batch=8))


# Forms that the notebooks do not speak of; the presets of `zoo` and the reading of checkpoints know them all the same.
MORE_FORMS: dict[str, dict[str, Form]] = {
    "deformable": {
        "coco-single-dc5": Form(resized(recipes.DEFORMABLE_COCO, levels=1, dilation=True), 41.5, 50, DEFORMABLE),
    },
    "dab": {
        "coco-3-patterns-dc5": Form(
            resized(recipes.DAB_COCO, patterns=3, dilation=True), 45.7, 50, "Liu et al. 2022, abstract", 1, 300
        ),
    },
    "sam": {
        "coco-dc5": Form(dilated(recipes.SAM_COCO), 43.3, 50, SAM, batch=1),
        "coco-smca-dc5": Form(dilated(recipes.SAM_COCO, gaussian=True), 45.0, 50, SAM, batch=1),
        "coco-dc5-12-epochs": Form(dilated(SAM_SHORT), 38.3, 12, SAM, batch=1),
        "coco-smca-dc5-12-epochs": Form(dilated(SAM_SHORT, gaussian=True), 40.6, 12, SAM, batch=1),
    },
}


def published(system: str) -> dict[str, Form]:
    """All forms of a detector by preset, the usual one first; KeyError for a name that is not in the zoo."""
    return FORMS[system] | MORE_FORMS.get(system, {})

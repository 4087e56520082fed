"""Every COCO recipe says what the authors' code does by default.

The table was read off and measured on the official implementations: parameters (all, trained), head, queries x
patterns, feed-forward width, dropout, learning rates, images per step, epochs and drop, weights of the loss and of the
matching costs (class, L1, GIoU). None of these systems averages its weights (EMA).
"""

from dataclasses import dataclass, replace

import pytest
import torch

from detr_mini import zoo
from detr_mini.published import DETR_50_EPOCHS, FORMS, published
from detr_mini.recipes import DataRecipe
from detr_mini.training import parameter_groups


@dataclass(frozen=True)
class Row:
    """One system as its authors train it."""

    parameters: int
    head: str
    queries: int
    feed_forward: int
    dropout: float
    lr: float
    batch: int
    epochs: int
    drop: int
    loss: tuple[float, float, float]
    costs: tuple[float, float, float]


SLOW_STARTS = 222_400  # parameters of stem and first stage, never trained
FOCAL = (2.0, 5.0, 2.0)
TABLE = {
    "detr": Row(41_524_768, "softmax", 100, 2048, 0.1, 1e-4, 16, 300, 200, (1.0, 5.0, 2.0), (1.0, 5.0, 2.0)),
    "conditional": Row(43_418_401, "focal", 300, 2048, 0.1, 1e-4, 16, 50, 40, FOCAL, FOCAL),
    "deformable": Row(40_069_665, "focal", 300, 1024, 0.1, 2e-4, 32, 50, 40, FOCAL, FOCAL),
    "smca": Row(41_760_482, "focal", 300, 2048, 0.1, 1e-4, 16, 50, 40, FOCAL, FOCAL),
    "anchor": Row(37_038_711, "focal", 900, 1024, 0.0, 1e-4, 8, 50, 40, FOCAL, FOCAL),
    "dab": Row(43_671_517, "focal", 300, 2048, 0.0, 1e-4, 16, 50, 40, (1.0, 5.0, 2.0), FOCAL),
    "sam": Row(58_295_946, "focal", 300, 2048, 0.1, 1e-4, 16, 50, 40, FOCAL, FOCAL),
}
PARAMETERS = {  # of the other forms
    ("deformable", "coco-single"): 34_066_593, ("deformable", "coco-refine"): 40_849_660,
    ("deformable", "coco-two-stage"): 41_181_529,
}
EVERY_FORM = [(name, preset) for name, forms in FORMS.items() for preset in forms]


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(zoo.names()) == set(FORMS) and all("coco" in forms for forms in FORMS.values())


@pytest.mark.parametrize("name", TABLE)
def test_recipe_against_the_table(name: str) -> None:
    """Every column, with what all systems share: AdamW's decay, clipping at 0.1, DETR's augmentation."""
    row, recipe = TABLE[name], zoo.recipe(name, "coco")
    model, train, loss = recipe.model, recipe.train, recipe.loss
    shape = (model.backbone, model.d_model, model.heads, model.encoder_layers, model.decoder_layers, model.classes)
    assert shape == ("resnet50", 256, 8, 6, 6, 91)
    assert (model.head, model.feed_forward, model.dropout) == (row.head, row.feed_forward, row.dropout)
    assert model.queries * max(1, getattr(model, "patterns", 1)) == row.queries
    assert (train.lr, train.backbone_lr) == (row.lr, pytest.approx(row.lr / 10))
    assert (train.batch, train.epochs, train.drop * train.epochs) == (row.batch, row.epochs, pytest.approx(row.drop))
    assert (train.weight_decay, train.clip, train.warmup) == (1e-4, 0.1, 0)
    assert (loss.class_weight, loss.l1_weight, loss.giou_weight) == row.loss
    assert (loss.class_cost, loss.l1_cost, loss.giou_cost) == row.costs
    assert (loss.no_object_weight, loss.focal_alpha, loss.focal_gamma) == (0.1, 0.25, 2.0)
    assert recipe.data == DataRecipe() and recipe.data.train_sizes == tuple(range(480, 801, 32))
    assert (recipe.data.max_size, recipe.data.eval_size, recipe.data.flip) == (1333, 800, 0.5)
    assert (recipe.data.crop_resize, recipe.data.crop_range) == ((400, 500, 600), (384, 600))


@pytest.mark.parametrize(("name", "preset"), EVERY_FORM)
def test_every_form_can_be_built_and_trained(name: str, preset: str) -> None:
    """The number of parameters is the official one where that is known; what is frozen is; groups hold all the rest."""
    recipe = zoo.recipe(name, preset)
    with torch.device("meta"):
        model = zoo.build(name, preset)
    same = preset in ("coco", "coco-dc5", "coco-3-patterns")  # patterns are 3 x 256 more
    known = TABLE[name].parameters if same else PARAMETERS.get((name, preset))
    known = known + 3 * 256 if preset == "coco-3-patterns" else known
    assert known is None or zoo.count(model) == known
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert zoo.count(model) - sum(p.numel() for p in model.parameters() if p.requires_grad) == SLOW_STARTS
    groups = parameter_groups(model, recipe.train)
    assert {id(p) for group in groups for p in group["params"]} == trained
    rates = sorted(group["base_lr"] for group in groups)
    assert rates == pytest.approx([recipe.train.backbone_lr, recipe.train.lr])
    slow = [n for n, p in model.named_parameters() if any(part in n for part in recipe.train.slow)]
    assert (name == "deformable") == bool(slow)


@pytest.mark.parametrize(("name", "preset"), EVERY_FORM)
def test_published_figures(name: str, preset: str) -> None:
    """Each says where it is from; a form other than the default changes the model or the schedule."""
    form = FORMS[name][preset]
    assert form.source and (form.ap is None or 30 < form.ap < 50) and form.epochs in (12, 50, 108, 500)
    assert zoo.presets(name)[preset] is form.recipe
    base = FORMS[name]["coco"].recipe
    assert preset == "coco" or form.recipe != base
    assert replace(form.recipe, model=base.model, train=base.train) == base


def test_detr_after_50_epochs_is_a_figure_and_no_preset() -> None:
    """Only the schedule is another, that of the detectors it stands beside; no checkpoint is taken for it."""
    usual, short, form = FORMS["detr"]["coco"], FORMS["conditional"]["coco"], DETR_50_EPOCHS
    assert (form.ap, form.epochs, form.source) == (34.8, 50, "Atten4Vis/ConditionalDETR, README")
    assert (form.recipe.train.epochs, form.recipe.train.drop) == (short.recipe.train.epochs, short.recipe.train.drop)
    assert replace(form.recipe, train=usual.recipe.train) == usual.recipe and form.recipe != usual.recipe
    assert form not in published("detr").values() and form.recipe not in zoo.presets("detr").values()

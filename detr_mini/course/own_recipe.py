"""Each detector with its own paper's recipe, as far as scenes allow.

    python -m detr_mini race --own --detectors detr deformable --seeds 0 --to data/runs/scenes_own

The race gives all detectors one recipe. Papers do not: each has its own loss, queries, rates, batch and dropout. Here
every detector keeps what its `coco` recipe says, and only what belongs to COCO's size is scaled, by one rule for all.
"""

from dataclasses import replace

from detr_mini import zoo
from detr_mini.recipes import SCENES_DATA, SCENES_MODEL, ModelRecipe, Recipe, TrainRecipe

IMAGES = 24_000  # budget: six epochs of 4,000 scenes. Papers compare epochs, and so batches may differ
QUERIES = 4  # COCO's queries for one of ours: DETR's 100 become the 25 of the race, the others' 300 become 75
RATE = 3  # our learning rate for one of COCO's: DETR's 1e-4 become the 3e-4 of the race, for small models learn faster
DROP = 40 / 50  # of the budget; DETR's 200 of 300 epochs belong to a schedule that is six times as long


def own_recipe(name: str, images: int = IMAGES, batch: int | None = None) -> Recipe:
    """A detector's recipe for scenes that says what its paper's recipe for COCO says.

    images: the budget, in training images; steps are as many as the paper's batch makes of it. batch: another one.
    Raises ValueError for a detector that is not there, and for a budget below one batch.
    """
    paper = zoo.recipe(name, "coco")
    paper = replace(paper, train=replace(paper.train, batch=batch or paper.train.batch))
    if images < paper.train.batch:
        raise ValueError(f"a budget of {images} images is less than one batch of {paper.train.batch}: choose more")
    return Recipe(own_model(paper.model), paper.loss, SCENES_DATA, own_schedule(paper.train, images))


def own_model(paper: ModelRecipe) -> ModelRecipe:
    """The paper's model at the size of scenes: dropout, head, patterns, refinement stay as they are there."""
    scaled = {
        "backbone": SCENES_MODEL.backbone,  # a ResNet-50 sees nothing in 128 pixels that the small one does not
        "d_model": SCENES_MODEL.d_model,
        "encoder_layers": SCENES_MODEL.encoder_layers,
        "decoder_layers": SCENES_MODEL.decoder_layers,
        "feed_forward": paper.feed_forward * SCENES_MODEL.d_model // paper.d_model,  # the same multiple of d_model
        "queries": paper.queries // QUERIES,
        "classes": SCENES_MODEL.classes,
    }
    if hasattr(paper, "levels"):
        scaled["levels"] = 1  # one map of 8 x 8, as all others have
    return replace(paper, **scaled)


def own_schedule(paper: TrainRecipe, images: int) -> TrainRecipe:
    """The paper's batch, clipping, slow groups, no warm-up; a backbone that learns, at a tenth of the rate."""
    rates = {"lr": RATE * paper.lr, "backbone_lr": RATE * paper.backbone_lr}
    return replace(paper, **rates, epochs=None, steps=images // paper.batch, drop=DROP)


# What nearly all of these papers do alike, and the race does not: the rate falls, the backbone learns, clipping is
# tight, nothing is warmed up. An own recipe changes these, too, so what it is worth is measured against this control.
def shared_recipe(name: str, images: int = IMAGES, batch: int | None = None) -> Recipe:
    """The race's model, loss and batch for a detector, with the schedule that nearly all papers share.

    images, batch: as in `own_recipe`. Raises ValueError for a detector that is not there, and for a budget below
    one batch.
    """
    ours = zoo.recipe(name, "scenes")
    ours = replace(ours, train=replace(ours.train, batch=batch or ours.train.batch))
    steps = images // ours.train.batch
    if not steps:
        raise ValueError(f"a budget of {images} images is less than one batch of {ours.train.batch}: choose more")
    usual = TrainRecipe()  # DETR's: clipping at 0.1, no warm-up, the backbone at a tenth of the rate
    train = replace(ours.train, backbone_lr=RATE * usual.backbone_lr, clip=usual.clip, warmup=usual.warmup, drop=DROP,
                    steps=steps)
    return replace(ours, train=train)

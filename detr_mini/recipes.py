"""Recipes: every number of a detector and of its training, in one place, as plain dataclasses.

Two presets for every detector. `coco` is the paper's: its model, its loss weights, its schedule. `scenes` is
the same detector made small for generated scenes on a two-core laptop. The code that reads a recipe does not
know which of the two it has.
"""

from dataclasses import asdict, dataclass, field, replace

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelRecipe:
    """The shape of a detector. The defaults are DETR-R50's (Carion et al. 2020).

    backbone: "resnet50", "small" (backbone.py) or "efficientnet_lite0". dilation: no stride in the last stage (DC5).
    classes: size of the class head without the no-object logit. head: "softmax" adds one no-object logit
    (last), "focal" has one sigmoid per class and no background. queries: most objects it can find.
    """

    backbone: str = "resnet50"
    dilation: bool = False
    d_model: int = 256
    heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    feed_forward: int = 2048
    dropout: float = 0.1
    queries: int = 100
    classes: int = 91
    head: str = "softmax"

    def __post_init__(self) -> None:
        """ValueError naming the field that no detector could be built with."""
        for name in COUNTS:
            if getattr(self, name, 1) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is too few: choose at least 1")
        if self.d_model % self.heads:
            raise ValueError(f"d_model={self.d_model} cannot be split among {self.heads} heads: choose a multiple of "
                             f"{self.heads}")
        if self.head not in ("softmax", "focal"):
            raise ValueError(f"head={self.head!r} is unknown: choose softmax or focal")


# Fields of a model's recipe of which there must be one at least, in those that have them.
COUNTS = ("d_model", "heads", "decoder_layers", "feed_forward", "queries", "classes", "levels", "points")


@dataclass(frozen=True)
class DeformableModel(ModelRecipe):
    """Deformable DETR. levels: feature maps (1 = C5; 4 = C3 to C5 and one more). points: samples per head and level.

    refine: every layer corrects the box and has heads of its own. two_stage: the encoder's tokens propose the boxes
    that become queries; needs refine.
    """

    feed_forward: int = 1024
    queries: int = 300
    head: str = "focal"
    levels: int = 4
    points: int = 4
    refine: bool = False
    two_stage: bool = False


@dataclass(frozen=True)
class SmcaModel(ModelRecipe):
    """SMCA. spare_logit: one logit more than classes, only ever a negative, as in the authors' code (92 for COCO).

    levels: feature maps. 1 is the authors' single-scale form; 3 (strides 16, 32, 64) follows the paper's description.
    """

    queries: int = 300
    head: str = "focal"
    spare_logit: bool = True
    levels: int = 1


@dataclass(frozen=True)
class AnchorModel(ModelRecipe):
    """Anchor DETR. queries: anchor points. patterns: queries at every point, so there are queries * patterns in all.

    decoupled: row-column attention (RCDA) in the encoder and in cross-attention; False: DETR's attention.
    """

    feed_forward: int = 1024
    dropout: float = 0.0
    queries: int = 300
    head: str = "focal"
    patterns: int = 3
    decoupled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patterns < 1:
            raise ValueError(f"patterns={self.patterns} is no number of patterns: choose 1 or more")


@dataclass(frozen=True)
class DabModel(ModelRecipe):
    """DAB-DETR. queries: anchor boxes. patterns: learned contents, each put at every anchor; 0 = content zero.

    modulate: width and height of the anchor widen its attention. refine: every layer updates the anchors.
    key_temperature, query_temperature: of the sine codes of image cells and of anchors. The paper's section 3.6
    means one temperature, 20; the authors' code, from which the published numbers come, leaves the queries at 10000
    (its issue 21). For the paper's form set both to 20.
    """

    dropout: float = 0.0
    queries: int = 300
    head: str = "focal"
    patterns: int = 0
    modulate: bool = True
    refine: bool = True
    key_temperature: float = 20.0
    query_temperature: float = 10000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patterns < 0:
            raise ValueError(f"patterns={self.patterns} is no number of patterns: choose 0 (content zero) or more")


@dataclass(frozen=True)
class SamModel(ModelRecipe):
    """SAM-DETR. gaussian: SMCA's Gaussian around the salient points.

    norm_input: a GroupNorm behind the input projection, as the authors' code has it for schedules under 25 epochs.
    """

    queries: int = 300
    head: str = "focal"
    gaussian: bool = False
    norm_input: bool = False


@dataclass(frozen=True)
class LossRecipe:
    """Weights of the losses and of the matching costs; DETR's defaults (section A.4 of the paper)."""

    class_weight: float = 1.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    class_cost: float = 1.0
    l1_cost: float = 5.0
    giou_cost: float = 2.0
    no_object_weight: float = 0.1
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0


@dataclass(frozen=True)
class DataRecipe:
    """How images reach the network. Sizes are pixels of the shorter side unless said otherwise.

    train_sizes: one is drawn per image. max_size: the longer side never passes it. crop_resize: sizes drawn
    before a random crop of `crop_range` (lowest, highest side); empty means no crop. flip: probability.
    """

    train_sizes: tuple[int, ...] = tuple(range(480, 801, 32))
    max_size: int = 1333
    eval_size: int = 800
    crop_resize: tuple[int, ...] = (400, 500, 600)
    crop_range: tuple[int, int] = (384, 600)
    flip: float = 0.5
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class TrainRecipe:
    """The schedule. batch is the global batch (all processes); backbone_lr 0 freezes the backbone.

    Give `steps` or `epochs`. drop: the fraction of all steps after which the learning rate is divided by 10.
    warmup: steps of linear warm-up. clip: largest norm of all gradients together. slow: parts of parameter names that
    learn at a tenth of the rate (Deformable DETR's references and offsets).
    """

    lr: float = 1e-4
    backbone_lr: float = 1e-5
    weight_decay: float = 1e-4
    batch: int = 16
    epochs: int | None = None
    steps: int | None = None
    drop: float = 1.0
    warmup: int = 0
    clip: float = 0.1
    slow: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A detector, its losses, its data and its schedule."""

    model: ModelRecipe = field(default_factory=ModelRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)


# The defaults of the authors' code on eight GPUs, two images on each; lr drops after epoch 200.
DETR_COCO = Recipe(train=TrainRecipe(batch=16, epochs=300, drop=200 / 300))

SCENES_DATA = DataRecipe(train_sizes=(128,), max_size=128, eval_size=128, crop_resize=())
SCENES_MODEL = ModelRecipe(
    backbone="small", d_model=128, encoder_layers=2, decoder_layers=3, feed_forward=512, dropout=0.0,
    queries=25, classes=10, head="focal",
)
SCENES_LOSS = LossRecipe(class_weight=2.0, class_cost=2.0)
SCENES_TRAIN = TrainRecipe(lr=3e-4, backbone_lr=0.0, batch=16, steps=2500, warmup=100, clip=1.0)
DETR_SCENES = Recipe(SCENES_MODEL, SCENES_LOSS, SCENES_DATA, SCENES_TRAIN)


# Conditional DETR: the authors' defaults; lr drops after epoch 40.
FOCAL_LOSS = LossRecipe(class_weight=2.0, class_cost=2.0)
CONDITIONAL_COCO = Recipe(
    ModelRecipe(queries=300, head="focal"), FOCAL_LOSS, train=TrainRecipe(batch=16, epochs=50, drop=40 / 50)
)
CONDITIONAL_SCENES = DETR_SCENES


# Deformable DETR: the authors' defaults; batch 32, lr drops after epoch 40. References and offsets learn slowly.
DEFORMABLE_TRAIN = TrainRecipe(
    lr=2e-4, backbone_lr=2e-5, batch=32, epochs=50, drop=40 / 50, slow=("reference_head", "offsets")
)
DEFORMABLE_COCO = Recipe(DeformableModel(), FOCAL_LOSS, train=DEFORMABLE_TRAIN)
DEFORMABLE_SCENES = replace(DETR_SCENES, model=DeformableModel(**asdict(SCENES_MODEL), levels=1, refine=True))


# SMCA: the README's command on eight GPUs, two images on each; lr drops after epoch 40. The multi-scale form has five
# encoder layers, two within the maps, one across them, two within again; it is ours after the paper's description.
SMCA_COCO = Recipe(SmcaModel(), FOCAL_LOSS, train=TrainRecipe(batch=16, epochs=50, drop=40 / 50))
SMCA_MULTI_COCO = replace(SMCA_COCO, model=SmcaModel(levels=3, encoder_layers=5))
SMCA_SCENES = replace(DETR_SCENES, model=SmcaModel(**asdict(SCENES_MODEL), spare_logit=False))


# Anchor DETR: the authors' defaults on eight GPUs, one image on each; lr drops after epoch 40.
ANCHOR_COCO = Recipe(AnchorModel(), FOCAL_LOSS, train=TrainRecipe(batch=8, epochs=50, drop=40 / 50))
ANCHOR_SCENES = replace(DETR_SCENES, model=AnchorModel(**asdict(SCENES_MODEL), patterns=1))


# DAB-DETR: the authors' defaults; class weight 1 in the loss, 2 in the matching.
DAB_COCO = Recipe(DabModel(), LossRecipe(class_cost=2.0), train=TrainRecipe(batch=16, epochs=50, drop=40 / 50))
DAB_SCENES = replace(DETR_SCENES, model=DabModel(**asdict(SCENES_MODEL)))


# SAM-DETR: the authors' 50-epoch schedule. With SMCA's Gaussian: `resized(SAM_COCO, gaussian=True)`.
SAM_COCO = Recipe(SamModel(), FOCAL_LOSS, train=TrainRecipe(batch=16, epochs=50, drop=40 / 50))
SAM_SCENES = replace(DETR_SCENES, model=SamModel(**asdict(SCENES_MODEL)))


def resized(recipe: Recipe, **model: object) -> Recipe:
    """The same recipe with fields of its model changed: `resized(DETR_COCO, queries=300)`."""
    return replace(recipe, model=replace(recipe.model, **model))

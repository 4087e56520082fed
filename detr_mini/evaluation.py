"""How good a detector is: COCO average precision, through pycocotools or a faster judge, without their printing.

Average precision (AP) is the area under the precision-recall curve of one class, averaged over classes and
over ten demands on the overlap of a detection with its object: IoU of at least 0.50, 0.55, ... 0.95. AP50 and
AP75 ask for one demand only. Small, medium and large objects are those with an area below 32 x 32, between,
and above 96 x 96 pixels of the original image.
"""

import contextlib
import importlib
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
import torch.distributed as dist
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from detr_mini.data.labels import labelled_as
from detr_mini.data.loading import workers_errors
from detr_mini.data.transforms import Transformed, build_transform, collate
from detr_mini.printing import plain
from detr_mini.recipes import DataRecipe

Predictions = dict[int, dict[str, Tensor]]

# Judges that say the same numbers as pycocotools: module, its index, its evaluator. The first one installed is taken.
JUDGES = {
    "hotcoco": ("hotcoco", "COCO", "COCOeval"),
    "pycocotools": ("detr_mini.evaluation", "COCO", "COCOeval"),
}
ALL_AREAS, HUNDRED_DETECTIONS = 0, 2  # positions in the last two axes of COCOeval's precision


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's twelve numbers, each from 0 to 1, and AP per class.

    nan stands where there is no object to find (no small ones, say). ar_n: average recall when at most n
    detections per image count. per_class has only the classes with objects in the images evaluated.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: dict[str, float]
    images: int

    def to_dict(self) -> dict:
        """All fields as plain numbers for JSON, with None in place of nan."""
        def plain(value: object) -> object:
            return None if isinstance(value, float) and math.isnan(value) else value

        values = {name: plain(value) for name, value in asdict(self).items() if name != "per_class"}
        return values | {"per_class": {name: plain(value) for name, value in self.per_class.items()}}

    def __str__(self) -> str:
        """A table: AP, AP50, AP75, by size, and one line per class."""
        names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
        heads = ("AP", "AP50", "AP75", "small", "medium", "large")
        lines = [
            "  ".join(f"{head:>6}" for head in heads),
            "  ".join(f"{_shown(getattr(self, name)):>6}" for name in names) + f"   ({self.images} images)",
        ]
        names = list(map(plain, self.per_class))
        width = max(map(len, names), default=0)
        lines += [f"  {name:<{width}}  {_shown(value):>6}"
                  for name, value in zip(names, self.per_class.values(), strict=True)]
        return "\n".join(lines)


def _shown(value: float) -> str:
    """0.421, or a dash where there was nothing to find."""
    return "-" if math.isnan(value) else f"{value:.3f}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow what pycocotools prints about its progress."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def find_judge(name: str | None = None) -> tuple[type, type]:
    """The index and evaluator classes of a judge; None: of the fastest one that is installed.

    hotcoco needs a ninth of pycocotools' time for 5,000 images (tests/benchmarks/test_evaluation_size.py). Raises
    ValueError for a name that is not in JUDGES, ImportError saying what to install for one that is missing.
    """
    if name is not None and name not in JUDGES:
        raise ValueError(f"no judge {name!r}: choose one of {', '.join(JUDGES)}")
    for package, (module, index, evaluator) in JUDGES.items():
        if name in (None, package):
            with contextlib.suppress(ImportError):
                found = importlib.import_module(module)
                return getattr(found, index), getattr(found, evaluator)
    raise ImportError(f"{name} is not installed: pip install {name}, or leave the judge out")


def _index(content: dict, kind: type) -> COCO:
    """A COCO-format dict as a judge's object, without a file."""
    index = kind()
    index.dataset = content
    index.createIndex()
    return index


def _numbered(annotations: Iterable[dict]) -> list[dict]:
    """Annotations with ids from 1: pycocotools writes the id of a match and takes 0 for none."""
    return [{**annotation, "id": number} for number, annotation in enumerate(annotations, start=1)]


def _check(image_id: int, found: dict[str, Tensor], classes: int) -> None:
    """ValueError when the predictions of one image do not fit together or are not numbers."""
    boxes, scores, labels = found["boxes"], found["scores"], found["labels"]
    if boxes.shape != (len(scores), 4) or labels.shape != scores.shape or scores.ndim != 1:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in found.items())
        wanted = "scores (K,), labels (K,), boxes (K, 4)"
        raise ValueError(f"image {image_id}: predictions must be {wanted}; got {shapes}")
    if not (torch.isfinite(boxes).all() and torch.isfinite(scores).all()):
        raise ValueError(f"image {image_id}: predictions hold a score or box that is nan or infinite")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wanted = f"a label outside 0 to {classes - 1}; they come from a detector of other classes"
        raise ValueError(f"image {image_id}: predictions hold {wanted}")


def _detections(image_id: int, found: dict[str, Tensor], label_to_category: dict[int, int]) -> list[dict]:
    """Predictions of one image, boxes (K, 4) xyxy in pixels, as COCO annotations with a score.

    Labels without a category (the gaps in COCO's ids) are left out: no object could ever match them.
    """
    boxes = found["boxes"].double()
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()  # (K, 4) x, y, w, h
    rows = zip(found["scores"].tolist(), found["labels"].tolist(), boxes, strict=True)
    return [
        {"image_id": image_id, "category_id": label_to_category[label], "score": score, "bbox": box,
         "area": box[2] * box[3], "iscrowd": 0}
        for score, label, box in rows if label in label_to_category
    ]


def average_precision(
    dataset: Dataset, predictions: Predictions, image_ids: Iterable[int] | None = None, judge: str | None = None
) -> AveragePrecision:
    """COCO average precision of predictions against the ground truth of a data set.

    predictions: image id -> {scores (K,), labels (K,), boxes (K, 4) xyxy in pixels of the original image}; an
    image without an entry has no detections. image_ids: evaluate these images only (default: all). judge: one of
    JUDGES (default: the fastest that is installed; all say the same).
    Raises ValueError for an image the data set does not have and for predictions that do not fit together.
    """
    truth = dataset.coco_ground_truth()
    known = {image["id"] for image in truth["images"]}
    wanted = sorted(known if image_ids is None else set(image_ids))
    if unknown := (set(wanted) | set(predictions)) - known:
        raise ValueError(f"image id {min(unknown)} is not in the data set; predictions belong to other data")
    found = []
    for image_id in wanted:
        if image_id in predictions:
            _check(image_id, predictions[image_id], dataset.num_classes)
            found += _detections(image_id, predictions[image_id], dataset.label_to_category)
    return _summarise(_run_coco(truth, found, wanted, judge), dataset, len(wanted))


def _run_coco(truth: dict, found: list[dict], image_ids: list[int], judge: str | None) -> COCOeval:
    """Match, accumulate and summarise."""
    index, evaluator = find_judge(judge)
    with _quiet():
        reference = _index({**truth, "annotations": _numbered(truth["annotations"])}, index)
        detections = _index({**truth, "annotations": _numbered(found)}, index)
        run = evaluator(reference, detections, "bbox")
        run.params.imgIds = image_ids
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def matched_by_coco(dataset: Dataset, predictions: Predictions) -> list[tuple[np.ndarray, ...]]:
    """COCO's matching of all images, class by class, for what is computed from it again and again (comparing.py).

    Of every class: the row of its image of each detection, best first (K,); whether it is right, and whether it counts
    for nothing (a crowd), at ten levels of IoU, (10, K) each; how many objects each image has (I,). Raises as
    `average_precision`.
    """
    truth = dataset.coco_ground_truth()
    ids = [image["id"] for image in truth["images"]]
    found = []
    for image_id, boxes in predictions.items():
        if image_id not in set(ids):
            raise ValueError(f"image id {image_id} is not in the data set; predictions belong to other data")
        _check(image_id, boxes, dataset.num_classes)
        found += _detections(image_id, boxes, dataset.label_to_category)
    run = _run_coco(truth, found, sorted(ids), "pycocotools")
    row = {image_id: place for place, image_id in enumerate(ids)}
    per_class = len(run.evalImgs) // len(run.params.catIds)
    groups = [run.evalImgs[place * per_class : place * per_class + len(ids)] for place in range(len(run.params.catIds))]
    return [_joined([one for one in group if one], row, len(ids)) for group in groups]  # the first area is "all"


def _joined(matches: list[dict], row: dict[int, int], images: int) -> tuple[np.ndarray, ...]:
    """One class's matches of all images, as `matched_by_coco` gives them."""
    objects = np.zeros(images, int)
    for one in matches:
        objects[row[one["image_id"]]] = (np.asarray(one["gtIgnore"]) == 0).sum()
    scores = np.concatenate([one["dtScores"] for one in matches]) if matches else np.zeros(0)
    order = np.argsort(-scores, kind="mergesort")
    image = np.concatenate([[row[one["image_id"]]] * len(one["dtScores"]) for one in matches] or [[]]).astype(int)
    right = np.concatenate([one["dtMatches"] > 0 for one in matches] or [np.zeros((10, 0), bool)], axis=1)
    ignored = np.concatenate([one["dtIgnore"] > 0 for one in matches] or [np.zeros((10, 0), bool)], axis=1)
    return image[order], right[:, order], ignored[:, order], objects


def _summarise(run: COCOeval, dataset: Dataset, images: int) -> AveragePrecision:
    """COCOeval's arrays as a result. It writes -1 where nothing was to be found; here that is nan."""
    numbers = [float(value) if value > -1 else math.nan for value in run.stats[:12]]
    label_of = {category: label for label, category in dataset.label_to_category.items()}
    per_class = {}
    for column, category in enumerate(run.params.catIds):
        curve = run.eval["precision"][:, :, column, ALL_AREAS, HUNDRED_DETECTIONS]  # (10 IoU, 101 recall)
        if (curve > -1).any():
            name = dataset.classes[label_of[category]]
            name = f"{name} (id {category})" if name in per_class else name
            per_class[name] = float(np.mean(curve[curve > -1]))
    names = [field.name for field in fields(AveragePrecision)][:12]
    return AveragePrecision(**dict(zip(names, numbers, strict=True)), per_class=per_class, images=images)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) inside the block; afterwards every module's own mode is back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _device(model: nn.Module) -> torch.device:
    """Where the model's parameters are; the CPU for a model without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def predict(
    model: nn.Module,
    dataset: Dataset,
    recipe: DataRecipe,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    limit: int | None = None,
    progress: bool = False,
    workers: int = 0,
    top_k: int = 100,
) -> Predictions:
    """Run a detector over a data set (or its first `limit` images). Several processes share the images, and each gets
    the predictions of all.

    Returns image id -> {scores (K,), labels (K,), boxes (K, 4) xyxy in pixels of the original image}, on the
    CPU. device: default is where the model is. workers: processes that load images. top_k: most detections per image.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least one image, got {limit}")
    device = _device(model) if device is None else torch.device(device)
    if limit is not None:
        dataset = Subset(dataset, range(min(limit, len(dataset))))
    if several := dist.is_available() and dist.is_initialized():
        dataset = Subset(dataset, range(dist.get_rank(), len(dataset), dist.get_world_size()))
    items = Transformed(dataset, build_transform(recipe, train=False))
    loader = DataLoader(items, batch_size, collate_fn=collate, num_workers=workers)
    predictions: Predictions = {}
    with evaluating(model), torch.inference_mode(), workers_errors():
        for batch in tqdm(loader, desc="evaluate", unit="batch", disable=not progress):
            sizes = torch.stack([target["orig_size"] for target in batch.targets]).to(device)  # (B, 2) H, W
            batch = batch.to(device)
            found = model.postprocess(model(batch.images, batch.mask), sizes, top_k)
            for target, result in zip(batch.targets, found, strict=True):
                predictions[target["image_id"]] = {name: value.cpu() for name, value in result.items()}
    return gathered(predictions) if several else predictions


def gathered(mine: Predictions) -> Predictions:
    """The predictions of all processes together; RuntimeError when two of them looked at the same image."""
    parts: list[Predictions] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, mine)
    everything = {image: found for part in parts for image, found in part.items()}
    if len(everything) != sum(map(len, parts)):
        raise RuntimeError("two processes evaluated the same image: image ids of the data set are not unique")
    return everything


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    recipe: DataRecipe,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    limit: int | None = None,
    progress: bool = False,
    workers: int = 0,
    top_k: int = 100,
) -> AveragePrecision:
    """COCO average precision of a detector on a data set (or its first `limit` images); see `predict`.

    Where `fit` trained the detector, classes are matched by name: a data set that numbers them otherwise is judged
    rightly. Raises ValueError when there is no class in common.
    """
    dataset = labelled_as(dataset, getattr(model, "class_names", None))
    predictions = predict(model, dataset, recipe, batch_size, device, limit, progress, workers, top_k)
    return average_precision(dataset, predictions, image_ids=predictions)

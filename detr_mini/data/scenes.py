"""A data set of generated scenes: ten everyday things, drawn by our own code, for laptops.

    train = Scenes(4000, seed=0)              # few large things, the regime to train in
    image, target = train[0]                  # uint8 (3, 128, 128); labels, boxes, image_id, orig_size
    small = Scenes(400, seed=1, preset="many")

`things.py` draws the things and `painting.py` lays out and paints a scene. This file makes data sets of them:
it paints in parallel, keeps the result in a cache, and speaks the data-set interface of the project.

Nothing in a scene depends on left or right: things face either way, and light comes from either side. So
mirror images are fair for data augmentation.
"""

import functools
import hashlib
import json
import logging
import math
import operator
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from detr_mini.data import painting, things
from detr_mini.data.painting import (
    CROWDED,
    FEW_LARGE,
    MANY_SMALL,
    PRESETS,
    SIZES,
    Job,
    Pictures,
    Preset,
    job_to_json,
    paint,
    scene_at,
)
from detr_mini.data.things import CLASSES
from detr_mini.files import atomic

__all__ = [
    "CLASSES",
    "CROWDED",
    "FEW_LARGE",
    "MANY_SMALL",
    "PRESETS",
    "Preset",
    "Scenes",
    "cache_folder",
    "draw_crops",
    "draw_scene",
    "export_coco",
]

log = logging.getLogger("detr_mini")

WORTH_SPLITTING = 200  # fewer pictures than this are painted before a second process has started
ABANDONED = 24 * 3600  # seconds after which an unfinished cache file is somebody's crash

# A worker loads the two drawing files as a small package of their own. So it needs neither torch nor
# `detr_mini/__init__.py`, and never runs the caller's script again, as multiprocessing does where it cannot fork.
WORKER = """
import sys, types
folder, job, out = sys.argv[1:]
package = types.ModuleType("pictures")
package.__path__ = [folder]
sys.modules["pictures"] = package
import numpy
from pictures import painting
numpy.savez(out, **painting.paint(painting.job_from_json(job))._asdict())
"""


# ---------------------------------------------------------------- what was asked for


def _whole(name: str, value: int, least: int, most: float = math.inf) -> int:
    """`value` as an int. Raises ValueError naming the parameter and its limits."""
    limits = f"from {least} to {most}" if most < math.inf else f"of {least} or more"
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not least <= number <= most:
        raise ValueError(f"{name}={value!r} is not possible; give a whole number {limits}")
    return number


def _preset(preset: str | Preset) -> Preset:
    """A preset by its name, or itself. Raises ValueError naming the choices."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}, or give a Preset")
    return PRESETS[preset]


def draw_scene(
    seed: int, index: int, preset: str | Preset = "few", size: int = 128
) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Draw scene number `index` of the endless series `seed`.

    The same four arguments always give the same scene. Two sizes show the same scene more or less sharply.

    Returns:
        image: (size, size, 3) uint8.
        labels: M labels, 0..9, of `CLASSES`; things are listed back to front.
        boxes: (M, 4) float64: x, y, width, height in pixels. A box is tight around all of the thing's own
            pixels, those that something in front of it covers included (an amodal box). A shadow is no part of it.

    Raises:
        ValueError: a negative seed or index, an unknown preset, a size outside 32..1024.
    """
    seed, index, size = _whole("seed", seed, 0), _whole("index", index, 0), _whole("size", size, *SIZES)
    scene = scene_at(seed, index, _preset(preset), size)
    return np.ascontiguousarray(scene.image.transpose(1, 2, 0)), scene.labels, scene.boxes


def draw_crops(count: int, seed: int = 0, size: int = 64, workers: int | None = None) -> tuple[Tensor, Tensor]:
    """Pictures of one thing each, to pre-train a backbone as a classifier.

    A crop of `size` pixels shows what a window of that width shows of a scene twice as wide (64 of 128): the
    thing is 18% to 48% of the scene, near the middle, at times cut a little by the edge.

    Returns:
        images: (count, 3, size, size) uint8 tensor.
        labels: (count,) int64 tensor, 0..9.

    Raises:
        ValueError: a count below 1, a negative seed, a size outside 32..512, fewer than 1 worker.
    """
    count, seed, size = _whole("count", count, 1), _whole("seed", seed, 0), _whole("size", size, 32, SIZES[1] // 2)
    pictures = _paint_in_parallel(Job(seed, 0, count, None, size), workers)
    return torch.from_numpy(pictures.images), torch.from_numpy(pictures.labels)


# ---------------------------------------------------------------- painting in parallel


def _paint_in_parallel(job: Job, workers: int | None) -> Pictures:
    """Paint a job with several processes (None: two, or one on a one-core machine). The result is the same."""
    workers = min(2, os.cpu_count() or 1) if workers is None else _whole("workers", workers, 1)
    count = job.stop - job.start
    if workers == 1 or count < WORTH_SPLITTING or not sys.executable:
        return paint(job)
    edges = np.linspace(job.start, job.stop, min(workers, count) + 1).astype(int).tolist()
    jobs = [job._replace(start=start, stop=stop) for start, stop in zip(edges[:-1], edges[1:], strict=True)]
    with tempfile.TemporaryDirectory(prefix="detr_mini-") as folder:
        outs = [Path(folder, f"{part.start}.npz") for part in jobs]
        _run_workers(jobs, outs)
        parts = [_read_arrays(out) for out in outs]
    return Pictures(*(np.concatenate([part[field] for part in parts]) for field in Pictures._fields))


def _run_workers(jobs: list[Job], outs: list[Path]) -> None:
    """Run one process per job and wait for all. Raises RuntimeError with a worker's last words if it fails."""
    path = os.pathsep.join(entry for entry in sys.path if entry)  # where numpy and Pillow were found here
    environment = os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    processes = []
    try:
        for job, out in zip(jobs, outs, strict=True):
            command = [sys.executable, "-c", WORKER, str(Path(painting.__file__).parent), job_to_json(job), str(out)]
            processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        for process in processes:
            words = process.communicate()[1].strip()
            if process.returncode:
                last = words.splitlines()[-1] if words else f"exit code {process.returncode}"
                raise RuntimeError(f"a drawing process failed ({last}); workers=1 draws in this process instead")
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


# ---------------------------------------------------------------- cache


def cache_folder(kind: str = "scenes") -> Path:
    """Where scenes (or "weights") are kept: the environment variable DETR_MINI_CACHE, or the user's cache folder.

    The folder may be deleted at any time; what is missing is drawn, or fetched, again.
    """
    if os.environ.get("DETR_MINI_CACHE"):
        named = Path(os.environ["DETR_MINI_CACHE"]).expanduser()
        return named if kind == "scenes" else named / kind
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "detr_mini" / kind


@functools.cache
def drawing_version() -> str:
    """A checksum of the drawing code: any change to it makes all cached scenes out of date by itself."""
    sources = [Path(module.__file__).read_bytes().replace(b"\r\n", b"\n") for module in (things, painting)]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()[:16]


def _cache_key(job: Job) -> str:
    """Everything a cached file depends on, as one line of JSON."""
    wanted = {"count": job.stop, "seed": job.seed, "size": job.size, "preset": asdict(job.preset)}
    return json.dumps(wanted | {"drawing": drawing_version()}, sort_keys=True)


def _cache_path(folder: Path, job: Job) -> Path:
    """One file per count, seed, preset, size and drawing version."""
    digest = hashlib.sha256(_cache_key(job).encode()).hexdigest()[:12]
    return folder / f"{job.preset.name}-{job.stop}x{job.size}px-seed{job.seed}-{digest}.npz"


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; never unpickles. The zip format's checksums are verified on the way."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _load_cached(path: Path, job: Job) -> Pictures | None:
    """The pictures in a cache file; None if there is no file, or one that is cut off, damaged or not ours."""
    try:
        arrays = _read_arrays(path)
        pictures = Pictures(*(arrays[field] for field in Pictures._fields))
        whole = str(arrays["key"]) == _cache_key(job) and _fits(pictures, job)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        log.warning("%s is damaged (%s); its scenes are drawn again", path, error)
        return None
    if not whole:
        log.warning("%s does not hold what its name says; its scenes are drawn again", path)
    return pictures if whole else None


def _fits(pictures: Pictures, job: Job) -> bool:
    """Whether the arrays have the types and shapes of a finished job."""
    things_in_all = int(pictures.counts.sum())
    shapes = ((job.stop, 3, job.size, job.size), (job.stop,), (things_in_all,), (things_in_all, 4))
    types = (np.uint8, np.int64, np.int64, np.float64)
    return all(a.shape == s and a.dtype == t for a, s, t in zip(pictures, shapes, types, strict=True))


def _store(path: Path, job: Job, pictures: Pictures) -> None:
    """Write a cache file in one step. A folder that cannot be written to costs only time, so it is only logged."""
    try:
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink(missing_ok=True)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(file, key=np.array(_cache_key(job)), **pictures._asdict())
    except OSError as error:
        if not path.exists():  # on Windows, losing a race against another process ends here, too
            log.warning("scenes are not kept for next time: %s (set DETR_MINI_CACHE to another folder)", error)


# ---------------------------------------------------------------- data set


class Scenes(Dataset):
    """Scenes 0 to `count` - 1 of the series `seed`, all in memory (49 kB each at 128 pixels).

    `scenes[i]` is `(image, target)`: image uint8 (3, H, W); target with labels (M,) int64, boxes (M, 4) float32
    as (centre x, centre y, width, height) in fractions of the image, image_id int, orig_size (2,) int64 (H, W).
    For the boxes' meaning see `draw_scene`. Different seeds give different scenes, so use one to train and
    another to evaluate.

    Args:
        count: number of scenes. Scene i does not depend on it.
        seed: number of the series, 0 or more.
        preset: "few" (1 to 5 things of 18% to 50% of the side), "many" (6 to 14 small ones), "crowded" (groups
            of one class that cover each other), or a `Preset` of your own.
        size: image side in pixels, 32..1024.
        cache: folder that keeps the scenes for next time, one file each for count, seed, preset, size and version
            of the drawing code. None: `cache_folder()`, which the environment variable DETR_MINI_CACHE can
            move. False: keep nothing.
        workers: processes that draw. None: two, or one on a one-core machine.

    Two processes may ask for the same scenes at once: both draw, and either's finished file is kept. A damaged
    or foreign file is noticed and replaced.

    Raises:
        ValueError: an argument that is not possible, named with the choices.
    """

    def __init__(
        self,
        count: int,
        seed: int = 0,
        preset: str | Preset = "few",
        size: int = 128,
        cache: str | Path | bool | None = None,
        workers: int | None = None,
    ):
        count, seed, size = _whole("count", count, 1), _whole("seed", seed, 0), _whole("size", size, *SIZES)
        if workers is not None:
            _whole("workers", workers, 1)
        if cache is True:
            raise ValueError("cache=True is not possible; give a folder, None for the default one, or False for none")
        self.preset, self.seed, self.size = _preset(preset), seed, size
        self.classes: list[str | None] = list(CLASSES)
        self.num_classes = len(CLASSES)
        self.label_to_category = {label: label + 1 for label in range(len(CLASSES))}
        pictures = self._obtain(Job(seed, 0, count, self.preset, size), cache, workers)
        ends = np.cumsum(pictures.counts).tolist()
        self._spans = [slice(*ends_) for ends_ in zip([0, *ends[:-1]], ends, strict=True)]
        self.images = torch.from_numpy(pictures.images)  # (N, 3, H, W) uint8
        self.labels = torch.from_numpy(pictures.labels)  # (all M,) int64
        self.boxes = torch.from_numpy(pictures.boxes)  # (all M, 4) float64, xywh in pixels

    @staticmethod
    def _obtain(job: Job, cache: str | Path | bool | None, workers: int | None) -> Pictures:
        """The pictures of a job: from the cache if they are there, else painted and put there."""
        if cache is False:
            return _paint_in_parallel(job, workers)
        path = _cache_path(cache_folder() if cache is None else Path(cache).expanduser(), job)
        pictures = _load_cached(path, job)
        if pictures is None:
            pictures = _paint_in_parallel(job, workers)
            _store(path, job, pictures)
        return pictures

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        """Image and target number `index`; copies, so they may be changed. Negative numbers count from the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        index = range(len(self))[index]
        span = self._spans[index]
        xywh = self.boxes[span] / self.size  # (M, 4)
        boxes = torch.cat([xywh[:, :2] + xywh[:, 2:] / 2, xywh[:, 2:]], dim=1).float()  # (M, 4) cxcywh
        target = {
            "labels": self.labels[span].clone(),
            "boxes": boxes,
            "image_id": index,
            "orig_size": torch.tensor([self.size, self.size]),
        }
        return self.images[index].clone(), target

    def coco_ground_truth(self) -> dict:
        """All annotations in COCO format: boxes as x, y, width, height in pixels; area is that of the box."""
        side = self.size
        images = [
            {"id": i, "file_name": f"{i:06d}.png", "width": side, "height": side} for i in range(len(self))
        ]
        owners = [i for i, span in enumerate(self._spans) for _ in range(span.start, span.stop)]
        annotations = [
            {"id": number + 1, "image_id": owner, "category_id": self.label_to_category[label], "bbox": box}
            | {"area": box[2] * box[3], "iscrowd": 0}
            for number, (owner, label, box) in enumerate(
                zip(owners, self.labels.tolist(), self.boxes.tolist(), strict=True)
            )
        ]
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
        return {"images": images, "annotations": annotations, "categories": categories}


def export_coco(scenes: Scenes, folder: str | Path) -> Path:
    """Write scenes as a COCO-format data set: `folder`/images/000000.png, ... and `folder`/instances.json.

    The JSON file comes last, so where it is, everything is. Files of the same names are replaced.

    Returns: the path of the JSON file.
    """
    folder, truth = Path(folder), scenes.coco_ground_truth()
    for image, entry in zip(scenes.images, truth["images"], strict=True):
        with atomic(folder / "images" / entry["file_name"]) as temporary:
            Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(temporary, format="PNG")
    with atomic(folder / "instances.json") as temporary:
        temporary.write_text(json.dumps(truth), encoding="utf-8")
    return folder / "instances.json"

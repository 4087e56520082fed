"""Make data/blood_cells: a few photographs of BCCD, small enough to ship, for notebook 20 and tests.

    python -m detr_mini.data.download bccd
    python tests/make_blood_cells.py              the photographs
    python tests/make_blood_cells.py weights      data/weights/blood_cells.safetensors, in 8 bits, from the recorded run

24 photographs to train and 12 to validate, spread evenly over the 205 and 87 of the whole set, with their boxes. The
files are copied as they are. BCCD is by Shenggan (MIT licence, kept beside them).
"""

import json
import shutil
import sys
from pathlib import Path

from detr_mini.checkpoints import load_weights, read_facts, save_weights

DATA = Path(__file__).resolve().parents[1] / "data"
COUNTS = {"train": 24, "val": 12}


def sample(content: dict, count: int) -> dict:
    """An instances file with `count` of its images, evenly spaced, and their annotations."""
    images = sorted(content["images"], key=lambda image: image["file_name"])
    chosen = [images[number * len(images) // count] for number in range(count)]
    ids = {image["id"] for image in chosen}
    kept = [annotation for annotation in content["annotations"] if annotation["image_id"] in ids]
    return content | {"images": chosen, "annotations": kept}


def make(source: Path, target: Path) -> None:
    """Copy the chosen photographs and write one instances file per split."""
    (target / "images").mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        content = sample(json.loads((source / f"instances_{split}.json").read_text()), count)
        (target / f"instances_{split}.json").write_text(json.dumps(content) + "\n")
        for image in content["images"]:
            shutil.copyfile(source / "images" / image["file_name"], target / "images" / image["file_name"])
    shutil.copyfile(source / "LICENSE", target / "LICENSE")


def pack(run: Path, record: Path, target: Path) -> None:
    """The final weights of a run in 8 bits, with what they need to be used, and the run's AP50."""
    final = run / "final.safetensors"
    last = json.loads(record.read_text().splitlines()[-1])
    facts = {key: read_facts(final)[key] for key in ("data", "classes", "label_to_category")}
    save_weights(load_weights(final), target, quarter=True, **facts, steps=last["step"], seed=0, ap50=last["ap50"])


if __name__ == "__main__":
    if sys.argv[1:] == ["weights"]:
        name = "deformable-seed0"
        pack(DATA.parent / "runs" / "bccd" / name, DATA / "runs" / "bccd" / f"{name}.jsonl",
             DATA / "weights" / "blood_cells.safetensors")
    else:
        make(DATA / "bccd", DATA / "blood_cells")

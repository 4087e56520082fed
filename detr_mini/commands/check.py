"""python -m detr_mini check"""

import argparse
from pathlib import Path

from detr_mini.commands.shared import add_stated, positive, splits_of


def add_check(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "check", help="is a data set fit for training? every fault at once, in words, numbers and pictures",
        description="Check all splits of a folder in COCO's, Pascal VOC's, YOLO's or Hugging Face's format. Exit "
        "status 1 when a finding would stop or spoil a training.",
    )
    command.add_argument("folder", nargs="?", help="the folder, as for `train --data`")
    add_stated(command)
    command.add_argument("--val-annotations", type=Path, metavar="FILE", help="those to validate on, as for `train`")
    command.add_argument("--val-images", type=Path, metavar="FOLDER", help="their pictures (default: --images)")
    command.add_argument("--to", type=Path, default=Path("runs/check"), help="folder of the report (%(default)s)")
    command.add_argument("--size", type=int, help="shorter side in training, in pixels (default: as `train` chooses)")
    command.add_argument("--quick", action="store_true", help="do not decode the pictures, see only whether they exist")
    command.set_defaults(run=run_check)


def run_check(options: argparse.Namespace) -> int:
    """Print the report, write report.json and a contact sheet of each split."""
    from detr_mini.data.check import check_splits

    if (options.folder is None) == (options.annotations is None):
        raise ValueError("say what to check: a folder, or --annotations FILE --images FOLDER")
    options.data = options.folder
    splits = splits_of(options)
    size = positive(options.size, "--size") if options.size is not None else size_for(splits)
    report = check_splits(splits, options.folder or options.annotations, size, options.quick, progress=True)
    print(report)
    print("report:", ", ".join(map(str, report.save(options.to))))
    return 1 if report.errors else 0


def size_for(splits: list) -> int:
    """The size that `train` would choose; a usual one where faults keep it from choosing."""
    import torch

    from detr_mini.data.check import TRAINING_SIZE
    from detr_mini.data.coco import CocoFolder
    from detr_mini.fitting import choose_size, facts_of

    try:
        return choose_size(facts_of(CocoFolder.of(splits[0])), torch.cuda.is_available())
    except (ValueError, OSError):
        return TRAINING_SIZE

"""A data set seen with the labels of a detector that was trained on other data: classes are matched by name."""

import logging

from torch import Tensor
from torch.utils.data import Dataset

log = logging.getLogger("detr_mini")


def matching_rows(old: list[str | None], new: list[str | None]) -> list[tuple[int, int]]:
    """(row there, row here) of every class that has the same name in both, upper and lower case alike."""
    rows = {name.strip().lower(): row for row, name in reversed(list(enumerate(old))) if name}
    return [(rows[name.strip().lower()], row) for row, name in enumerate(new) if name and name.strip().lower() in rows]


def labelled_as(dataset: Dataset, classes: list[str | None]) -> Dataset:
    """The data set with a detector's labels, so that its answers can be judged; itself where both agree already.

    classes: the detector's, by label. Logs the data's classes that the detector does not know: it never finds them.
    Raises ValueError when there is no class in common.
    """
    if not classes or dataset.classes == classes:
        return dataset
    pairs = matching_rows(classes, dataset.classes)
    names = [name for name in dataset.classes if name]
    if not pairs:
        known = [name for name in classes if name]
        raise ValueError(
            f"no class of the data is one of the weights': the data has {listed(names)}; the weights know "
            f"{listed(known)}. Give data with those classes, or weights trained on yours"
        )
    found = {here for _, here in pairs}
    if unknown := [name for row, name in enumerate(dataset.classes) if name and row not in found]:
        log.warning("the weights do not know, and so never find: %s", listed(unknown))
    return Relabelled(dataset, classes, pairs)


def listed(names: list[str], shown: int = 8) -> str:
    """A few names and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


class Relabelled(Dataset):
    """A data set with other labels; pairs: (label from now on, label so far). Classes without one come after all."""

    def __init__(self, dataset: Dataset, classes: list[str | None], pairs: list[tuple[int, int]]) -> None:
        self.dataset = dataset
        new = {here: there for there, here in pairs}
        left = [label for label in dataset.label_to_category if label not in new]
        self.new_label = new | {label: len(classes) + place for place, label in enumerate(left)}
        self.classes = [*classes, *(dataset.classes[label] for label in left)]
        self.num_classes = len(self.classes)
        self.label_to_category = {self.new_label[old]: id_ for old, id_ in dataset.label_to_category.items()}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        image, target = self.dataset[index]
        labels = target["labels"].clone()
        for place, label in enumerate(target["labels"].tolist()):
            labels[place] = self.new_label[label]
        return image, target | {"labels": labels}

    def coco_ground_truth(self) -> dict:
        """The ground truth as it is: category ids stay."""
        return self.dataset.coco_ground_truth()

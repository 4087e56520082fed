"""A data set seen with the labels of a detector that was trained on other data: classes are matched by name."""

import logging

from torch import Tensor
from torch.utils.data import Dataset

from detr_mini.printing import plain

log = logging.getLogger("detr_mini")


def matching_rows(old: list[str | None], new: list[str | None]) -> list[tuple[int, int]]:
    """(row there, row here) of every class that has the same name in both.

    Upper and lower case may differ where that leaves no choice: "red" is "Red" unless there is a "red" as well.
    """
    exact = {name.strip(): row for row, name in reversed(list(enumerate(old))) if name}
    loose = {name.casefold(): row for name, row in exact.items()}
    wanted = [(row, name.strip()) for row, name in enumerate(new) if name]
    found = {row: exact[name] for row, name in wanted if name in exact}
    taken = set(found.values())
    found |= {row: loose[name.casefold()] for row, name in wanted
              if row not in found and name.casefold() in loose and loose[name.casefold()] not in taken}
    return [(found[row], row) for row, _ in wanted if row in found]


def validated_as(dataset: Dataset, classes: list[str | None]) -> Dataset:
    """A validation set with the labels of a training set, matched by name, however the two files number them.

    classes: the training set's, by label. Raises ValueError naming the classes that have objects in the validation set
    and that the training set does not list.
    """
    if dataset.classes == classes:
        return dataset
    pairs = matching_rows(classes, dataset.classes)
    strange = sorted({dataset.classes[label] for label in used_labels(dataset)}
                     - {dataset.classes[here] for _, here in pairs})
    if strange:
        known = [name for name in classes if name]
        raise ValueError(
            f"training and validation files list different classes: {listed(strange)} to validate on, and the training "
            f"file lists {listed(known)}. Give the same names to the same classes in both files"
        )
    log.info("the validation file numbers its classes differently: matched by name")
    return Relabelled(dataset, classes, pairs)


def used_labels(dataset: Dataset) -> set[int]:
    """Labels that have an object."""
    label_of = {category: label for label, category in dataset.label_to_category.items()}
    return {label_of[thing["category_id"]] for thing in dataset.coco_ground_truth()["annotations"]}


def labelled_as(dataset: Dataset, classes: list[str | None] | None) -> Dataset:
    """The data set with a detector's labels, so that its answers can be judged; itself where both agree already.

    classes: the detector's, by label. Logs the data's classes that the detector does not know: it never finds them.
    Raises ValueError when there is no class in common.
    """
    if not classes or dataset.classes[: len(classes)] == classes:
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
    return ", ".join(map(plain, names[:shown])) + more


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

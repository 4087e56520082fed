"""A part of a data set that is still a data set of the same kind."""

from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import Dataset


class Part(Dataset):
    """Some items of a data set, with the same classes and categories. rows: which, in order."""

    def __init__(self, dataset: Dataset, rows: Sequence[int]) -> None:
        self.dataset, self.rows = dataset, list(rows)
        self.classes, self.num_classes = dataset.classes, dataset.num_classes
        self.label_to_category = dataset.label_to_category

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        return self.dataset[self.rows[range(len(self.rows))[index]]]

    @property
    def file_names(self) -> list[str]:
        """The name of every image."""
        return [self.dataset.file_names[row] for row in self.rows]

    def coco_ground_truth(self) -> dict:
        """The whole data set's ground truth without the images that are left out."""
        truth = self.dataset.coco_ground_truth()
        images = [truth["images"][row] for row in self.rows]
        kept = {image["id"] for image in images}
        return truth | {
            "images": images, "annotations": [a for a in truth["annotations"] if a["image_id"] in kept]
        }


def first(dataset: Dataset, count: int) -> Part:
    """The first `count` items of a data set; all of them when it has fewer."""
    return Part(dataset, range(min(count, len(dataset))))

"""A part of a data set that is still a data set of the same kind."""

from torch import Tensor
from torch.utils.data import Dataset


class First(Dataset):
    """The first `count` items of a data set with the same classes and categories; all of them when it has fewer."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        self.dataset, self.count = dataset, min(count, len(dataset))
        self.classes, self.num_classes = dataset.classes, dataset.num_classes
        self.label_to_category = dataset.label_to_category

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        if not 0 <= index < self.count:
            raise IndexError(f"item {index} of {self.count}")
        return self.dataset[index]

    def coco_ground_truth(self) -> dict:
        """The whole data set's ground truth without the images that are left out."""
        truth = self.dataset.coco_ground_truth()
        images = truth["images"][: self.count]
        kept = {image["id"] for image in images}
        return truth | {
            "images": images, "annotations": [a for a in truth["annotations"] if a["image_id"] in kept]
        }

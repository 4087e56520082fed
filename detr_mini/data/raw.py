"""Reading a data folder without stopping at the first fault: what is whole, and what is wrong with the rest.

Training reads strictly (`CocoFolder`) and stops. The check (check.py) wants all faults at once. Both find and read the
same splits (layouts.py).
"""

from dataclasses import dataclass, field
from pathlib import Path

from detr_mini.data.annotations import Annotations, parse_annotations
from detr_mini.data.finding import MISSING, Split


@dataclass
class RawSplit:
    """One split. faults: entries that cannot be used, in words. annotations: all others, None when nothing is left.

    images: the folder that names of pictures start from.
    """

    name: str
    source: Path
    images: Path
    faults: list[str] = field(default_factory=list)
    annotations: Annotations | None = None

    def path(self, row: int) -> Path:
        """Where the picture of a row is, or should be."""
        return self.annotations.places[row].path

    @property
    def lost(self) -> list[str]:
        """Pictures that could be any of several, or lie where they must not be read, in words."""
        places = self.annotations.places if self.annotations else []
        return [place.said for place in places if place.lost and place.way != MISSING]

    @property
    def missing(self) -> list[str]:
        """Pictures that are nowhere, in words."""
        return [place.said for place in self.annotations.places if place.way == MISSING] if self.annotations else []

    @property
    def unannotated(self) -> bool:
        """Whether this is a test split without annotations, as such are by nature."""
        return self.name == "test" and self.annotations is not None and not len(self.annotations.rows)


    @classmethod
    def of(cls, dataset: object) -> "RawSplit":
        """The split that a data set was made of; of a part of it, with its images only."""
        rows = None
        while hasattr(dataset, "dataset"):
            here = getattr(dataset, "rows", None)
            if here is not None:
                rows = here if rows is None else [here[row] for row in rows]
            dataset = dataset.dataset
        found = dataset.found if rows is None else dataset.found.of_images(rows)
        return cls(dataset.split.name, dataset.split.source, dataset.images, [], found)


def read_split(split: Split) -> RawSplit:
    """A split that was found, with every fault in its entries."""
    raw = RawSplit(split.name, split.source, split.pictures.first)
    try:
        content = split.read(raw.faults)
        raw.annotations = parse_annotations(content, split.source, split.pictures, raw.faults)
    except (ValueError, FileNotFoundError) as error:
        raw.faults.append(str(error))
    return raw

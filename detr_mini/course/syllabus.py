"""The notebooks of the course, in order: the one list that the map, the progress view and the tests read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Lesson:
    """One notebook. minutes: for a first reading with its exercises; None while it is not written yet."""

    number: str
    name: str
    question: str
    minutes: int | None = None

    @property
    def stem(self) -> str:
        """Its file name without the ending."""
        return f"{self.number}_{self.name}"

    @property
    def title(self) -> str:
        """Its name as people write it."""
        return self.name.replace("_", " ")


LESSONS = (
    Lesson("00", "start_here", "Does my machine work, what is the map, how do I learn here?", 45),
    Lesson("01", "attention_by_hand", "What does softmax(q kᵀ) v do?", 60),
    Lesson("02", "self_and_cross_attention", "Where do queries, keys and values come from?", 75),
    Lesson("03", "positions", "Why does a set need addresses?", 85),
    Lesson("04", "image_to_boxes", "How did detectors work before, and what is a good box?", 85),
    Lesson("05", "encoder", "How does an image become tokens that know their surroundings?", 75),
    Lesson("06", "decoder_and_queries", "How do queries divide the objects among themselves?", 80),
    Lesson("07", "bipartite_matching", "Which prediction answers for which object?", 60),
    Lesson("08", "set_loss", "What is a set of boxes punished for?", 65),
    Lesson("09", "train_detr", "Does it learn, on my own machine?", 75),
    Lesson("10", "why_detr_is_slow", "Why did DETR need 500 epochs?", 85),
    Lesson("11", "deformable_detr", "What if a query looks at a few places only?", 90),
    Lesson("12", "smca_detr", "What if a query first guesses where to look?", 85),
    Lesson("13", "anchor_detr", "What if a query is a point?", 90),
    Lesson("14", "dab_detr", "What if a query is a box?", 95),
    Lesson("15", "sam_detr", "What if a query speaks the image's language?", 85),
    Lesson("16", "the_race", "Who learns fastest, on one budget?", 80),
    Lesson("17", "how_many_queries_which_positions", "How many queries, and which positions?"),
    Lesson("18", "beyond_one_to_one", "Must every object have one prediction only?"),
    Lesson("19", "decoupled_spaces", "Must input and output live in the same space?"),
    Lesson("20", "your_data_and_coco", "How do I train it on my own pictures?", 95),
    Lesson("21", "clinic", "My training fails. Why?"),
)

# Groups of lessons, as the map draws them: title -> first and last number.
STAGES = {
    "the parts": ("01", "08"),
    "train": ("09", "09"),
    "why slow": ("10", "10"),
    "five answers": ("11", "15"),
    "race": ("16", "16"),
    "open questions": ("17", "19"),
    "yours": ("20", "21"),
}


def lesson(number: str) -> Lesson:
    """The lesson with this number, "01"; ValueError naming the numbers there are."""
    found = next((one for one in LESSONS if one.number == number), None)
    if found is None:
        raise ValueError(f"no lesson {number!r}: they are numbered {LESSONS[0].number} to {LESSONS[-1].number}")
    return found

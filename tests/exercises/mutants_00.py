"""What learners write for the exercise of notebook 00: wrong answers with what each is told, and right ones."""

import torch

WRONG = {
    "00.largest": [
        (lambda boxes: boxes[:, 2].argmax(), "the widest one"),
        (lambda boxes: boxes[:, 3].argmax(), "the tallest one"),
        (lambda boxes: (boxes[:, 2] + boxes[:, 3]).argmax(), "largest width + height"),
        (lambda boxes: ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).argmax(), "right and bottom"),
        (lambda boxes: (boxes[:, 2] * boxes[:, 3]).max(), "the area of the largest box"),
        (lambda boxes: boxes[(boxes[:, 2] * boxes[:, 3]).argmax()], "the largest box itself"),
        (lambda boxes: boxes[:, 2] * boxes[:, 3], "all the areas"),
        (lambda boxes: (boxes[:, 2] * boxes[:, 3]).argmax() + 1, "counted from 1"),
        (lambda boxes: 1, "written into your function"),
        (lambda boxes: boxes[4].prod(0, 1), "Your code stopped: TypeError"),
        (lambda boxes: "box 1", "Numbers are wanted here, and this is str"),
    ],
}


def in_a_loop(boxes: torch.Tensor) -> int:
    """Without a tensor's methods."""
    best, place = -1.0, 0
    for index, (_, _, width, height) in enumerate(boxes.tolist()):
        if width * height > best:
            best, place = width * height, index
    return place


RIGHT = {"00.largest": [lambda boxes: boxes[:, 2:].prod(dim=1).argmax(), in_a_loop]}

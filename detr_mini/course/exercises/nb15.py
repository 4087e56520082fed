"""Exercises and quiz of 15, SAM-DETR."""

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.course.exercises.core import Choice, Exercise, Question, Tier, ask, forbids, judge
from detr_mini.variants import sam_aligner

# ---------------------------------------------------------------- 15.points

OFFSETS = torch.tensor([[-1.0, 0.0], [0.5, 1.0], [0.25, -0.75]])
BOX = torch.tensor([0.40, 0.60, 0.30, 0.50])  # cxcywh


def check_points(points: object) -> None:
    """points(offsets (heads, 2) from -1 to 1, box (4,) cxcywh) -> (heads, 2), x and y in the image."""
    centre, size = BOX[:2], BOX[2:]
    corners = cxcywh_to_xyxy(BOX)
    judge(ask(points, OFFSETS, BOX), centre + OFFSETS * size / 2, {
        "Twice too far: an offset of 1 is the edge, and from the middle to the edge it is half a side.":
            centre + OFFSETS * size,
        "You count from the upper left corner. An offset of 0 is the middle of the box.":
            corners[:2] + OFFSETS * size / 2,
        "You took offsets for 0 to 1 across the box. They run from -1 to 1, and 0 is the middle.":
            corners[:2] + OFFSETS * size,
        "Those are the offsets from the middle. Add the middle.": OFFSETS * size / 2,
        "You did not use the box's size: an offset of 1 is the edge of a large box and of a small one.":
            centre + OFFSETS,
        "Width and height are swapped: x goes with the width, box[2].": centre + OFFSETS * size.flip(0) / 2,
        "You took the box for corners. It is centre x, centre y, width, height.":
            (BOX[:2] + BOX[2:]) / 2 + OFFSETS * (BOX[2:] - BOX[:2]) / 2,
    })


# ---------------------------------------------------------------- 15.cut

WIDE = torch.tensor([0.45, 0.55, 0.50, 0.40])  # cxcywh, on a map of 6 x 9 cells


def check_cut(cut: object) -> None:
    """cut(features (d, h, w), box (4,) cxcywh, n) -> (d, n, n), read in the middle of each part."""
    cut = forbids(cut, "Read the middles of the parts yourself.", torchvision.ops.roi_align, sam_aligner.crop)
    torch.manual_seed(15)
    features = torch.randn(2, 6, 9)
    judge(ask(cut, features, WIDE, 4), reading(features, WIDE, 4), slips_of_cut(features, WIDE, 4))
    judge(ask(cut, features, WIDE, 3), reading(features, WIDE, 3), {
        "Right for four parts. Here n is 3, and yours still has four.": reading(features, WIDE, 4),
    } | slips_of_cut(features, WIDE, 3), when="With n = 3")


def reading(features: Tensor, box: Tensor, n: int, part: Tensor | None = None, **how: object) -> Tensor:
    """features (d, h, w) read at n x n places of a box: (d, n, n). part: (n,) places, 0 to 1 across the box.

    how: further arguments of grid_sample, in place of align_corners=False.
    """
    part = (torch.arange(n) + 0.5) / n if part is None else part
    left, top, right, bottom = cxcywh_to_xyxy(box)
    x, y = left + part * (right - left), top + part * (bottom - top)
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1) * 2 - 1  # (n, n, 2)
    return F.grid_sample(features[None], places[None], **{"align_corners": False} | how)[0]


def slips_of_cut(features: Tensor, box: Tensor, n: int) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    corners = torch.cat([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])
    right = reading(features, box, n)
    return {
        "You read at the left and upper edge of each part. Its middle is half a part further.":
            reading(features, box, n, torch.arange(n) / n),
        "Your places go from edge to edge of the box. With n parts the first place is half a part inside: "
        "(i + 0.5) / n.": reading(features, box, n, torch.linspace(0, 1, n)),
        "Rows and columns of the cut are swapped: the first axis of a map is y, from top to bottom.":
            right.transpose(1, 2),
        "With align_corners=True, -1 and 1 are the middles of the outer cells. Here they are the borders of the map.":
            reading(features, box, n, align_corners=True),
        "That is the nearest cell. Read between the cells (mode \"bilinear\").":
            reading(features, box, n, mode="nearest"),
        "You took the box for corners. It is centre x, centre y, width, height.": reading(features, corners, n),
        "x and y of the box are swapped.": reading(features, box[[1, 0, 3, 2]], n),
        "That is the whole map, cut into parts. Read within the box only.":
            reading(features, torch.tensor([0.5, 0.5, 1.0, 1.0]), n),
        "You stretched the box twice as wide as it is: grid_sample counts from -1 to 1, but a box's side is a part of "
        "the whole map.": reading(features, torch.cat([box[:2], 2 * box[2:]]), n),
        "Your places run from 0 to 1, and grid_sample counts from -1 to 1: twice the place, less 1.":
            reading(features, torch.cat([(box[:2] + 1) / 2, box[2:] / 2]), n),
        "grid_sample wants x first, then y, at every place. Yours are y, x.":
            reading(features, box[[1, 0, 3, 2]], n).transpose(1, 2),
        "The numbers are right, with an axis in front that grid_sample wanted. Take it off: (d, n, n).": right[None],
    }


# ---------------------------------------------------------------- 15.ask


def check_ask(maps: object) -> None:
    """maps(found (heads, d), content (d,), memory (HW, d), query, key (d, d), gate (heads * d, d)) -> (heads, HW)."""
    torch.manual_seed(15)
    found, content, memory = torch.randn(4, 8), torch.randn(8), torch.randn(10, 8)
    query, key, gate = torch.randn(8, 8) / 2, torch.randn(8, 8) / 2, torch.randn(32, 8)
    asked = found, content, memory, query, key, gate
    judge(ask(maps, *asked), looked(*asked).softmax(-1), slips_of_ask(*asked))


def looked(found: Tensor, content: Tensor, memory: Tensor, query: Tensor, key: Tensor, gate: Tensor) -> Tensor:
    """The scores (heads, HW) before the softmax."""
    return scores(found * (gate @ content).sigmoid().view_as(found), memory, query, key)


def scores(asks: Tensor, memory: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """q k^T / sqrt(d) at full width: asks (heads, d), memory (HW, d) -> (heads, HW)."""
    return (asks @ query.T) @ (memory @ key.T).T / asks.shape[-1] ** 0.5


def slips_of_ask(
    found: Tensor, content: Tensor, memory: Tensor, query: Tensor, key: Tensor, gate: Tensor
) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    heads, d = found.shape
    right, raw = looked(found, content, memory, query, key, gate), (gate @ content).view(heads, d)
    gated, pair = found * raw.sigmoid(), (query, key)
    own = (gate.view(heads, d, d) @ found[..., None])[..., 0].sigmoid()  # every head's gate from what it found
    q, k = gated @ query.T, memory @ key.T
    split = torch.einsum("hc,khc->hk", torch.stack([row.view(heads, -1)[h] for h, row in enumerate(q)]),
                         k.view(len(k), heads, -1)) / (d / heads) ** 0.5
    return {
        "The gate is missing: what was found is multiplied, channel by channel, by the sigmoid of gate @ content.":
            scores(found, memory, *pair).softmax(-1),
        "The gate has no sigmoid. It lets through a part of each channel, from 0 to 1.":
            scores(found * raw, memory, *pair).softmax(-1),
        "You made the gate a softmax. Channels do not compete: each has a sigmoid of its own.":
            scores(found * raw.softmax(-1), memory, *pair).softmax(-1),
        "You added the gate. It is multiplied.": scores(found + raw.sigmoid(), memory, *pair).softmax(-1),
        "You cut the gate into (d, heads). Its numbers are head after head: view them as (heads, d).":
            scores(found * raw.view(d, heads).T.sigmoid(), memory, *pair).softmax(-1),
        "Memory has no projection yet: keys are memory @ key.T.": (q @ memory.T / d**0.5).softmax(-1),
        "What was found has no projection yet: queries are (found * gate) @ query.T.":
            (gated @ k.T / d**0.5).softmax(-1),
        "The gate comes from the old content, not from what was found.":
            scores(found * own, memory, *pair).softmax(-1),
        "That is the old content asking. What was found at the points asks; the old content only makes the gate.":
            scores(content * raw.sigmoid(), memory, *pair).softmax(-1),
        "You divided by the root of d / heads, and each head used all of d. The root of d is right here.":
            (right * heads**0.5).softmax(-1),
        "The scaling is missing: divide by the root of d.": (right * d**0.5).softmax(-1),
        "You split the width among the heads, as DETR does. Here each head asks at full width, with all d channels.":
            split.softmax(-1),
        "You gated after the projection W_q. The gate comes first.":
            ((found @ query.T * raw.sigmoid()) @ k.T / d**0.5).softmax(-1),
        "Those are the scores. Take the softmax over memory.": right,
        "You took the softmax over the heads. Each head's map sums to 1 over memory.": right.softmax(0),
        "The matrices are the wrong way round: a linear layer computes x @ weight.T.":
            (gated @ query @ (memory @ key).T / d**0.5).softmax(-1),
    }


# ---------------------------------------------------------------- 15.read


def check_read(read: object) -> None:
    """read(found (heads, d), value (weight (d, d), bias (d,))) -> (d,), each head its own slice."""
    torch.manual_seed(15)
    found, weight, bias = torch.randn(4, 8), torch.randn(8, 8), torch.randn(8)
    values = found @ weight.T + bias  # (heads, d)
    judge(ask(read, found, (weight, bias)), own_slices(values), slips_of_read(found, weight, bias))


def own_slices(values: Tensor) -> Tensor:
    """values (heads, d) -> (d,): slice h of row h."""
    heads = len(values)
    return torch.cat([values[head].view(heads, -1)[head] for head in range(heads)])


def slips_of_read(found: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    values, heads = found @ weight.T + bias, len(found)
    woven = torch.stack([values[head].view(-1, heads)[:, head] for head in range(heads)]).flatten()
    backwards = torch.cat([values[head].view(heads, -1)[-1 - head] for head in range(heads)])
    return {
        "That is the mean of what the heads found. Each head keeps to its own slice of the width: head h has slice h.":
            values.mean(0),
        "That is the sum of what the heads found. Each head keeps to its own slice of the width: head h has slice h.":
            values.sum(0),
        "All slices come from the first head. Slice h comes from what head h found.": values[0],
        "You kept everything that every head found, heads times d numbers. Each head keeps only its own slice.":
            values.flatten(),
        "One row per head is there still: lay the slices one behind the other, (d,).":
            own_slices(values).view(heads, -1),
        "The bias is missing.": own_slices(found @ weight.T),
        "You cut the slices out of what was found, and projected then. The projection comes first: every channel of a "
        "value is made of all channels of a feature.": own_slices(found) @ weight.T + bias,
        "The slices are given out from the last head to the first. Head h keeps slice h.": backwards,
        "The value projection is missing: slices are taken after it.": own_slices(found),
        "The matrix is the wrong way round: a linear layer computes x @ weight.T.": own_slices(found @ weight + bias),
        "Your slices are every heads-th channel. A head's slice is a run of d / heads channels, one behind the other.":
            woven,
        "The channels are there, in the wrong order: slice by slice, and within a slice as they were.":
            own_slices(values).view(heads, -1).T.flatten(),
    }


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "15.points", "Where are the points?", Tier.WARM_UP, 8, check_points,
        ("What is the offset of the middle of the box? And of its right edge?",
         "From the middle to an edge it is half a side: middle + offset * side / 2."),
        "A tanh keeps offsets between -1 and 1, so no point ever leaves its box.",
    ),
    Exercise(
        "15.cut", "Cut a box out", Tier.CORE, 15, check_cut,
        ("First the places along one axis: n parts of the box, and the middle of each, as a part of the image.",
         "x = left + (i + 0.5) / n * width, likewise y; then meshgrid with indexing=\"xy\", times 2, less 1."),
        "RoIAlign takes more readings per part when parts are larger than cells, and averages them.",
    ),
    Exercise(
        "15.ask", "The map of one query", Tier.CORE, 15, check_ask,
        ("In what order? What was found, times the gate, through W_q; memory through W_k; then as in any attention.",
         "The gate is (gate @ content).sigmoid(), shaped like found. Divide the scores by the root of the full width."),
        "DETR's heads see 16 of 128 channels each. These see all, and pay for it with a larger product.",
    ),
    Exercise(
        "15.read", "Take it home", Tier.STRETCH, 20, check_read,
        ("With a map that is 1 at one place, attention gives the value of that place. But each head has its own place, "
         "and its own slice of the value.",
         "values = found @ weight.T + bias is (heads, d). View it as (heads, heads, d / heads) and take its diagonal."),
        "But for the gate, that is the form that did without cross-attention.",
    ),
)

QUIZ = (
    Question("A reader that names objects from memory tokens fails on what DETR's queries hold. Why?", (
        Choice("The queries do not know what they found",
               "They do: a reader trained on queries names their objects nearly always."),
        Choice("They hold the same knowledge in another code",
               "Yes. W_q and W_k translate between the two, and have to be learned.", True),
        Choice("A linear reader cannot read 128 numbers", "It reads memory's 128 numbers very well."),
    )),
    Question("In a new SAM-DETR a query is made of its object's features. Its attention is ...", (
        Choice("on the object at once",
               "Measured: at chance. Between two vectors that are alike stand two random matrices."),
        Choice("as if uniform, until W_q and W_k have learned that equal stays equal",
               "Yes. With one matrix for both sides the mass in the box doubles without training.", True),
        Choice("on the middle of the image", "Nothing prefers the middle: addresses go through random networks, too."),
    )),
    Question("Trained without cross-attention, each head keeping what its salient point has, SAM-DETR on scenes ...", (
        Choice("fails: no image reaches its queries",
               "That is the blind DETR. Here the image comes in through the eight points."),
        Choice("learns about as well", "Yes. On scenes what was fetched is enough. COCO was not tried.", True),
        Choice("turns into DETR's decoder", "That is what keeping the old content does."),
    )),
)

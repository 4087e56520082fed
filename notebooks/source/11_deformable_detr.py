# %% [markdown]
# # 11 · Deformable DETR
#
# **What if a query looks at a few places only?**
#
# *About 90 minutes with the exercises. The cells run for about two minutes, mostly a training that you watch; no GPU.*
# *You need notebooks 05, 06, 09 and 10: encoder, decoder, training, and why DETR is slow.*
# *Lecture of twenty minutes: sections 1 to 4, 9, 10 and 17.*
#
# After this notebook you can
#
# - read a feature map between its cells, and say what that does for learning;
# - compute deformable attention for one query by hand, and say why it has no keys;
# - explain why its price does not grow with the square of the image;
# - tell what refinement and the two-stage form add, and which of the paper's claims a small experiment can show.

# %%
import json
import math

import torch
import torch.nn.functional as F

import detr_mini as dm
from detr_mini.course import deformable_plots, looking
from detr_mini.course.notebook import check, predict, quiz, reveal, where_we_are
from detr_mini.course.training_plots import looks, show

dm.setup(seed=0)

# %% [markdown]
# ## Where we are

# %%
where_we_are("attention")

# %% [markdown]
# Notebooks 11 to 15 each change the DETR you know. The first change is the deepest: it replaces attention
# itself, in the encoder and between queries and image.
#
# ## 1. Two failures
#
# You measured the first one in notebook 10. Here are five snapshots of it: plain DETR on scenes, recorded while it
# learned. Each map is that of the query which was matched with the boat.

# %%
from detr_mini.course.recorder import load_recording
from detr_mini.course.why_slow import RUNS, read_measures

recording, at, maps = load_recording(RUNS / "detr.safetensors"), 1, {}  # the second of its eight images
for step in (0, 100, 400, 1000, 2500):
    row = recording.at(step)
    owner = int((recording.owners[row, -1, at] == 0).nonzero()[0])  # its first object is the boat
    maps[f"step {step:,}"] = recording.attention[row, -1, at, :, owner].mean(0)  # (8, 8), mean of the heads
boat = dm.boxes.cxcywh_to_xyxy(recording.targets[at]["boxes"][0]) * 128
show(looks(recording.images[at], list(maps.values()), list(maps), boxes=[boat] * len(maps)),
     alt="A scene with a framed boat, and five maps. DETR's attention glows everywhere at steps 0 and 100, "
         "in broad patches at step 400, and in fewer and fewer cells at steps 1,000 and 2,500.")
places = [looking.entropy(weights).exp() for weights in maps.values()]  # over how many of 64 cells
assert places == sorted(places, reverse=True) and places[0] > 60 and places[-1] < 20

# %%
detr = read_measures(RUNS / "detr.jsonl")[1]
for line in detr:
    if f"step {line['step']:,}" in maps:
        entropy, mass, uniform = (line[name][-1] for name in ("entropy", "mass", "uniform"))
        print(f"step {line['step']:5,}: a head looks at {math.exp(entropy):4.1f} of 64 places; "
              f"inside the object's box {mass:.2f}, uniform {uniform:.2f}")

# %% [markdown]
# (Means over 200 held-out scenes.) A query starts by averaging nearly all places, and needs hundreds of steps to become
# choosy. Until step 400 its attention is on the object hardly more than by chance.
#
# The second failure is the price. In DETR's encoder every place is compared with every place.

# %%
grids = {"a scene": [(8, 8)], "COCO, stride 32": [(25, 42)], "COCO, stride 8": [(100, 167)],
         "COCO, four scales": [(100, 167), (50, 84), (25, 42), (13, 21)]}
counts = {name: sum(h * w for h, w in shapes) for name, shapes in grids.items()}
for name, n in counts.items():
    print(f"{name:18} {n:7,} tokens   {n * n:13,} comparisons per head and layer")

# %% [markdown]
# So DETR has to make do with the coarsest map, where a cell is 32 pixels wide. Small objects drown in it: 20.5 AP,
# and 61.1 on large ones (Deformable DETR's README). Finer maps would help, and they cost the square.
#
# ## 2. Say where, do not compare
#
# In both failures a query *compares itself with everything* to find out where to look. What if it just **said** where?
#
# - It has a **reference point**: a token its own middle, an object query a place that a linear layer and a sigmoid read
#   off its learned position.
# - From its own vector it computes a few **offsets** from there, and a **weight** for each.
# - It reads the map at these places, and adds up what it finds.

# %%
predict("11.start", "In a new deformable decoder all weights are equal, too. In notebook 10 equal weights "
        "gave every query the same mean image. Here?", "the same again: equal weights, equal answers",
        "every query collects something else", "every query collects nothing")
predict("11.price", "An encoder layer on a map with twice the side. DETR's takes about 16 times as long. "
        "The deformable one?", "about 4 times", "about 8 times", "as long as before")

# %% [markdown]
# ## 3. Reading between the cells
#
# A place that a query says is rarely the middle of a cell. So we need a value *between* cells: the weighted mean of the
# four cells around. A map with one number per cell, and the place x = 2.3, y = 1.25, counted in cells from the upper
# left **corner**. A cell's value sits at its middle: cell 0 at 0.5.

# %%
cells = torch.tensor([[1.0, 2, 0, 1], [3, 4, 1, 0], [0, 1, 2, 5], [2, 0, 1, 3]])  # (h, w)
x, y = 2.3, 1.25

left, top = math.floor(x - 0.5), math.floor(y - 0.5)  # the cell whose middle is up and left of the place
right_part, lower_part = (x - 0.5) - left, (y - 0.5) - top  # how far on the way to the next middle
print(f"between columns {left} and {left + 1}, {right_part:.2f} of the way; "
      f"between rows {top} and {top + 1}, {lower_part:.2f} of the way")
shares = torch.tensor([[1 - lower_part], [lower_part]]) * torch.tensor([1 - right_part, right_part])  # (2, 2)
print("shares of the four cells:", [round(s, 2) for s in shares.flatten().tolist()])
by_hand = (shares * cells[top: top + 2, left: left + 2]).sum()
print(f"value: {by_hand:.3f}")

# %% [markdown]
# PyTorch has this as `grid_sample`. It counts places from −1 to 1. The package has `sample`, which counts from 0 to 1,
# and takes several weighted places at once.

# %%
from detr_mini.sampling import sample

place = torch.tensor([x, y]) / 4  # (2,) 0 to 1 across the map
torchs = F.grid_sample(cells[None, None], place.view(1, 1, 1, 2) * 2 - 1, align_corners=False)
ours = sample(cells.view(1, 16, 1, 1), [(4, 4)], place.view(1, 1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 1))
print(f"by hand {by_hand:.3f}   grid_sample {torchs.item():.3f}   package {ours.item():.3f}")

# %% [markdown]
# Two slips are common: to forget the half cell, and `align_corners=True`, which puts 0 and 1 on the *middles* of the outer
# cells, not on the border.
#
# Why not simply take the nearest cell? Because a place must **learn**. Between cells the value has a slope: move a
# little to the right, and it changes.

# %%
moving = place.clone().requires_grad_()
value = sample(cells.view(1, 16, 1, 1), [(4, 4)], moving.view(1, 1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 1))
slope = torch.autograd.grad(value.sum(), moving)[0] / 4  # per cell: x, y
block = cells[top: top + 2, left: left + 2]  # (2, 2)
to_the_right = (1 - lower_part) * (block[0, 1] - block[0, 0]) + lower_part * (block[1, 1] - block[1, 0])
print(f"slope per cell: right {slope[0]:.2f}, down {slope[1]:.2f};   by hand, right: {to_the_right:.2f}")

# %% [markdown]
# So the gradient tells a place which way to go. But it knows four cells only; a better one further off does not pull. So a
# query should begin with several places, spread out.
#
# ## 4. Eight places of one query
#
# Two heads with four places each, on a 6 x 6 map. Each head reads its own number per cell. Offsets and weights are two
# small matrices times the query, here random. Below the picture: read each dot between its four cells, multiply by its
# weight, add up per head.

# %%
torch.manual_seed(0)
heads, points = 2, 4
memory = torch.randint(0, 10, (6, 6, heads)).float()  # (h, w, d): d = 2, one number for each head
query = torch.tensor([1.0, -0.5])  # (d,)
to_offsets, to_scores = torch.randn(heads * points * 2, 2), torch.randn(heads * points, 2)

offsets = (to_offsets @ query).view(heads, points, 2)  # x and y, in cells
weights = (to_scores @ query).view(heads, points).softmax(dim=1)  # each head's sum to 1
reference = torch.tensor([0.45, 0.40])  # x and y, 0 to 1
places = reference * 6 + offsets  # (heads, points, 2), in cells

show(deformable_plots.sampled(memory.permute(2, 0, 1), places, weights, (reference * 6).tolist()),
     alt="Two 6 by 6 grids of digits, one per head. On each a cross at the same place, and four dots joined "
         "to it by lines, as large as their weights: 0.18 to 0.31 in head 1, 0.10 to 0.42 in head 2.")

# %%
def read(cells, x, y):
    """The value of a map (h, w) at a place in cells. What lies outside the map is 0."""
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    right_part, lower_part, value = x - 0.5 - left, y - 0.5 - top, 0.0
    for row, down in ((top, 1 - lower_part), (top + 1, lower_part)):
        for column, across in ((left, 1 - right_part), (left + 1, right_part)):
            if 0 <= row < cells.shape[0] and 0 <= column < cells.shape[1]:
                value += down * across * cells[row, column].item()
    return value

for head in range(heads):
    found = [read(memory[..., head], *place) for place in places[head].tolist()]
    total = sum(w * value for w, value in zip(weights[head].tolist(), found))
    print(f"head {head + 1} at", [(round(x, 2), round(y, 2)) for x, y in places[head].tolist()])
    print("  reads", [round(value, 2) for value in found], f"-> {total:.3f}")

# %%
maps = memory.permute(2, 0, 1)[:, None]  # (heads, 1, h, w)
found = F.grid_sample(maps, (places / 6 * 2 - 1)[:, None], align_corners=False)[:, 0, 0]  # (heads, points)
print("grid_sample", [round(v, 3) for v in (found * weights).sum(dim=1).tolist()])

values = memory.view(1, 36, heads, 1)  # (B, HW, heads, c)
collected = sample(values, [(6, 6)], (places / 6)[None, None, :, None], weights[None, None, :, None])
print("package    ", [round(v, 3) for v in collected[0, 0].tolist()])

# %% [markdown]
# That is all of deformable attention. With the two matrices that any attention has:
#
# > out = W_o · [per head: Σₖ Aₖ · (W_v x)(p + Δpₖ)]
#
# Aₖ are the weights, p is the reference point, Δpₖ an offset.
#
# ## 5. There are no keys
#
# Which layers does it have? Beside them, the attention you know, at the paper's width.

# %%
from detr_mini.attention import MultiHeadAttention
from detr_mini.variants.deformable_attention import DeformableAttention

for name, attention in {"DETR": MultiHeadAttention(256, 8),
                        "Deformable": DeformableAttention(256, 8, levels=4, points=4)}.items():
    layers = ", ".join(f"{part} {tuple(layer.weight.shape)}" for part, layer in attention.named_children())
    print(f"{name:10} {layers}")

# %% [markdown]
# Key is gone, and with it every comparison. Where to look and how much follow from the **query alone**. The image has no
# say in it, until something of the image has got into the query. In the decoder, that is after layer 1. Does the
# trained detector agree? How far do the places move from image to image?

# %%
from detr_mini import zoo
from detr_mini.checkpoints import load_weights
from detr_mini.course.race import HELD_OUT_SEED
from detr_mini.course.recorder import Recorder
from detr_mini.data.scenes import Scenes
from detr_mini.files import DATA

recipe, held_out = zoo.recipe("deformable", "scenes"), Scenes(200, seed=HELD_OUT_SEED)
recorder = Recorder(held_out, range(200), recipe.data, recipe.loss, steps=[])
batch = recorder.batch  # 200 images, prepared, with their targets
torch.manual_seed(0)
new_detr, dense = dm.build("detr").eval(), load_weights(DATA / "weights/detr.safetensors").eval()
untrained = dm.build("deformable").eval()
trained = load_weights(DATA / "weights/deformable.safetensors").eval()

# %%
with torch.no_grad(), dm.AttentionTrace(trained) as trace:
    trained(batch.images[:64], batch.mask[:64])
for layer in range(3):
    record = trace[f"decoder.layers.{layer}.cross_attention"]  # locations (B, Q, heads, levels, points, 2)
    moved, changed = record.locations.std(dim=0).mean() * 128, record.weights.std(dim=0).mean()
    print(f"layer {layer + 1}: between images places move by {moved:.1f} pixels, weights by {changed:.2f}")

# %% [markdown]
# Layer 1 looks at the very same places in every image, whatever is there. Layers 2 and 3 follow what was found.
#
# ## 6. The first compass
#
# Nothing tells a new query where to look. So the offsets' matrix starts at 0 and their **bias** at a compass: head m
# points in direction m, and its places lie 1, 2, 3, 4 cells away. The weights start equal.

# %%
angle = torch.arange(8) * 2 * math.pi / 8  # (heads,)
direction = torch.stack([angle.cos(), angle.sin()], dim=-1)  # (heads, 2)
direction = direction / direction.abs().amax(dim=1, keepdim=True)  # onto a square: the larger part is 1
first = direction[:, None] * torch.arange(1, 5)[:, None]  # (heads, points, 2), in cells

new = DeformableAttention(128, 8, levels=1, points=4)
zeros = (new.offsets.weight, *new.scores.parameters())
bias = new.offsets.bias.view(8, 4, 2)
print("the package's bias is this compass: ", torch.allclose(bias, first, atol=1e-6))
print("the rest of offsets and weights is 0:", not any(part.any() for part in zeros))
show(deformable_plots.rose(first, title="The first places of eight heads"),
     alt="Eight rays from a cross, one per head and colour, straight and diagonal. On each lie four dots, 1, "
         "2, 3 and 4 cells away; the outermost ones lie on a square 8 cells wide.")
assert torch.allclose(first.abs().amax(dim=2), torch.arange(1.0, 5).expand(8, 4))  # squares around the cross

# %% [markdown]
# Now the prediction. What do the queries of an untrained decoder collect? We compare with the mean of all values, and
# with the next query.

# %%
from torch import cosine_similarity as alike

def collects(model, images=batch.images[:16]):
    """Cosines of what layer 1 collects: with the mean of all values, and between neighbouring queries."""
    attention, kept = model.decoder.layers[0].cross_attention, {}
    hooks = [attention.value.register_forward_hook(lambda _, given, out: kept.update(values=out)),
             attention.output.register_forward_pre_hook(lambda _, given: kept.update(found=given[0]))]
    with torch.no_grad():
        model(images)
    [hook.remove() for hook in hooks]
    mean = kept["values"].mean(dim=1, keepdim=True).unflatten(-1, (8, -1))  # (B, 1, heads, c)
    found = kept["found"].unflatten(-1, (8, -1))  # (B, Q, heads, c)
    return alike(found, mean, dim=-1).mean().item(), alike(found[:, 1:], found[:, :-1], dim=-1).mean().item()

# %%
for name, model in {"DETR": new_detr, "Deformable": untrained}.items():
    mean, neighbour = collects(model)
    print(f"new {name:10}   like the mean of all: {mean:.2f}   like the next query: {neighbour:.2f}")
reveal("11.start", "b" if neighbour < 0.8 else "a",
       "The weights are equal, but each query has places of its own.")

# %% [markdown]
# Equal weights over *its own* few places make every query different from the first step on. Boxes are written around
# these places, too: the fan of guesses, act two of notebook 09, as a gift.
#
# ## 7. Two identities
#
# What does it have to do with DETR's attention?
#
# 1. One place without an offset, at the middle of a cell, reads just that cell.
# 2. Place a sample on the middle of *every* cell, and give it the weight that DETR gives the cell. That is DETR's
#    attention, exactly. We take the shipped DETR and a real image.

# %%
with torch.no_grad():
    lone = DeformableAttention(128, 8, levels=1, points=1)
    lone.offsets.bias.zero_()
    tokens, grid = trained.tokenize(batch.images[:1], batch.mask[:1])  # (1, 64, d)
    middle = (torch.tensor([[5, 2]]) + 0.5) / 8  # column 5, row 2
    got = lone(torch.randn(1, 1, 128), middle[None], tokens, grid)
    cell = lone.output(lone.value(tokens[0, 2 * 8 + 5]))
    print("it reads the cell:", torch.allclose(got[0, 0], cell, atol=1e-5))

# %%
from detr_mini.variants.deformable_attention import token_centres

with torch.no_grad(), dm.AttentionTrace(dense) as trace:
    dense(batch.images[:1], batch.mask[:1])
record = trace["decoder.layers.2.cross_attention"]  # weights (1, heads, Q, HW), value (1, heads, HW, c)
everywhere = token_centres(grid)[:, None, None, None].expand(-1, 25, 8, -1, -1, -1)  # (1, Q, heads, 1, HW, 2)
weights = record.weights.transpose(1, 2)[:, :, :, None]  # (1, Q, heads, 1, HW)
sampled = sample(record.value.transpose(1, 2), [(8, 8)], everywhere, weights)
attended = (record.weights @ record.value).transpose(1, 2).flatten(2)  # (1, Q, d)
print("64 samples with dense weights are dense attention:", torch.allclose(sampled, attended, atol=1e-5))

# %% [markdown]
# So deformable attention is DETR's attention with nearly all weights struck out. What is left is chosen by the query,
# not by comparing.
#
# ## 8. Yours against the package's
#
# The whole module for one image and one level, in ten lines. The weights come from layer 1 of the trained detector.

# %%
def deformable(layers, query, reference, memory, shape):
    """query (Q, d), reference (Q, 2), memory (HW, d) -> (Q, d)."""
    (h, w), heads, points = shape, layers.heads, layers.points
    values = layers.value(memory).T.view(heads, -1, h, w)  # (heads, c, h, w)
    offsets = layers.offsets(query).view(-1, heads, points, 2)  # (Q, heads, points, 2), in cells
    places = reference[:, None, None] + offsets / torch.tensor([w, h])  # 0 to 1
    weights = layers.scores(query).view(-1, heads, points).softmax(dim=-1)  # (Q, heads, points)
    places = places.transpose(0, 1) * 2 - 1  # (heads, Q, points, 2), -1 to 1
    found = F.grid_sample(values, places, align_corners=False)  # (heads, c, Q, points)
    collected = (found * weights.transpose(0, 1)[:, None]).sum(dim=-1)  # (heads, c, Q)
    return layers.output(collected.flatten(0, 1).T)  # (Q, d)

# %%
with torch.no_grad():
    layers, memory = trained.decoder.layers[0].cross_attention, trained.encoder(tokens, grid)
    queries, references = torch.randn(1, 25, 128), torch.rand(1, 25, 2)
    mine = deformable(layers, queries[0], references[0], memory[0], (8, 8))
    theirs = layers(queries, references, memory, grid)
print("yours and the package's agree:", torch.allclose(mine, theirs[0], atol=1e-5))

# %% [markdown]
# ## 9. The price
#
# Each token reads a fixed number of places: 4 per head and level. Twice the side of a map means four times the tokens.

# %%
grown = json.loads((DATA / "runs/attention_growth.json").read_text())
print("recorded with:", grown["origin"]["command"].split(" --to")[0])
lines = {name: [(row["tokens"], row["seconds"]) for row in grown["rows"]
                if (row["place"], row["kind"]) == ("encoder", name)] for name in ("dense", "deformable")}
show(deformable_plots.growth({name: tuple(zip(*line)) for name, line in lines.items()}, title="An encoder"),
     alt="Seconds against the map's size, both logarithmic. Dense attention starts lower and climbs steeply "
         "from 0.007 to 8.4 seconds. Deformable attention is below it from 32 by 32 cells on and climbs half "
         "as steeply, to 0.38 seconds.")
times = {name: dict(line)[16384] / dict(line)[4096] for name, line in lines.items()}
print("from 64 x 64 to 128 x 128:", {name: f"{value:.1f} times" for name, value in times.items()})
reveal("11.price", "a" if times["deformable"] < 6 else "b",
       "Four times the tokens, and each reads as much as before.")
n = counts["COCO, four scales"]
print(f"on four scales: {n * n:,} weights dense; {n * 4 * 4:,} with 4 levels x 4 points")

# %% [markdown]
# On the 16 x 16 map dense attention is quicker: reading at scattered places has its own price.
#
# ## 10. All scales
#
# So finer maps become affordable, and the paper takes four. A reference point is a fraction of the image, so it names a
# place on **every** map. Offsets are in cells of each map: on a coarse map they reach further. One softmax runs over the
# places of all levels together, so levels compete. By hand, with a 4 x 4 and a 2 x 2 map. (On the coarse one the place
# is the right border. Half of what it reads lies outside and counts as 0; padding is treated the same way.)
#
# The cell after that shows the real maps: three from the backbone, and one more from a convolution with stride 2. Each
# level has a learned vector, added to the addresses of its tokens.

# %%
fine, coarse = torch.arange(16.0).view(4, 4), torch.tensor([[100.0, 200], [300, 400]])
reference, offset = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])  # one cell to the right
scores = torch.tensor([0.0, 1.0])  # one place per level; both levels in one softmax
weights, total = scores.softmax(dim=0), 0.0
for level, weight in zip((fine, coarse), weights):
    h, w = level.shape
    x, y = (reference * torch.tensor([w, h]) + offset).tolist()
    total += weight * read(level, x, y)
    print(f"on {h} x {w}: place ({x}, {y}) = {x / w:.2f} of the way across, reads {read(level, x, y):.1f}")

flat = torch.cat([fine.flatten(), coarse.flatten()]).view(1, 20, 1, 1)  # tokens of one level after the other
places = torch.stack([reference + offset / size for size in (4, 2)])  # (levels, 2)
package = sample(flat, [(4, 4), (2, 2)], places.view(1, 1, 1, 2, 1, 2), weights.view(1, 1, 1, 2, 1))
print(f"sum {total:.3f}   package {package.item():.3f}")

# %%
from dataclasses import replace

four_levels = dm.build("deformable", model=replace(recipe.model, levels=4)).eval()
with torch.no_grad(), dm.AttentionTrace(four_levels) as trace:
    four_levels(batch.images[:1])
print("maps:", trace[""].shapes, "  tokens:", sum(h * w for h, w in trace[""].shapes))
record = trace["decoder.layers.0.cross_attention"]
print("places per query:", tuple(record.locations.shape[2:5]), "(heads, levels, points)")

# %% [markdown]
# ## 11. Refinement: the next layer starts from this layer's box
#
# In the plain form every decoder layer starts from the same point, and a box's centre is an offset from it. With
# **refinement** a layer's box becomes the reference of the next, and every layer has output heads of its own. The
# correction is added *before* the sigmoid, so every number stays between 0 and 1.
#
# The box is handed on **without gradient**: `detach`. A layer answers for its own correction, not for what later layers
# make of it. The second part of the cell shows who is blamed for layer 3's error.

# %%
from detr_mini.boxes import inverse_sigmoid

reference = torch.tensor([0.30, 0.50, 0.10, 0.20])  # cxcywh: the box of layer 1
delta = torch.tensor([0.40, 0.00, 0.80, 0.20])  # what layer 2's head says
box = (inverse_sigmoid(reference) + delta).sigmoid()
print("layer 2's box:", [round(v, 3) for v in box.tolist()])

def blame(detached):
    """The gradient that layer 3's error in x sends to the corrections of layers 2 and 3."""
    second, third = (torch.tensor(0.4, requires_grad=True) for _ in range(2))
    x2 = (inverse_sigmoid(torch.tensor(0.30)) + second).sigmoid()
    x3 = (inverse_sigmoid(x2.detach() if detached else x2) + third).sigmoid()
    gradients = torch.autograd.grad((x3 - 0.6).abs(), (second, third), allow_unused=True)
    return ["none" if g is None else round(g.item(), 3) for g in gradients]

print("to layers 2, 3, detached:    ", blame(True))
print("to layers 2, 3, not detached:", blame(False))

# %% [markdown]
# With a box as reference, offsets no longer count cells. They count **half sides of the box, divided by the number of
# points**. So attention grows and shrinks with the object, and the compass reaches just to its border. Our recipe for
# scenes uses refinement. Query 15, put on the balloon by hand (colours: heads; dashed: the box before; orange: this
# layer's):

# %%
from detr_mini.course.deformable_playground import DeformablePlayground, Dragged, placed, read as read_in

put = Dragged(scene=0, query=15, x=0.42, y=0.62)
show(deformable_plots.by_layer(put),
     alt="One scene three times. In layer 1 dots of eight colours lie around a cross on a balloon, some far "
         "away. In layers 2 and 3 the dots lie in and around the dashed box of the layer before, which "
         "already frames the balloon.")
far = [(read_in(replace(put, layer=n)).locations - torch.tensor([put.x, put.y])).abs().max() for n in (1, 2, 3)]
assert far[0] > 0.5 > 0.3 > max(far[1:])  # from the cross, in parts of the image
dashed, balloon = read_in(replace(put, layer=2)).reference, dm.boxes.cxcywh_to_xyxy(batch.targets[0]["boxes"][2])
assert dm.boxes.iou(dashed, balloon) > 0.5
look = recorder.look(trained, step=1500)
now = looking.measure(look, batch.targets)
print("IoU of matched boxes after layers 1, 2, 3:", [round(v, 2) for v in now["iou"]])

# %% [markdown]
# On our scenes the first layer has done most of it. On COCO the authors report 44.5 AP without refinement and 46.2 with
# it.
#
# ## 12. Two stages: the image proposes
#
# So far a query's first place is learned, and the same in every image. In the **two-stage** form the encoder's tokens
# propose boxes, and the best of them become the first references. Six tokens, two queries:

# %%
centres = torch.tensor([[x, y] for y in (0.25, 0.75) for x in (1 / 6, 3 / 6, 5 / 6)])  # (6, 2)
own_box = torch.cat([centres, torch.full((6, 2), 0.05)], dim=1)  # each token's own small box, to start from
score, correction = torch.tensor([-3.0, 1.2, -2.0, 0.3, -4.0, -1.0]), torch.zeros(6, 4)  # what its heads say
correction[1] = torch.tensor([0.2, 0.0, 1.5, 1.0])

proposals = (inverse_sigmoid(own_box) + correction).sigmoid()  # (6, 4)
chosen = score.topk(2).indices
print("chosen tokens:", chosen.tolist())
for token in chosen:
    print("a query starts from", [round(v, 2) for v in proposals[token].tolist()])

# %% [markdown]
# Content and position of the query are then made from that box, by its sine code. Proposals have a loss of their own,
# in which all classes count as one: *something*. In the package: `zoo.recipe("deformable", "coco-two-stage")`.
#
# ## 13. Drag it
#
# A query of Deformable DETR has a place, and you can take it by the hand. The shipped detector answers at every move.
# A dot's size is its weight. Find out:
#
# 1. Drag the cross from the mushroom to the cup and to the balloon. What does the query say?
# 2. Look at head after head in layer 1. Which part of a thing does each of them read?
# 3. Choose `untrained`, then `untrained, four levels`. There is the compass. What does the level change?

# %% tags=["nbval-ignore-output"]
predict("11.drag", "Take one query and put its reference point onto an object of each scene. It learned in "
        "one region of the image. How well does its final box fit?", "hardly: its own place is far away",
        "about half as well as the right query", "nearly as well as the right query")

playground = DeformablePlayground()
assert "it says: mushroom" in playground.describe(playground.state)  # it opens on one
playground

# %%
wanted, labels = (torch.stack([target[key][0] for target in batch.targets]) for key in ("boxes", "labels"))
with torch.no_grad():
    tokens, grid = trained.tokenize(batch.images, batch.mask)
    memory = trained.encoder(tokens, grid)  # (200, 64, d)

def fit_when_put(query):
    """Put one query onto the first object of each scene: IoU of its box (200,), and is its class right?"""
    with torch.no_grad(), placed(trained.decoder, query, wanted[:, :2]):
        output = trained.decoder(memory, grid)
    box, truth = (dm.boxes.cxcywh_to_xyxy(b) for b in (output.boxes[-1, :, query], wanted))
    return dm.boxes.iou(box, truth), output.logits[-1, :, query].argmax(-1) == labels

# %%
found = [fit_when_put(query) for query in (0, 8, 12, 24)]
fit, right = (torch.cat(part).float().mean().item() for part in zip(*found))
print(f"four queries, each put onto an object of 200 scenes: IoU {fit:.2f}, right class {right:.0%}")
print(f"the queries that were matched with them: IoU {now['iou'][-1]:.2f}")
reveal("11.drag", "c" if fit > 0.65 else "b" if fit > 0.4 else "a",
       "Put it anywhere, and it becomes that place's query.")

# %% [markdown]
# DETR's query has no such handle: its 128 numbers do not hold its place, and each query has to learn for itself where it
# looks. Here the place is **two numbers**, and what is learned holds at every place.
#
# ## 14. What changed, and what did not
#
# The diff card, and the seams side by side, from the source.

# %%
SEAMS = "init_queries", "cross_attend", "encoder_attend", "decode_box", "update_reference"

diff = zoo.show_diff("deformable")  # show it whole by leaving out the next line
replace(diff, pieces=[piece for piece in diff.pieces if piece.title.split(".")[-1] in SEAMS])

# %% [markdown]
# Not changed (on scenes): matching, losses, the queries' self-attention, feed-forward, the decoder's loop, the backbone.
#
# ## 15. Beside DETR
#
# Two explorers on one image, both at step 1,500, both at the cup. First DETR, then Deformable DETR. Click on a
# detection for the decoder's maps, anywhere else for the encoder's. Compare: where does a place of the background look?

# %% tags=["nbval-ignore-output"]
from IPython.display import display

from detr_mini.course.attention_explorer import AttentionExplorer

inside = []  # per cent of the attention within the cup's box
for model in (load_weights(DATA / "weights/detr_1500.safetensors").eval(), trained):
    explorer = AttentionExplorer(model, held_out[0][0], about="cup")  # at the surest query that says so
    display(explorer)
    inside.append(explorer.explored.layers["decoder 3"].inside[0, explorer.explored.names.index("cup")])
assert inside[1] > inside[0] + 15

# %% [markdown]
# ## 16. Train it, and watch
#
# 300 steps. DETR's recorded band lies beside it: at this time DETR has not begun.

# %% tags=["nbval-ignore-output"]
from detr_mini.course.live import train_live

live = train_live("deformable", steps=300, every=50)
assert live.curve[-1]["ap50"] > 0.6

# %% [markdown]
# Now the same image, the same boat and the same step, 300: the maps of the query that is matched with it, last layer,
# mean of the heads. Below, the instruments of notebook 10. *Mass* is the part of the attention inside the object's box.
# *Elsewhere* is the control: the same query's map of another image, inside the same box.

# %% tags=["nbval-ignore-output"]
looked, maps, lines = {0: recorder.look(untrained, 0), 300: recorder.look(live.model, 300)}, {}, {}
for step, own in looked.items():
    row, line = recording.at(step), next(line for line in detr if line["step"] == step)
    for name, owners, attention in (("DETR", recording.owners[row], recording.attention[row]),
                                    ("Deformable", own.owners, own.attention)):
        query = int((owners[-1, at] == 0).nonzero()[0])  # who owns the image's first object
        maps[f"{name}, {step}"] = attention[-1, at, :, query].mean(0)
    lines |= {f"DETR, {step}": line, f"Deformable, {step}": looking.measure(own, batch.targets)}
show(looks(held_out[at][0], list(maps.values()), list(maps), boxes=[boat] * 4),
     alt="A scene with a framed boat, and four maps. DETR glows everywhere at step 0 and in broad patches "
         "at step 300. Deformable DETR glows in a few cells in the frame, already at step 0.")
places = {name: looking.entropy(weights).exp() for name, weights in maps.items()}  # over how many of 64 cells
assert all((number < 30) if name.startswith("Deformable") else (number > 50) for name, number in places.items())

# %% tags=["nbval-ignore-output"]
for name, line in (lines | {"DETR, 2,500": detr[-1], "Deformable, 1,500": now}).items():
    print(f"{name:18}", *(f"  {measure} {line[measure][-1]:.2f}" for measure in ("iou", "mass", "elsewhere")))
assert lines["Deformable, 300"]["mass"][-1] > lines["DETR, 300"]["mass"][-1] + 0.3

# %% [markdown]
# At step 0 most of Deformable's mass is inside already. That is a gift of construction: layer 3 reads
# within a small box around the query's place, and the matching chose a query that happened to stand there. *Elsewhere*
# says so: the same mass without this image. What training adds is the box, and a gap between the two columns.
#
# ## 17. The paper's claims, and ours
#
# Our numbers are recorded: same scenes, loss, learning rate and backbone, three seeds.

# %%
from statistics import median

from detr_mini.course.race_table import at_step, reached, read_runs
from detr_mini.published import FORMS

runs = {name: [rows for _, rows in group] for name, group in read_runs(DATA / "runs/scenes").items()}
to_half = {name: median(reached(rows, 0.5) for rows in group) for name, group in runs.items()}
print("steps to AP50 0.5:", {name: round(to_half[name]) for name in sorted(to_half, key=to_half.get)})
for name, step in (("detr", 1500), ("detr", 2500), ("deformable", 1500)):
    last = [at_step(rows, step) for rows in runs[name]]
    ap, small, mid = (median(row[key] for row in last) for key in ("ap", "ap_small", "ap_medium"))
    print(f"{name:10} at step {step:,}: AP {ap:.2f}, small {small:.2f}, medium {mid:.2f}")
for name in ("detr", "deformable"):
    form = FORMS[name]["coco"]
    print(f"{name:10} published, COCO: AP {form.ap} after {form.epochs} epochs")

# %%
forms = {"refined": runs["deformable"]}  # the race's three seeds
for name in ("without_refinement", "two_stage"):
    forms[name] = [rows for _, rows in read_runs(DATA / f"runs/why_order/deformable_{name}")["deformable"]]
early = {name: ", ".join(f"{median(at_step(rows, step)['ap50'] for rows in group):.2f}" for step in (125, 375, 500))
         for name, group in forms.items()}
for claim, ours in {
    "10 times fewer epochs": f"{to_half['detr'] / to_half['deformable']:.1f} times fewer steps to AP50 0.5",
    "better than DETR in the end": "far better at DETR's end, too; but DETR is still learning there",
    "especially on small objects": "not here: medium ones gain more. One level only; on COCO that has 20.6, DETR 20.5",
    "price linear in the map's size": f"{times['deformable']:.1f} times at 4 times the tokens; "
                                      f"dense {times['dense']:.1f} times",
    "refinement helps": "AP50 at steps 125, 375, 500: {refined}; without {without_refinement}".format(**early),
    "two stages help": "AP50 at steps 125, 375, 500: {two_stage}; with one {refined}".format(**early),
}.items():
    print(f"{claim:32} {ours}")

# %% [markdown]
# In between refinement makes hardly a difference; two stages lead only at first. Why, we have not looked into. Five
# more detectors write boxes relative to a place. All reach 0.5 well before DETR, so sampling is not the only way there.
# How much of the gain here is due to it, we have not measured.
#
# ## 18. Errata: paper, code, hearsay
#
# - **"Keys".** The paper's *key sampling points* are no keys: no W_k, no dot product.
# - **Retold.** [Hugging Face's card](https://huggingface.co/SenseTime/deformable-detr) tells DETR's recipe, 100 queries and
#   cross-entropy. The code has 300 and a focal loss.
# - **Whose figures?** The README's (44.5, 46.2, 46.9) are the released code's. It differs from the paper's, it says.
# - **A bug in the first release** divided the offset in x by the height and that in y by the width (issue 6).
# - **Padding.** Values of padded tokens are zeroed, but the softmax is not masked. Weight that falls there is lost.
# - **Two-stage scores.** Each token has a score for all 91 classes, and the code uses channel 0 only; for the proposals'
#   loss all targets are relabelled 0.
# - **A slower rate.** References and offsets learn at a tenth of the rate on COCO.
#
# ## 19. Exercises
#
# Fill in a cell, run it, then run the check below it. For a hint: `dm.hint("11.read")` in a new cell, with the
# exercise's name.
#
# ### Read between the cells (`11.read`)
#
# *Warm-up, 10 minutes.* Without `grid_sample`. The place is a fraction of the map, 0 to 1. Outside the map is 0.

# %% tags=["exercise"]
def read_at(cells, x, y):
    """cells (h, w); x, y: a place, 0 to 1 across the map -> its value between the cells."""
    return None  # your lines

# %% tags=["solution"]
def read_at(cells, x, y):
    """cells (h, w); x, y: a place, 0 to 1 across the map -> its value between the cells."""
    h, w = cells.shape
    across = (1 - (torch.arange(w) + 0.5 - x * w).abs()).clamp(min=0)  # (w,) the share of each column
    down = (1 - (torch.arange(h) + 0.5 - y * h).abs()).clamp(min=0)  # (h,)
    return down @ cells @ across

# %%
check("11.read", read_at)

# %% [markdown]
# ### A compass for any number of heads (`11.compass`)
#
# *Core, 12 minutes.* The first offsets, in cells. The first head looks right, the next ones go round clockwise, as seen in an
# image; point k, from 1 on, lies on a square k cells away.

# %% tags=["exercise"]
def first_offsets(heads, points):
    """-> (heads, points, 2), x and y."""
    return None  # your lines

# %% tags=["solution"]
def first_offsets(heads, points):
    """-> (heads, points, 2), x and y."""
    angle = torch.arange(heads) * 2 * torch.pi / heads
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)  # y grows downwards, so this goes clockwise
    direction = direction / direction.abs().amax(dim=-1, keepdim=True)
    return direction[:, None] * torch.arange(1, points + 1)[:, None]

# %%
check("11.compass", first_offsets)

# %% [markdown]
# ### Several levels, one query (`11.levels`)
#
# *Stretch, 25 minutes.* One query and one head on a pyramid. `values` has a map per level; the offsets are in cells of
# their level; one softmax over everything. `torch.nn.functional.grid_sample` is allowed.

# %% tags=["exercise"]
def on_all_levels(values, reference, offsets, scores):
    """values (c, h, w) per level; reference (2,); offsets (levels, points, 2); scores (levels, points)"""
    return None  # your lines

# %% tags=["solution"]
def on_all_levels(values, reference, offsets, scores):
    """values (c, h, w) per level; reference (2,); offsets (levels, points, 2); scores (levels, points)"""
    weights, total = scores.flatten().softmax(dim=0).view_as(scores), 0.0  # (levels, points)
    for level, offset, weight in zip(values, offsets, weights):
        size = torch.tensor([level.shape[2], level.shape[1]])  # w, h, in the order of x, y
        place = (reference + offset / size) * 2 - 1  # (points, 2), -1 to 1
        found = torch.nn.functional.grid_sample(level[None], place[None, None], align_corners=False)[0, :, 0]
        total = total + (found * weight).sum(dim=1)  # (c, points) -> (c,)
    return total

# %%
check("11.levels", on_all_levels)

# %% [markdown]
# ## 20. The same on COCO
#
# The paper's recipe: ResNet-50, four levels, 300 queries, 50 epochs. Its README puts the run at 325 GPU hours on V100
# cards, and DETR's 500 epochs at 2,000. The function is that of notebook 09, for this detector. Behind it is the smoke
# form, which runs everywhere: ten small drawings, three steps.

# %%
from detr_mini.data.coco import CocoFolder

def train_on(folder, recipe, to=None, imagenet=True, workers=0):
    """Train Deformable DETR on a folder in COCO's format; evaluate at the end."""
    train, val = (CocoFolder.open(folder, split, keep_category_ids=True) for split in ("train", "val"))
    model = dm.build("deformable", "coco", recipe.model)
    if imagenet:
        model.backbone.load_imagenet()
    precision = "bf16" if torch.cuda.is_available() else "no"
    return dm.fit(model, train, recipe, to, precision=precision, workers=workers, progress=False,
                  evaluate=lambda m: dm.evaluate(m, val, recipe.data, workers=workers))

# %% tags=["gpu"]
from detr_mini.training import count_steps

START = False  # True starts the paper's run: GPUs, COCO (python -m detr_mini.data.download) and days
paper, coco = zoo.recipe("deformable", "coco"), DATA / "coco"  # also "coco-single", "-refine", "-two-stage"

if START and torch.cuda.is_available() and (coco / "train2017").is_dir():
    run = train_on(coco, paper, to=DATA.parent / "runs/deformable-coco", workers=8)
else:
    print(f"would train on 118,287 images, {paper.train.epochs} epochs in batches of {paper.train.batch}: "
          f"{count_steps(paper.train, images=118_287):,} steps")
    print(f"learning rate {paper.train.lr:g}, a tenth of it for backbone, {' and '.join(paper.train.slow)}; "
          f"a tenth of all that after epoch {paper.train.drop * paper.train.epochs:.0f}")
    for preset, form in FORMS["deformable"].items():
        print(f"{preset:15} published AP {form.ap} after {form.epochs} epochs ({form.source})")

# %%
small = replace(paper.model, backbone="small", d_model=64, heads=4, encoder_layers=1, decoder_layers=2,
                feed_forward=64)
sizes = replace(paper.data, train_sizes=(64,), max_size=107, eval_size=64, crop_resize=())
tiny = replace(paper, model=small, data=sizes, train=replace(paper.train, batch=2, epochs=None, steps=3))

smoke = train_on(DATA / "tiny_coco", tiny, imagenet=False)
print("steps:", len(smoke.history), " losses are finite:", all(line["loss"] < 1e3 for line in smoke.history))
print("evaluated:", 0 <= smoke.history[-1]["ap"] <= 1)

# %% [markdown]
# ## 21. Limits
#
# - **One level, 64 tokens.** What the paper is proudest of, four scales at a bearable price, our trained toy does not
#   have. Only the growth of the price was measured.
# - **The gradient is short-sighted.** A sample feels its four cells. If nothing near it helps, it does not learn that
#   something far away would.
# - **The image cannot call.** Without keys, no bright spot can draw attention to itself. The encoder must spread the news
#   first.
# - **On small maps it is no cheaper.**
#
# ## Recap
#
# - A query says where to look: a reference point, a few offsets, a weight for each. No keys, no comparisons.
# - Reading between cells has a slope, so places can learn. They start as a compass.
# - With samples on all cells and dense weights it *is* DETR's attention.
# - Its price grows with the tokens, not with their square, so several scales become affordable.
# - Refinement hands each layer the box of the last one, without gradient. Two stages let the image choose first places.
# - A place that is two numbers can be dragged, and what was learned holds everywhere.

# %%
quiz("11")

# %% [markdown]
# **Next:** 12, *SMCA-DETR*: keep the comparisons, and add a Gaussian's logarithm to the scores.
#
# **References**
#
# - X. Zhu et al., *Deformable DETR: Deformable Transformers for End-to-End Object Detection*, 2021. Section 4, equations
#   2 and 3; appendix A.4 for refinement and two stages. Code, README and changelog: fundamentalvision/Deformable-DETR.
# - J. Dai et al., *Deformable Convolutional Networks*, 2017: offsets read off the features.
# - N. Carion et al., *End-to-End Object Detection with Transformers*, 2020.

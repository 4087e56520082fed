# %% [markdown]
# # 10 · Why DETR is slow
#
# **Why did DETR need 500 epochs?**
#
# *About 85 minutes with the exercises; the cells run in under a minute, without a GPU.*
# *You need notebooks 06 to 09: decoder, matching, loss, training.*
#
# After this notebook you can
#
# - say what uniform attention collects, and why it is a bad place to start from;
# - measure how wide a detector looks, how much of it falls on the object, and how often the matching changes its mind;
# - tell looking from habit, by a control;
# - explain to a friend what CNN detectors have for free and DETR has to learn.

# %%
import math

import torch

import detr_mini as dm
from detr_mini.course import looking, looking_plots, plots
from detr_mini.course.looking_plots import Panel
from detr_mini.course.notebook import check, predict, quiz, reveal, where_we_are
from detr_mini.course.training_plots import looks, show

dm.setup(seed=0)

# %% [markdown]
# ## Where we are

# %%
where_we_are("cross_attention")

# %% [markdown]
# Notebook 09 ended with three acts: one guess, a fan of guesses, and then, slowly, looking. What is so slow
# about the third act? Nothing new is built: we put instruments on a training and read them.
#
# ## 1. The problem
#
# Two trainings were recorded with `python -m detr_mini.course.why_slow`: DETR, and **SMCA**, a cousin from notebook 12.
# In SMCA each query guesses a centre; places far from it get lower scores, and boxes are written relative to it. How well
# do matched boxes fit their objects, on 200 held-out scenes? (Section 12 makes both recordings anew: then the
# curves are yours.)

# %%
from detr_mini.course.why_slow import read_measures, recorded

origin, detr = read_measures(recorded("detr.jsonl"))  # your own, once section 12 has made it
other, smca = read_measures(recorded("smca.jsonl"))
ours, theirs = origin["recipe"], other["recipe"]
print("recorded with:", origin["command"], "  seed:", origin["seed"])
print("same data, loss, backbone, rate:", ours["data"] == theirs["data"] and ours["loss"] == theirs["loss"]
      and all(ours[a][b] == theirs[a][b] for a, b in (("model", "backbone"), ("train", "lr"))))
print("looks at steps", [line["step"] for line in detr])

def history(lines, name, layer=-1):
    """(steps, values) of one measure in one decoder layer, by default the last."""
    found = [line for line in lines if name in line]
    return [line["step"] for line in found], [line[name][layer] for line in found]

# %%
def first_step(lines, name, level):
    """The first recorded step at which a measure reaches a level."""
    return next(step for step, value in zip(*history(lines, name)) if value >= level)

show(looking_plots.histories([Panel("How well matched boxes fit", "IoU of box and object",
                                    {"DETR": history(detr, "iou"), "SMCA": history(smca, "iou")})]),
     alt="Mean IoU of matched boxes against the step, logarithmic. Both rise to about 0.57, SMCA by step 50, "
         "DETR by step 200. Both rest there, SMCA until step 200, DETR until step 400, and climb on, SMCA to "
         "0.76 at step 800, DETR at 2,000.")
slow, fast = first_step(detr, "iou", 0.65), first_step(smca, "iou", 0.65)
print(f"IoU 0.65 is first seen at step {slow:,} for DETR, at step {fast:,} for SMCA: {slow / fast:.1f} times "
      "as late")
assert slow >= 2 * fast

# %% [markdown]
# Two changes to the queries, and good boxes come earlier. So data, loss and backbone alone do not make DETR slow. Three
# suspects remain, each accused by some of the papers:
#
# 1. **Where queries look.** Attention starts uniform and must find a few places among many (Deformable DETR, SMCA).
# 2. **Who owns what.** The matching changes its mind, so a query chases one object today, another tomorrow (DN-DETR).
# 3. **What is compared.** A query's content and position are mixed, and must fit the image's (Conditional DETR,
#    SAM-DETR).
#
# ## 2. The smallest example: uniform attention collects everything
#
# Four places, each with a value. The scores are all equal, as they nearly are before training.

# %%
values = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [0.0, 1.0]], requires_grad=True)  # (4 places, 2)
scores = torch.zeros(4, requires_grad=True)

weights = scores.softmax(0)  # (4,)
collected = weights @ values  # (2,)
print("weights  ", weights.tolist())
print("collected", collected.tolist(), "  mean of all values", values.mean(dim=0).tolist())

collected[0].backward()
print("gradient of each value:", values.grad[:, 0].tolist())
print("gradient of each score:", [round(g, 3) for g in scores.grad.tolist()])

# %% [markdown]
# The query receives the mean of the image, whatever it asked. And the answer it gives is blamed on **all** places
# alike: each value gets 1/4 of the gradient, each score 1/4 times (value − mean). Our scenes have 64 places, a COCO
# image some 850, so each gets less (Deformable DETR, section 3).
#
# Is our untrained DETR like that? We compare what each head collects with the mean of the values.

# %%
from detr_mini import zoo
from detr_mini.checkpoints import load_weights
from detr_mini.course.race import HELD_OUT_SEED
from detr_mini.course.recorder import Recorder
from detr_mini.data.scenes import CLASSES, Scenes
from detr_mini.files import DATA

recipe, held_out = zoo.recipe("detr", "scenes"), Scenes(200, seed=HELD_OUT_SEED)
recorder = Recorder(held_out, range(200), recipe.data, recipe.loss, steps=[])
batch = recorder.batch  # 200 images, prepared, with their targets
torch.manual_seed(0)
untrained, trained = dm.build("detr").eval(), load_weights(DATA / "weights/detr.safetensors").eval()
# (trained: another run of the same recipe than the recorded one)

# %%
for name, model in {"untrained": untrained, "trained": trained}.items():
    with torch.no_grad(), dm.AttentionTrace(model) as trace:
        model(batch.images[:16], batch.mask[:16])
    record = trace["decoder.layers.0.cross_attention"]  # weights (B, heads, Q, HW), value (B, heads, HW, d/h)
    collected, mean = record.weights @ record.value, record.value.mean(dim=2, keepdim=True)
    likeness = torch.cosine_similarity(collected, mean, dim=-1).mean()
    print(f"{name:9} cosine of what a query collects and the mean of all values: {likeness:.2f}")

# %% [markdown]
# Untrained, every query is handed the same average image. Twenty-five queries, one answer: that is act one.
#
# Which parts of it learn first? Notebook 01's clue was "small lessons". But the optimizer, Adam, makes up for short
# gradients. What it cannot mend: a step averages over images, and what they disagree about is lost. Take one image at a
# time: how much of its gradient survives the mean of 32?
# (Of random directions, 1/√32 = 0.18. We ask the last layer: box head, values, queries.)

# %% tags=["nbval-ignore-output"]
def gradients(model, names, images=32):
    """Of each weight, its gradient for one image at a time: name -> (images, numbers)."""
    criterion, weights = dm.SetCriterion(recipe.loss, 10, "focal"), dict(model.named_parameters())
    found = {name: [] for name in names}
    for one in (slice(i, i + 1) for i in range(images)):
        model.zero_grad()
        criterion.total(criterion(model(batch.images[one], batch.mask[one]), batch.targets[one])).backward()
        for name, kept in found.items():
            kept.append(weights[name].grad.flatten().clone())
    return {name: torch.stack(kept) for name, kept in found.items()}

parts = "box_head.layers.2", "layers.2.cross_attention.value", "layers.2.cross_attention.query"
for name, each in gradients(untrained, [f"decoder.{part}.weight" for part in parts]).items():
    length, left = each.norm(dim=1).mean(), each.mean(dim=0).norm()
    print(f"{name:45} length {length:4.1f}, {left / length:.1f} of that survives")
    assert (left / length > 0.6) == ("box_head" in name) and left / length > 1.4 / 32**0.5

# %% [markdown]
# On *what box to say* the images agree: it is the typical one. On *where to look* (the last line) they agree much
# less: the object is somewhere else each time. So boxes are learned first, blindly.
#
# ## 3. Instrument one: how wide?
#
# The **entropy** of a map, −Σ w log w, says how spread out it is. With the natural logarithm its unit is the *nat*, and
# its exponential can be read as a number of places.

# %%
def entropy_of(weights):
    """Entropy in nats, (h, w) -> one number. 0 log 0 counts as 0."""
    return -(weights * weights.clamp(min=1e-12).log()).sum()

one, four, all64 = torch.zeros(8, 8), torch.zeros(8, 8), torch.full((8, 8), 1 / 64)
one[3, 3], four[2:4, 5:7] = 1, 1 / 4
for name, weights in {"one place": one, "four places": four, "all 64": all64}.items():
    h = entropy_of(weights)
    agrees = torch.isclose(looking.entropy(weights), h, atol=1e-5).item()
    print(f"{name:12} entropy {h.abs():.3f} nats = {h.exp():4.1f} places   package agrees: {agrees}")

# %% [markdown]
# ## 4. Instrument two: how much on the object?
#
# Add up the attention inside the object's box. A cell that is half covered counts half. On a 4 x 4 map:

# %%
box = torch.tensor([0.5, 0.5, 0.5, 0.375])  # centre x, centre y, width, height
part = looking.coverage(box, (4, 4))  # (4, 4), how much of each cell the box covers
torch.manual_seed(3)
weights = torch.randn(4, 4).flatten().softmax(0).view(4, 4)

figure, (left, middle) = plots.canvas(2, width=6.0, height=3.0)
looking_plots.cells(part, box, title="covered", axes=left)
looking_plots.cells(weights, box, title="attention", axes=middle)
show(figure, alt="Two 4 by 4 grids with the same box over the middle. Left: the covered part of each cell, "
                 "0.75 in the four middle cells, 0 elsewhere. Right: attention weights, largest 0.22.")
inside = (weights * part).sum()
print(f"inside: {inside:.3f}   package agrees: "
      f"{torch.isclose(inside, looking.mass_inside(weights, box)).item()}")
flat = torch.full((4, 4), 1 / 16)
print(f"uniform attention has {(flat * part).sum():.4f} inside; the box's area is {box[2] * box[3]:.4f}")

# %% [markdown]
# That last line is an identity. **Uniform attention's mass inside a box is the box's share of the image.** So the share
# is the zero of this scale: only what exceeds it says something about the object.
#
# ## 5. Suspect one: where queries look
#
# Now read both instruments over the recorded training. All figures are means over the matched queries of 200
# held-out scenes, in the last decoder layer.

# %%
predict("10.mass", "By step 100, DETR's matched boxes have come from IoU 0.16 to about 0.5. How "
                   "much of the attention is inside the object's box, which covers 10% of the "
                   "image?", "about half", "about 10%, as if uniform", "under 5%")

# %%
uniform = detr[0]["uniform"][-1]
show(looking_plots.histories([
    Panel("How wide", "entropy of a head, in nats",
          {"DETR": history(detr, "entropy"), "SMCA": history(smca, "entropy")},
          (math.log(64), "uniform")),
    Panel("How much on the object", "mass inside the box",
          {"DETR": history(detr, "mass"), "SMCA": history(smca, "mass")},
          (uniform, "uniform"))]),
     alt="Two panels against the step. Entropy: DETR starts at 4.07, just below the uniform 4.16, and falls to 2.3; "
         "SMCA starts at 3.6. Mass inside the box: DETR stays on the uniform line at 0.10 until about step 400, "
         "then rises to 0.36; SMCA starts at 0.19 and rises early.")

# %%
mass = dict(zip(*history(detr, "mass")))
places = {step: math.exp(value) for step, value in zip(*history(detr, "entropy"))}
for step in (0, 100, 400, 1000, 2500):
    print(f"step {step:5,}: a head looks at {places[step]:4.1f} of 64 places; inside {mass[step]:.3f}, "
          f"uniform {uniform:.3f}")
reveal("10.mass", "b" if abs(mass[100] - uniform) < 0.03 else "a",
       "The boxes improved without anyone looking.")

# %%
from scipy.optimize import linear_sum_assignment

row, sides = torch.linspace(0.2, 0.8, 5), torch.cat([t["boxes"] for t in batch.targets])[:, 2:].mean(0)
fan = torch.cat([torch.cartesian_prod(row, row), sides.expand(25, 2)], dim=1)  # (25, 4), typical boxes on a grid
fits = []
for target in batch.targets:
    corners = dm.boxes.cxcywh_to_xyxy(target["boxes"])  # (M, 4)
    overlap = dm.boxes.pairwise_iou(dm.boxes.cxcywh_to_xyxy(fan), corners)  # (25, M)
    fits.append(overlap[linear_sum_assignment(-overlap)])
print(f"25 fixed boxes, the same in every image, matched: IoU {torch.cat(fits).mean():.2f}")
print(f"DETR's boxes at step 400: IoU {dict(zip(*history(detr, 'iou')))[400]:.2f}")

# %% [markdown]
# - **Until step 400, mass stays near chance.** Boxes got far better meanwhile: act two's fan, matched, explains where both
#   curves of section 1 rest. Acts one and two need no looking.
# - **Entropy falls earlier than mass rises.** Attention becomes choosy first, and finds the objects later. So low
#   entropy alone proves nothing.
# - **SMCA starts ahead** (it was recorded for 1,000 steps). Its attention is narrower than the image from step 0. That is
#   a gift, not learned. And its mass rises from step 50 on, where DETR's needs 400 steps to begin.
#
# ### A control: looking, or habit?
#
# At the end a third of the attention is inside. Did the query find *this* object? Or does it always look
# there, and was it matched because the object happened to be there? Take the map that the **same query** had in
# **another image**, and measure it inside *this* box.

# %%
predict("10.habit", "DETR after 2,500 steps has about a third of its attention inside the "
                    "box. How much of the same query's map from another image is inside that "
                    "box?", "about 10%, as if uniform", "about 20%, half way", "well over 20%: most of it")

# %%
elsewhere = dict(zip(*history(detr, "elsewhere")))
show(looking_plots.histories([
    Panel(name, "mass inside the box",
          {"this image": history(lines, "mass"), "another image": history(lines, "elsewhere")},
          (uniform, "uniform"))
    for name, lines in {"DETR": detr, "SMCA": smca}.items()], top=0.55),
     alt="For DETR and SMCA: mass inside the box from this image's map and from the same query's map in "
         "another image. In both panels the two curves rise together for hundreds of steps; only at the end "
         "this image's is a little higher.")
print(f"DETR at the end: this image {mass[2500]:.2f}, another image {elsewhere[2500]:.2f}, uniform "
      f"{uniform:.2f}")
share_of_habit = (elsewhere[2500] - uniform) / (mass[2500] - uniform)
print(f"so {share_of_habit:.0%} of what exceeds uniform is there without this image")
reveal("10.habit", "c" if elsewhere[2500] > 0.22 else "b" if elsewhere[2500] > 0.15 else "a",
       "A query has a home and keeps to it. What follows the image is the difference.")

# %% [markdown]
# Each query has a **home region**, the same in every image, and most of the rise is this region becoming smaller.
# SMCA's, too. Here is query 5 in two images. Framed is the box that it says at that step; each map has its own scale.

# %%
from detr_mini.course.recorder import load_recording

recording, query, steps = load_recording(recorded("detr.safetensors")), 5, [0, 100, 400, 1000, 2500]
rows = [recording.at(step) for step in steps]
for number in (0, 1):
    maps = recording.attention[rows, -1, number, 0, query]  # (5, 8, 8), the mean of the heads
    corners = dm.boxes.cxcywh_to_xyxy(recording.boxes[rows, -1, number, query].float()) * 128  # (5, 4)
    show(looks(recording.images[number], maps, [f"step {step:,}" for step in steps], boxes=corners),
         alt="A scene with five boxes of one query, and its map at five steps. At step 0 the map covers the whole "
             f"image. It shrinks to a few cells {('left of and', 'just')[number]} below the middle.")
    assert maps[0].max() < 2 / 64 and maps[-1].max() > 2 * maps[0].max()  # even at first, choosy at last

# %% [markdown]
# At step 100 the box has moved, and the map is still everywhere; from 400 on a home shows. What answers to the image is
# the gap between the two curves above. When does it open?

# %%
def gaps(lines):
    """Mass in this image less mass in another one, per step."""
    return {line["step"]: line["mass"][-1] - line["elsewhere"][-1] for line in lines}

gap, gap_smca = gaps(detr), gaps(smca)
for step in (100, 400, 600, 1000):
    print(f"step {step:5,}: gap of DETR {gap[step]:+.3f}, of SMCA {gap_smca[step]:+.3f}")
print(f"step 2,500: gap of DETR {gap[2500]:+.3f}")
print("DETR has no gap to speak of until step 400:",
      max(abs(gap[step]) for step in gap if step <= 400) < 0.02)
print("and a clear one at the end:                ", gap[2500] > 0.03)

# %%
from detr_mini.course import more_places

origin, wide = read_measures(more_places.recorded("detr-192.jsonl"))
print("recorded with:", origin["command"])
twice = {}
for name, lines in {"8 x 8": detr, "12 x 12": wide}.items():
    share = lines[0]["uniform"][-1]
    twice[name] = next(line["step"] for line in lines if line["mass"][-1] >= 2 * share)
    print(f"{name:7} places: a thing covers {share:.0%}. Twice that of the attention is on it at step "
          f"{twice[name]}; IoU 0.65 at step {first_step(lines, 'iou', 0.65):,}")
assert twice["12 x 12"] <= twice["8 x 8"]

# %% [markdown]
# So one part of SMCA's gift has a name: its queries have **homes** by step 100; DETR's show from 400 on. Following the
# image comes later in both, and earlier in SMCA.
#
# The last cell asks something else: do more places make the search longer? DETR learned the same things, of as many pixels,
# on pictures with 144 places instead of 64. (One seed.) Twice its share of attention came
# one look earlier, good boxes one later. So the number of places alone is not what makes it slow.
#
# ### Must attention be inside at all?
#
# Cut it off and see. The decoder collects from the image in one named method, `cross_attend`. We give the trained DETR
# another one, in which matched queries see only cells that touch their object's box, or only the other cells.

# %%
predict("10.cut", "The trained DETR may look only at the cells that its object's true box touches. Its boxes "
                  "become ...",
        "better: nothing distracts it", "the same", "worse")

# %%
look = recorder.look(trained, step=2500)
image, query = (look.owners[-1] >= 0).nonzero(as_tuple=True)  # (N,) matched queries
thing = look.owners[-1][image, query]
wanted = torch.stack([batch.targets[i]["boxes"][t] for i, t in zip(image.tolist(), thing.tolist())])  # (N, 4)
labels = torch.stack([batch.targets[i]["labels"][t] for i, t in zip(image.tolist(), thing.tolist())])  # (N,)
touched = looking.coverage(wanted, (8, 8)).flatten(1) > 0  # (N, 64)

# %%
def boxes_when_seeing(seen):
    """IoU and score of the matched queries when each sees only these cells, (N, 64) bool."""
    hidden = torch.zeros(200, 25, 64).index_put((image, query), (~seen) * -1e9)[:, None]  # (B, 1, Q, HW)
    def cross_attend(layer, queries, memory, grid):
        return layer.cross_attention(queries.content, memory, memory, queries.position, grid.position, hidden)
    with torch.no_grad(), looking.attending(trained.decoder, cross_attend):
        output = trained(batch.images, batch.mask)
    boxes, scores = output.boxes[-1][image, query], output.logits[-1][image, query].sigmoid()
    fits = dm.boxes.iou(dm.boxes.cxcywh_to_xyxy(boxes), dm.boxes.cxcywh_to_xyxy(wanted))  # (N,)
    return fits.mean().item(), scores.gather(1, labels[:, None]).mean().item()

# %%
results = {"all cells": boxes_when_seeing(torch.ones_like(touched)),
           "only cells of the object": boxes_when_seeing(touched),
           "only the other cells": boxes_when_seeing(~touched)}
for name, (fit, score) in results.items():
    print(f"{name:25} IoU {fit:.2f}   score of the right class {score:.2f}")
worse = results["only cells of the object"][0] < results["all cells"][0] - 0.05
reveal("10.cut", "c" if worse else "b", "The class comes from inside. An edge has two sides, and boxes are "
                                        "made of edges.")

# %% [markdown]
# The score needs the inside: without it, the class is lost. The box needs both. So full mass inside is **not** the
# goal, and DETR's heads look past the border for a reason. (With care: the model never saw a cut image in training.)
#
# ## 6. Suspect two: who owns what
#
# An object **flips** when its query is another one than before. By hand:

# %%
before = torch.tensor([0, 1, -1, 2])  # query 0 owns object 0, 1 object 1, 2 none, 3 object 2
after = torch.tensor([1, 0, -1, 2])  # objects 0 and 1 have changed hands

owning = after >= 0
flips = (owning & (after != before)).sum() / owning.sum()
print(f"{flips:.3f} of the objects flipped; package agrees:",
      torch.isclose(looking.flipped(before[None], after[None]), flips).item())

# %% [markdown]
# The recorded run compares each look with the matching **25 steps earlier**. A fixed distance is fair: looks further
# apart would show more flips anyway. If matching were drawn by lot, 24 of 25 objects would flip.

# %%
show(looking_plots.histories([Panel("Objects that change hands within 25 steps", "part of all objects",
                                    {"DETR": history(detr, "flips"), "SMCA": history(smca, "flips")},
                                    (0.96, "by lot"))]),
     alt="Part of the objects that change their query within 25 steps, against the step. DETR stays between "
         "0.5 and 0.9 until about step 800 and then falls to 0.25. SMCA starts lower and wavers between 0.4 "
         "and 0.6.")
flip, flip_smca = (dict(zip(*history(lines, "flips"))) for lines in (detr, smca))
fit, fit_smca = (dict(zip(*history(lines, "iou"))) for lines in (detr, smca))
for step in (50, 100, 200, 400, 600):
    print(f"step {step:3}: DETR flips {flip[step]:.2f}, IoU {fit[step]:.2f}    "
          f"SMCA flips {flip_smca[step]:.2f}, IoU {fit_smca[step]:.2f}")
print(f"DETR needs until step 2,500 for flips of {flip[2500]:.2f}")
assert fit_smca[600] > 0.7 and flip_smca[600] > 0.35

# %% [markdown]
# The matching is restless; DETR's calms down only after step 600. But is it the brake? SMCA mostly flips less,
# so this picture does not acquit it. Follow SMCA alone, though: from step 200 to 600 about half of its objects change
# hands within 25 steps, and all the while its IoU climbs, from 0.58 to 0.73. So calm matching is not *needed*.
#
# (On COCO, Sun and colleagues also blame cross-attention more. DN-DETR shows
# that steadying the matching helps, too.)
#
# ## 7. Suspect three: what is compared
#
# A score is a dot product of two sums. So it has four terms:
#
# (content + position) · (memory + place) = content · memory + content · place + position · memory + position · place
#
# (*Position*: the query's address of notebook 06. *Place*: the address of a place.)
#
# `listen` hears what cross-attention was given; `score_terms` splits every score. Do the four add up to the attention?

# %%
from detr_mini.course.looking import NAMES, TERMS

def terms_of(model, images):
    """Per layer: the four terms, each (B, heads, Q, HW), and the recorded weights."""
    with torch.no_grad(), looking.listen(model.decoder) as heard, dm.AttentionTrace(model) as trace:
        model(batch.images[:images], batch.mask[:images])
        return [(looking.score_terms(layer.cross_attention, asked),
                 trace[f"decoder.layers.{layer.index}.cross_attention"].weights)
                for layer, asked in zip(model.decoder.layers, heard)]

for number, (terms, weights) in enumerate(terms_of(trained, 50), start=1):
    agree = torch.allclose(sum(terms.values()).softmax(-1), weights, atol=1e-4)
    print(f"layer {number}: softmax of the sum is the attention: {agree}")

# %% [markdown]
# A term matters as far as it tells places apart: its standard deviation over the 64 places. The query's part is named
# first.

# %%
names, rows = [name.replace("· ", "·\n") for name in NAMES.values()], [f"layer {n}" for n in (1, 2, 3)]
figure, axes = plots.canvas(2, height=2.7)
for place, (title, model) in zip(axes, {"untrained": untrained, "trained": trained}.items()):
    spreads = torch.tensor([[looking.spread(terms[name]).mean() for name in TERMS]
                            for terms, _ in terms_of(model, 50)])
    plots.matrix(spreads, rows, names, title=title, top=3.5, axes=place)
    place.tick_params(axis="x", labelsize=7.5)
show(figure, alt="Two tables of standard deviations, three layers by four terms. Untrained: at most 0.25. "
                 "Trained: position · memory is largest in layer 1 with 3.4, content · memory in layers 2 "
                 "and 3 with 2.5 and 2.9; the two terms with the place stay under 1.")
assert spreads[0].argmax() == 2 and spreads[1].argmax() == spreads[2].argmax() == 0
grown = {line["step"]: line["terms"] for line in detr if line["step"] in (0, 100, 400, 1000, 2500)}  # recorded
for layer, name in ((0, "position x content"), (1, "content x content")):
    spread = {step: round(terms[name][layer], 1) for step, terms in grown.items()}
    print(f"recorded, layer {layer + 1}, {NAMES[name]}:", spread)

# %% [markdown]
# The image's *addresses* matter least here, in the trained decoder. Both strong terms meet the image's **content**. Remove
# one term at a time and count.

# %%
small_set = Scenes(100, seed=HELD_OUT_SEED)

def ap_without(term):
    """AP50 on 100 scenes of the trained DETR, with one term left out of all scores."""
    def cross_attend(layer, queries, memory, grid):
        attention = layer.cross_attention
        asked = looking.Asked(queries.content, queries.position, memory, grid.position)
        terms = looking.score_terms(attention, asked)
        weights = sum(value for name, value in terms.items() if name != term).softmax(-1)  # (B, heads, Q, HW)
        return attention.output(attention.merge(weights @ attention.split(attention.value(memory))))
    with torch.no_grad(), looking.attending(trained.decoder, cross_attend):
        return dm.evaluate(trained, small_set, recipe.data, batch_size=50).ap50

ap = {term: ap_without(term) for term in (None, *TERMS)}
for term, value in ap.items():
    print(f"without {NAMES.get(term, 'nothing'):20} AP50 {value:.2f}")
assert ap["position x position"] > 0.9 * ap[None] and ap["position x content"] < 0.5 * ap[None]

# %% [markdown]
# Address against address can go, almost free of charge. But then, how does a query know *where* anything is? No address
# is ever added to what a token keeps. But the backbone's padded border may tell a part, and the encoder has
# used addresses to decide who looks where. A linear readout shows how much.

# %%
cell = (torch.arange(8) + 0.5) / 8
where = torch.cartesian_prod(cell, cell).flip(1).repeat(100, 1).double()  # (100 * 64, 2), each token's x, y

def readout(tokens):
    """How much of a place's x and y a linear map reads off its token: R2 on 100 fresh images."""
    inputs = torch.cat([tokens, torch.ones_like(tokens[..., :1])], dim=-1).double()  # (200, 64, d + 1)
    fitted = torch.linalg.lstsq(inputs[:100].flatten(0, 1), where).solution
    error = inputs[100:].flatten(0, 1) @ fitted - where
    return 1 - (error.square().mean() / (where - where.mean(0)).square().mean()).item()

with torch.no_grad():
    for name, model in {"untrained": untrained, "trained": trained}.items():
        tokens, grid = model.tokenize(batch.images, batch.mask)
        print(f"{name:9} before the encoder {readout(tokens):.2f}   memory "
              f"{readout(model.encoder(tokens, grid)):.2f}")

# %% [markdown]
# Content carries the position. This is Conditional DETR's complaint: content must say what a thing is *and* where its
# sides are. Its cure lets position speak for itself. SAM-DETR stresses the other half: query content and image content
# come from different layers, so at first their products mean nothing. Its cure makes queries out of image features.
#
# ## 8. What two-stage detectors have: a soft RoIAlign
#
# Two-stage detectors cut out a proposal (notebook 04): **RoIAlign** averages the feature map inside it (He et al.,
# Mask R-CNN). An average has weights. So RoIAlign is an attention map that nobody had to learn. Which scores would give
# it?

# %%
from torchvision.ops import roi_align

torch.manual_seed(0)
features = torch.randn(1, 5, 8, 8)  # (B, d, h, w)
box = torch.tensor([[3.0, 2.0, 6.0, 6.0]])  # corners in cells: columns 3 to 5, rows 2 to 5

cut_out = features[0, :, 2:6, 3:6].mean(dim=(1, 2))  # (5,) the plain average inside
scores = torch.full((8, 8), -math.inf)
scores[2:6, 3:6] = 0  # equal inside, hidden outside
attended = scores.flatten().softmax(0) @ features[0].flatten(1).T  # (5,)
print("attention with a box-shaped mask = the average inside:", torch.allclose(attended, cut_out, atol=1e-6))

# %% [markdown]
# That box had its edges on the borders of cells. For any other box RoIAlign reads between cells, and its weights say
# how much it takes from each. Their logarithms are the scores.

# %%
odd = torch.tensor([[0.41, 0.52, 0.33, 0.47]])  # cxcywh; no edge on a cell's border
weights = looking.roi_weights(odd, (8, 8))[0]  # (8, 8)
attended = weights.log().flatten().softmax(0) @ features[0].flatten(1).T
corners = dm.boxes.cxcywh_to_xyxy(odd) * 8
aligned = roi_align(features, [corners], 1, sampling_ratio=4, aligned=True).flatten()
print("attention with scores log(weights) = torchvision's RoIAlign:",
      torch.allclose(attended, aligned, atol=1e-5))

# %% [markdown]
# So cross-attention *can* be RoIAlign, exactly. It only has to find the scores. How near has ours come? The **overlap**
# of two maps is the sum of the smaller weights: 1 for the same map. RoIAlign's map is that of the true box.

# %%
boxes = dm.boxes.cxcywh_to_xyxy(wanted) * 128
chosen = [image.tolist().index(number) for number in (0, 7)]  # the first matched query of two scenes
for i in chosen:
    heads = look.attention[-1][image[i], :, query[i]]  # (heads, 8, 8)
    roi = looking.roi_weights(wanted[i: i + 1], (8, 8))[0]  # (8, 8)
    best = looking.overlap(heads, roi).argmax()
    show(looks(held_out[image[i]][0], [heads.mean(0), heads[best], roi],
               ["mean of 8 heads", f"head {int(best) + 1}", "RoIAlign"], boxes=[boxes[i]] * 3),
         alt="A scene with a framed thing, and three maps: the mean of all heads glows on and around the frame, one "
             "head glows inside, and RoIAlign's map fills the frame, less in cells covered in part.")
    inside = looking.mass_inside(heads, wanted[i])  # (heads,)
    assert inside[best] > inside.mean() + 0.1  # that head has more inside than the mean of all

# %%
roi = dict(zip(*history(detr, "roi")))
flat = detr[0]["roi_uniform"][-1]
for step in (0, 400, 1000, 2500):
    print(f"step {step:5,}: overlap of the heads' mean map with RoIAlign's {roi[step]:.2f} (uniform "
          f"attention {flat:.2f})")

maps = look.attention[-1][image, :, query]  # (N, heads, 8, 8)
each = looking.mass_inside(maps, wanted[:, None]).mean(0)  # (heads,)
print("mass inside (shipped weights), by head:", [round(value, 2) for value in each.tolist()])
print("one head stays inside:", bool(each.max() > 0.6), "  the others look elsewhere:", int((each < 0.45).sum()))

# %% [markdown]
# Head 7 stays inside, as RoIAlign does, on fewer cells. (Head 2 fits the second scene better.) The others look
# mostly elsewhere, often past the border, as notebook 09 drew; the cut of section 5 showed that boxes need it. Most of the
# way, in the mean of the heads, was done between steps 400 and 1,000.
#
# ## 9. Aligned by construction
#
# A one-stage CNN detector predicts for each cell from that cell's own features, and its anchor boxes sit around that
# very cell. What does a prediction read? Ask for its **gradient with respect to the image**: pixels that could change
# it have a large one. The two CNN heads are random, not trained on boxes.

# %%
images = batch.images[:16].clone().requires_grad_()  # (16, 3, 128, 128)
torch.manual_seed(0)
head = torch.nn.Linear(128, 4)  # a box from one feature vector, random weights
features = untrained.backbone(images)[0]  # (16, 128, 8, 8)

anchor = torch.tensor([5.5 / 8, 2.5 / 8, 3 / 8, 3 / 8])  # around cell (row 2, column 5), 48 pixels wide
proposal = torch.tensor([0.33, 0.6, 0.35, 0.4])  # what a first stage might have proposed

# %%
corners = (dm.boxes.cxcywh_to_xyxy(proposal) * 8).expand(16, 4)
pooled = roi_align(features, list(corners[:, None].contiguous()), 1, aligned=True).flatten(1)  # (16, 128)

said = {"one-stage": (head(features[:, :, 2, 5]).sum(1), anchor.expand(16, 4)),
        "two-stage": (head(pooled).sum(1), proposal.expand(16, 4))}
for name, model in {"new DETR": untrained, "trained DETR": trained}.items():
    boxes = model(images, batch.mask[:16]).boxes[-1]  # (16, Q, 4)
    owner = [int(query[image == i][0]) for i in range(16)]  # per image, a query that the trained DETR matched
    mine = boxes[range(16), owner]  # (16, 4)
    said[name] = (mine.sum(1), mine.detach())
read = {name: looking.reads(number, images, (8, 8)) for name, (number, _) in said.items()}  # (16, 8, 8)

# %%
first = {name: said[name][1][0] for name in said}
show(looks(held_out[0][0], [read[name][0] if "trained" in name else read[name].mean(0) for name in said],
           list(said),
           boxes=[dm.boxes.cxcywh_to_xyxy(first[name]) * 128 for name in said]),
     alt="Four maps of what a prediction reads. One-stage: a compact spot around the anchor. Two-stage: the "
         "proposal's box. New DETR: the whole image. Trained DETR: mostly around its box.")
places = {name: looking.entropy(read[name].mean(0)).exp() for name in ("one-stage", "new DETR")}
assert places["one-stage"] < 30 < 50 < places["new DETR"]  # of 64 places

# %%
rows = {}
for name, (_, own) in said.items():
    share = looking.coverage(own, (8, 8)).mean((-2, -1)).mean().item()
    rows[name] = {"read inside its own box": looking.mass_inside(read[name], own).mean().item(),
                  "area of the box": share}
show(looking_plots.stacked(rows, xlabel="part", title="What a prediction reads, inside its own box"),
     alt="Pairs of bars: the part of the reading inside the prediction's own box, and the box's area. "
         "One-stage 0.65 and 0.14, two-stage 0.47 and 0.14, new DETR 0.37 and 0.27, trained DETR 0.35 and "
         "0.08.")
times = {name: row["read inside its own box"] / row["area of the box"] for name, row in rows.items()}
print("times the area:", {name: round(value, 1) for name, value in times.items()})
assert min(times["one-stage"], times["two-stage"], times["trained DETR"]) > 3 and times["new DETR"] < 2

# %% [markdown]
# A new DETR reads its box 1.4 times as densely as the picture, the two CNN heads three to five times,
# before the first training step. DETR gets there only by training: it comes to read as much inside (0.37, now 0.35) of a
# box a third as large. That is what **aligned by construction** means. One-stage: the cell *is* the place. Two-stage:
# RoIAlign fetches it. DETR's query reads everything and has to learn which part it is talking about.
#
# All fixes of the next notebooks give a query a place, and tie where it looks to it. Deformable: a few samples around
# a point. SMCA: a Gaussian around a centre. Anchor: a point as the query. DAB: a box as the query. SAM: an RoIAlign in
# front of the attention.
#
# ## 10. Explore: replay both trainings
#
# Eight held-out scenes, the last decoder layer, the mean of its heads. Move the sliders, with the mouse or with Tab and
# the arrow keys. Find out:
#
# 1. When does query 3 stop looking everywhere? Compare the words below the picture at steps 0, 400 and 2,500.
# 2. Stay at the last step and move the image slider. Does the query keep to its home region?
# 3. Give it `load_recording(recorded("smca.safetensors"))` instead. What is different at step 0?

# %% tags=["nbval-ignore-output"]
from detr_mini.course.replay import Moment, TrainingReplay

owned = int((recording.owners[-1, -1, 0] >= 0).nonzero()[0])
before, after = looking.entropy(recording.attention[[0, -1], -1, 0, 0, owned]).exp()  # of how many places it reads
assert after < before / 1.5  # the map that it opens on is narrower than at step 0
TrainingReplay(recording, CLASSES, Moment(row=len(recording.steps) - 1, image=0, query=owned))

# %% [markdown]
# ## 11. Exercises
#
# Fill in a cell, run it, then run the check below it. For a hint: `dm.hint("10.inside")` in a new cell, with the
# exercise's name.
#
# ### How wide do the heads look? (`10.spread`)
#
# *Warm-up, 8 minutes.* The mean over heads of the entropy, in nats. A weight may be 0.

# %% tags=["exercise"]
def spread(maps):
    """maps (heads, h, w), each sums to 1 -> one number."""
    return None  # your lines

# %% tags=["solution"]
def spread(maps):
    """maps (heads, h, w), each sums to 1 -> one number."""
    return torch.special.entr(maps).sum(dim=(-2, -1)).mean()  # entr(w) = -w log w, and 0 for 0

# %%
check("10.spread", spread)

# %% [markdown]
# ### Who has changed hands? (`10.flips`)
#
# *Core, 12 minutes.* Several looks at one image. Which part of the objects has another query than at the look before?

# %% tags=["exercise"]
def flips(owners):
    """owners (looks, Q): the object that each query owns, -1 for none -> (looks - 1,)."""
    return None  # your lines

# %% tags=["solution"]
def flips(owners):
    """owners (looks, Q): the object that each query owns, -1 for none -> (looks - 1,)."""
    owning = owners[1:] >= 0  # every object is owned by one query
    changed = owning & (owners[1:] != owners[:-1])
    return changed.sum(dim=1) / owning.sum(dim=1)

# %%
check("10.flips", flips)

# %% [markdown]
# ### How much of it is inside? (`10.inside`)
#
# *Core, 15 minutes.* Without the package's `coverage`. Cells count as far as the box covers them.

# %% tags=["exercise"]
def inside(weights, box):
    """weights (h, w), sum 1; box (4,) cxcywh as parts of the image -> the part of the attention inside."""
    return None  # your lines

# %% tags=["solution"]
def inside(weights, box):
    """weights (h, w), sum 1; box (4,) cxcywh as parts of the image -> the part of the attention inside."""
    def along(centre, size, count):  # the covered part of every column, or of every row: (count,)
        first, last, cell = (centre - size / 2) * count, (centre + size / 2) * count, torch.arange(count)
        return ((cell + 1).clamp(max=last) - cell.clamp(min=first)).clamp(min=0)
    height, width = weights.shape
    return along(box[1], box[3], height) @ weights @ along(box[0], box[2], width)

# %%
check("10.inside", inside)

# %% [markdown]
# ### Four terms (`10.terms`)
#
# *Stretch, 20 minutes.* One head. Split its scores into four terms, so that the softmax of their sum is the attention.
# `query` and `key` are linear layers, each given as (weight, bias): they compute x @ weight.T + bias.

# %% tags=["exercise"]
def terms(content, position, memory, place, query, key):
    """content, position (Q, d); memory, place (K, d); query, key: (weight (d, d), bias (d,)) -> (4, Q, K).

    Order: content x memory, content x place, position x memory, position x place.
    """
    return None  # your lines

# %% tags=["solution"]
def terms(content, position, memory, place, query, key):
    """content, position (Q, d); memory, place (K, d); query, key: (weight (d, d), bias (d,)) -> (4, Q, K).

    Order: content x memory, content x place, position x memory, position x place.
    """
    asking = content @ query[0].T, position @ query[0].T + query[1]  # the bias once
    asked = memory @ key[0].T, place @ key[0].T  # the key's bias adds the same to all keys: not seen
    return torch.stack([q @ k.T for q in asking for k in asked]) / math.sqrt(content.shape[-1])

# %%
check("10.terms", terms)

# %% [markdown]
# ## 12. Remake it
#
# The recordings are yours to make again: ten minutes on two idle cores. Here is a second opinion: the shipped weights
# come from another run of the same recipe, and we measure them now.

# %% tags=["gpu"]
from detr_mini.course.why_slow import MINE, STEPS, record
from detr_mini.published import FORMS

START = False  # True trains both again and writes your own recordings, which the cells above then read
for name, steps in STEPS.items():
    if START:
        print("recorded:", record(name, steps, folder=MINE))
    else:
        print(f"would train {name} for {steps:,} steps, and look at 200 scenes now and then")
form = FORMS["detr"]["coco"]
print(f"the paper's run on COCO: {form.epochs} epochs, AP {form.ap} ({form.source}); why_slow.Meter goes into its fit")

# %%
now = looking.measure(look, batch.targets)
for name in ("entropy", "mass", "elsewhere", "iou"):
    noted, measured = detr[-1][name][-1], now[name][-1]
    close = abs(noted - measured) < 0.15 * noted
    print(f"{name:10} recorded {noted:.2f}   shipped weights {measured:.2f}   close: {close}")
habit = (now["elsewhere"][-1] - uniform) / (now["mass"][-1] - uniform)
print(f"habit, the part that is there without this image: recorded {share_of_habit:.0%}, shipped weights "
      f"{habit:.0%}")

# %% [markdown]
# ## 13. Limits, and errata
#
# - **One seed, one toy.** 64 or 144 places instead of 850 or more, ten classes, a backbone that knows them. On
#   COCO events may come in another order.
# - **A correlation is no cause.** Mass rises while boxes improve. The experiments that intervene are the cut, the
#   removed term, the larger picture and SMCA. And SMCA changes two things at once.
#
# ## Recap
#
# First explain it to a friend: five sentences, each with a figure from above. Then compare.
#
# **So why 500 epochs?** Nothing gives a DETR query a place. It starts with the mean of the image. What images agree about,
# typical boxes, it learns first and blindly: 400 steps here, attention near chance. Then it finds a home, and later the
# object in it. Homes, and boxes written relative to them (SMCA), bring good boxes 2.5 times as early; which of
# the two does what, notebook 12 measures.
#
# Why just 500, we have not shown: our 2,500 steps are ten epochs. It is not the number of places alone, from 64 to 144.
# COCO also has more classes, clutter and sizes, and a backbone that learns.
#
# - **Where queries look:** a brake. Most of the rise in mass is home.
# - **Who owns what:** flips are frequent, but a detector can learn quickly in spite of them.
# - **What is compared:** content does the work of position. Whether that is a brake, we have not measured.
# - CNN detectors read the place they speak about, by construction. The fixes give that back to queries.

# %%
quiz("10")

# %% [markdown]
# **Next:** [11, Deformable DETR](11_deformable_detr.ipynb): look at a few places only.
#
# **References**
#
# - N. Carion et al., *End-to-End Object Detection with Transformers*, 2020: the 500-epoch schedule.
# - X. Zhu et al., *Deformable DETR*, 2021. Sections 1 and 3: near-uniform weights at the start, and what follows.
# - P. Gao et al., *Fast Convergence of DETR with Spatially Modulated Co-Attention*, 2021.
# - D. Meng et al., *Conditional DETR for Fast Training Convergence*, 2021.
# - G. Zhang et al., *Accelerating DETR Convergence via Semantic-Aligned Matching*, 2022.
# - Z. Sun et al., *Rethinking Transformer-based Set Prediction for Object Detection*, 2021.
# - F. Li et al., *DN-DETR: Accelerate DETR Training by Introducing Query DeNoising*, 2022.
# - K. He et al., *Mask R-CNN*, 2017. Section 3: RoIAlign.

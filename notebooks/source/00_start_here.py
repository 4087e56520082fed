# %% [markdown]
# # 00 · Start here
#
# **Does my machine work, what is the map, and how do I learn here?**
#
# *About 45 minutes with the exercises; the cells themselves run in seconds. You need Python. No GPU, no network, no
# account.*
#
# Welcome. This course takes apart the detectors called *detection Transformers*, beginning with DETR, until you can
# build one yourself, train it on your own machine, and say why it works.
#
# After this notebook you know
#
# - that everything is installed;
# - what object detection is, and why a set is an awkward thing to learn;
# - the one question that runs through the whole course;
# - how predictions, exercises and hints work here.
#
# Run a cell with **Shift + Enter**. Begin with the next one. Every notebook begins like this.

# %%
import detr_mini as dm
from detr_mini.course.notebook import check, check_machine, course_map, plots, predict, quiz, reveal
from detr_mini.course.notebook import show, show_progress, show_syllabus, time_a_step
from detr_mini.course.order_explorer import Listing, OrderExplorer

dm.setup(seed=0)

# %% [markdown]
# It fixes the random numbers and the number of threads. So you will see the numbers that stand here.
#
# ## 1. Is everything here?

# %% tags=["nbval-ignore-output"]
check_machine()

# %% [markdown]
# How fast is your machine? The next cell trains the course's small detector for a few steps, on noise.

# %% tags=["nbval-ignore-output"]
time_a_step()

# %% [markdown]
# Multiply when a notebook speaks of training steps. (A *step* is one small change of the network's weights, made after
# a look at a few pictures.) Every notebook says at its top how long it takes. A cell that wants a GPU says so as well;
# without one it shows what came out elsewhere.
#
# ## 2. What is object detection?
#
# Our pictures are drawn by the package itself, as many as we like. Ten kinds of things appear in them.

# %%
import torch

from detr_mini.data.scenes import CLASSES, draw_scene

picture, labels, boxes = draw_scene(seed=0, index=12)
names = [CLASSES[label] for label in labels]
print("the ten kinds:", ", ".join(CLASSES))
print("picture:", picture.shape, picture.dtype, "  things in it:", names)

# %%
figure, (left, right) = plots.canvas(2, height=3.9)
corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
plots.scene(picture, title="what a detector gets", axes=left)
plots.scene(picture, corners, names, title="what it should return", axes=right)
show(figure, alt="""Two copies of a scene with a blue car, a green tree and a grey cat.
     On the right one, each thing has a coloured frame with its name.""")

# %% [markdown]
# **Detection** means: say *what* is there, and *where*. What is a class. Where is a box. So the answer for this picture
# is three lines.

# %%
for name, (x, y, width, height) in zip(names, boxes):
    print(f"{name:5} left {x:3.0f}, top {y:3.0f}, width {width:3.0f}, height {height:3.0f} pixels")

# %% [markdown]
# How long is the answer for another picture? Here are eight.

# %%
scenes = [draw_scene(seed=0, index=number) for number in range(10, 18)]
counts = [len(labels) for _, labels, _ in scenes]
figure = plots.pictures([image for image, _, _ in scenes], [f"{count} in it" for count in counts])
show(figure, alt="""Eight scenes with soft backgrounds. They hold between one and five things each,
     such as cars, houses, cats, balloons, boats and trees.""")
print("things per picture:", counts)

# %% [markdown]
# The length differs from picture to picture. That is the first awkward thing about detection: a network gives as many
# numbers as it was built for.
#
# ## 3. A list is not a set
#
# Here is the second awkward thing. Before you run the next cell, commit yourself to an answer: click on it.

# %%
predict("00.order", "We list the three true boxes twice, in two different orders, and compare the lists "
        "number by number. How far apart are they, on average?",
        "0 pixels: the boxes are the same", "a few pixels", "more than ten pixels")

# %%
one_order = torch.tensor(boxes)  # (3, 4): car, tree, cat
other_order = one_order[[2, 0, 1]]  # (3, 4): cat, car, tree
difference = (one_order - other_order).abs().mean().item()
print(f"mean difference: {difference:.1f} pixels")

reveal("00.order", "a" if difference == 0 else "b" if difference <= 10 else "c",
       "Each number was compared with a number of another thing.")

# %% [markdown]
# Both lists are perfect answers, and yet a number-by-number comparison finds them far apart. What would a network learn
# from such a comparison?
#
# Let us try, without any network: three boxes, and each of their numbers may change freely. They start at the **true**
# boxes. At every step they see the truth once more, but whoever wrote it down did so in an order of their own. Each
# number moves a little towards the number that it is compared with.

# %%
predict("00.unlearn", "Three boxes start at the truth and learn from lists in random order. Where are they after 500 "
        "steps?", "still on the car, the tree and the cat", "all three at about the same place",
        "somewhere, at random, each in another place")

# %%
torch.manual_seed(0)
guess = one_order.clone()  # (3, 4) a perfect start
for _ in range(500):
    truth = one_order[torch.randperm(3)]  # (3, 4) the same boxes, in some order
    guess += 0.02 * (truth - guess)  # downhill on the squared differences

print("true boxes\n", one_order.numpy())
print("after 500 steps\n", guess.round().numpy())
print("mean of the true boxes", one_order.mean(dim=0).round().numpy())
apart, moved = (guess - guess.mean(dim=0)).abs().max(), (guess - one_order).abs().max()
reveal("00.unlearn", "a" if moved < 10 else "b" if apart < 10 else "c",
       "Each box heard of the car, the tree and the cat equally often. It makes peace with all three.")

# %%
figure, axes = plots.canvas(2, height=3.9)
for place, found, title in zip(axes, (one_order, guess), ("at the start", "after 500 steps")):
    right_and_bottom = found[:, :2] + found[:, 2:]  # (3, 2)
    plots.scene(picture, torch.cat([found[:, :2], right_and_bottom], dim=1), title=title, axes=place)
show(figure, alt="""The scene twice. At the start three frames fit the car, the tree and the cat. After 500 steps
     all three frames lie almost on top of each other in the middle, and fit nothing.""")
assert apart < 10 < moved  # pixels: close together, and far from where they began

# %% [markdown]
# It unlearned everything. All three boxes went to about the same place, the mean of the three, which is none of them.
# Nobody made a mistake. The comparison punishes a box for being right in the wrong place of the list.
#
# What we want is a **set**: any number of things, in no order. For years, detectors went around this. They asked
# thousands of fixed places, *is something here?*, and threw away duplicates afterwards. In 2020, **DETR** (Carion et
# al.) took sets seriously: a handful of *object queries* ask the image, a *matching* decides which query answers for
# which object, and nothing is thrown away. You will build all of it.
#
# ### Explore
#
# Many notebooks have something to play with. Move the sliders, with the mouse or with Tab and the arrow keys. The
# picture and the words below it follow. (If you only see a picture: run the cell.)
#
# *Order* is the order of the second list. *Off by* makes each of its numbers too large by so many pixels. Its boxes
# are dashed.
#
# 1. Which orders are the worst?
# 2. One list has perfect boxes in a wrong order, another one the right order and boxes that are off by 10. Which one
#    does the comparison prefer? Which one do you?
# 3. The blue line takes the best of all orders. What changes it, and what does not?

# %%
OrderExplorer(picture, boxes, names, Listing(order=4))

# %% [markdown]
# The blue line is a fair comparison of two sets: it does not ask who stands where. Finding the best order is called
# **matching**. You will write it yourself in the last exercise below, in the slowest way. DETR needs a quick one
# (notebook 07).
#
# ## 4. The question of this course
#
# DETR was elegant, and it was slow. These figures were reported for it and for its successors: how often a detector had
# to see COCO's 118,000 photographs, and which average precision (AP) it reached. More AP is better.

# %%
reported = {  # epochs, AP on COCO val2017, all with a ResNet-50
    "Faster R-CNN": (109, 42.0), "DETR": (500, 42.0), "DETR, shorter run": (50, 34.8),
    "Conditional DETR": (50, 41.0), "DAB-DETR": (50, 42.2), "Deformable DETR": (50, 44.5),
}
epochs = torch.tensor([epochs for epochs, _ in reported.values()])
figure = plots.bars(epochs, [f"{name}: {ap} AP" for name, (_, ap) in reported.items()], digits=0,
                    colours=[plots.GREY, plots.VERMILLION, plots.VERMILLION] + [plots.BLUE] * 3,
                    xlabel="epochs of training on COCO, as reported")
show(figure, alt="""Bars of training length. Faster R-CNN 109 epochs for 42.0 AP. DETR 500 epochs for
     42.0 AP, and only 34.8 AP after 50. Conditional DETR, DAB-DETR and Deformable DETR 50 epochs
     each, for 41.0, 42.2 and 44.5 AP.""")
assert (10 * epochs[3:] == epochs[1]).all()  # each of the three successors: a tenth of DETR's epochs
assert min(ap for _, ap in list(reported.values())[3:]) >= reported["DETR"][1] - 1  # at most one point below it

# %% [markdown]
# One look at the whole data set is called an **epoch**. Look at the two bars of DETR. Given enough time, DETR reached
# what Faster R-CNN, a detector of the older kind, reached. The three successors had a tenth of the epochs, and came
# within one point of AP of that, or beyond it.
#
# > **Why did DETR need 500 epochs? And what did the others change?**
#
# Notebook 10 measures what makes a small DETR slow, on recorded trainings like your own. Notebooks 11 to 15 are five answers
# to the second question.
#
# ## 5. The map

# %%
course_map()

# %% [markdown]
# The numbers in the black tags are notebooks. The line under the map is the way through them; filled stations can be read
# now. The table lists the same, with times.

# %%
show_syllabus()

# %% [markdown]
# ## 6. How to work here
#
# 1. **Predict.** When a notebook asks, answer before you run the cell. A wrong guess, made in earnest, is what you
#    will remember. The first guess counts. Notebooks come with their outputs, for those who only read. To guess without
#    peeking, first take *Edit → Clear Outputs of All Cells*.
# 2. **Run**, and look for what surprises you.
# 3. **Change something.** Every cell can be edited and run again; *Kernel → Restart* forgets all numbers. Work in copies
#    (in the list of files: right-click, *Duplicate*). Then the originals stay whole, and a newer course can replace them.
# 4. **Exercise.** Each one has a tier (*warm-up*, *core*, *stretch*), the minutes most people need, a check and two
#    hints.
#
# Solved notebooks lie in the folder `solutions`. They are most useful after an honest try.
#
# ### The largest box (`00.largest`)
#
# *Warm-up, 3 minutes.* Which of the boxes has the largest area? They come as a tensor, (M, 4): M boxes, four numbers
# each. Return its index. Fill in the function, run the cell, and run the check below it.

# %% tags=["exercise"]
def largest(boxes):
    """boxes (M, 4): left, top, width, height -> the index of the box with the largest area."""
    return None  # your line

# %% tags=["solution"]
def largest(boxes):
    """boxes (M, 4): left, top, width, height -> the index of the box with the largest area."""
    areas = boxes[:, 2] * boxes[:, 3]  # (M,)
    return areas.argmax()

# %%
check("00.largest", largest)

# %% [markdown]
# A wrong answer is told what is wrong with it; try one. For a hint, open a new cell (press **B**) and run
# `dm.hint("00.largest")`. Run it again for the second hint. `dm.solution("00.largest")` shows one way to do it.
#
# ### The same boxes? (`00.same`)
#
# *Core, 8 minutes.* Two lists of boxes. Do they hold the same boxes, each of them equally often, in whatever order?
# The lists may differ in length.

# %% tags=["exercise"]
def same_boxes(first, second):
    """first (M, 4), second (N, 4): boxes -> True or False."""
    return None  # your lines

# %% tags=["solution"]
def same_boxes(first, second):
    """first (M, 4), second (N, 4): boxes -> True or False."""
    return sorted(first.tolist()) == sorted(second.tolist())  # box by box

# %%
check("00.same", same_boxes)

# %% [markdown]
# ### How far apart are two sets? (`00.distance`)
#
# *Stretch, 12 minutes.* The blue line of the explorer. Two lists of equally many boxes: try every order of the second
# one, and return the **smallest** mean of |difference| over all 4 M numbers. There are few boxes, so it may take its time.

# %% tags=["exercise"]
def set_distance(first, second):
    """first (M, 4), second (M, 4): boxes -> the smallest mean difference over all orders, a number."""
    return None  # your lines

# %% tags=["solution"]
from itertools import permutations

def set_distance(first, second):
    """first (M, 4), second (M, 4): boxes -> the smallest mean difference over all orders, a number."""
    orders = permutations(range(len(second)))
    return min((first - second[list(order)]).abs().mean() for order in orders)

# %%
check("00.distance", set_distance)

# %% [markdown]
# ## 7. How far am I?

# %%
show_progress()

# %% [markdown]
# Come back to this table whenever you like, and run its cell again. Your progress is kept in one small file,
# `progress.json`, in the folder of the course. It is sent nowhere. To keep it elsewhere, set the environment variable
# `DETR_MINI_PROGRESS` to another path.
#
# ## 8. Limits
#
# - **Our scenes are toys.** Drawn things on soft grounds are far easier than photographs. They are here so that a
#   training takes minutes. What is true of them need not be true of COCO, and each notebook says where it was
#   measured.
# - **An epoch is not an hour.** The bars of section 4 count looks at the data. A look costs more with one detector
#   than with another. Notebook 16 counts seconds, too.
# - **The figures come from different papers and codes**, and they differ in more than one thing. Conditional DETR,
#   DAB-DETR and Deformable DETR have 300 object queries, DETR has 100.
#
# ## Recap
#
# - Detection says what is there and where: a class and a box for each thing.
# - The answer is a set. Its size changes, and it has no order.
# - Compared number by number with lists in any order, even perfect boxes are driven to the mean of all.
# - Taking the best of all orders compares sets. That is matching.
# - DETR learns sets directly, but took 500 epochs to do it.
# - Predict, run, change, exercise.

# %%
quiz("00")

# %% [markdown]
# **Next:** [01, attention by hand](01_attention_by_hand.ipynb). It begins with four flats and a calculator.
#
# **References**
#
# - N. Carion et al., *End-to-End Object Detection with Transformers*, 2020. DETR: 500 epochs, 42.0 AP.
# - X. Zhu et al., *Deformable DETR*, 2021. Its table 1 sets Faster R-CNN (109 epochs) beside DETR; 44.5 AP is what its
#   code reports.
# - D. Meng et al., *Conditional DETR for Fast Training Convergence*, 2021. 34.8 AP for DETR after 50 epochs is from the
#   table of its code.
# - S. Liu et al., *DAB-DETR*, 2022.

# %% [markdown]
# # 05 · The encoder
#
# **How does an image become tokens that know their surroundings?**
#
# *About 75 minutes with the exercises; the cells themselves run in about a minute, without a GPU.*
# *You need notebooks 01 to 03: attention, heads, positions.*
#
# After this notebook you can
#
# - follow an image from pixels to memory, and name the shape at every step;
# - say which pixels a token has seen, before the encoder and after it;
# - build an encoder layer from its parts, and know where the positions go;
# - measure what tokens tell each other, what they know of their own place, and what it all costs.

# %%
import detr_mini as dm
from detr_mini.course.notebook import check, plots, predict, quiz, reveal, where_we_are
from detr_mini.course.training_plots import looks, show

dm.setup(seed=0)
where_we_are("encoder")

# %% [markdown]
# ## Where we are
#
# The left half of the detector. An image goes in. Out comes the **memory**: one vector for each place. In notebook 06
# the queries will ask it. This notebook is about what happens in between, and why a CNN alone is not enough.
#
# ## 1. A place that cannot know
#
# Two scenes, the same but for one thing: in the second one we paint over the cat at the lower left.

# %%
import torch
from detr_mini import zoo
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.data.scenes import CLASSES, Scenes

train_set, held_out = Scenes(4000, seed=0), Scenes(400, seed=1_000_003)
image, target = held_out[16]  # (3, 128, 128) uint8
painted = image.clone()
painted[:, 74:118, 14:46] = image[:, 120, 20][:, None, None]  # one colour of the ground

figure, (left, right) = plots.canvas(2, width=5.2, height=2.7)
names = [CLASSES[label] for label in target["labels"]]
plots.scene(image, cxcywh_to_xyxy(target["boxes"]) * 128, names, axes=left)
plots.scene(painted, title="without the lower cat", axes=right)
show(figure, alt="A scene with two cats and two boats. Beside it the same scene, where the cat at the lower "
                 "left is painted over with the ground's colour.")
assert torch.equal(painted[:, :, 46:], image[:, :, 46:]) and not torch.equal(painted, image)  # only at the left

# %% [markdown]
# Our detector is the DETR that comes with the project, trained as notebook 09 will train one. Its backbone, a small CNN,
# turns the scene into 8 x 8 places with 128 numbers each. Such a vector is a **token**. How much does each token change
# when the cat goes?

# %%
from detr_mini.data.transforms import build_transform, collate
from detr_mini.files import DATA

recipe = zoo.recipe("detr", "scenes")
prepare = build_transform(recipe.data, train=False)
model = dm.load_weights(DATA / "weights/detr.safetensors")

pair = collate([prepare(picture, target) for picture in (image, painted)])
with torch.no_grad():
    tokens, grid = model.tokenize(pair.images, pair.mask)  # (2, 64, 128)
print("tokens", tuple(tokens.shape))

# %%
predict("05.far", "The upper cat sits at the right edge. How does its token change when the lower cat goes?",
        "not at all", "a little", "a lot")

# %%
def change(pair):
    """How much each token differs between the two scenes, as a part of its length: (2, 64, d) -> (8, 8)."""
    return ((pair[0] - pair[1]).norm(dim=1) / pair[0].norm(dim=1)).reshape(8, 8)

moved = change(tokens)
print(f"the lower cat's token, row 5, column 1: {moved[5, 1]:.2f}")
print(f"the upper cat's token, row 2, column 6: {moved[2, 6]:.2f}")
print("tokens that did not change at all:", int((moved < 1e-5).sum()), "of 64")
figure, (left, right) = plots.canvas(2, width=5.2, height=2.7)
plots.scene(painted, title="without the lower cat", axes=left)
plots.attention_map(image, moved, title="change of the tokens", axes=right)
show(figure, alt="The scene without the lower cat, and a map of 8 by 8 places that glows in a wide square "
                 "around the painted cat. The upper and the right part stay dark.")
reveal("05.far", "a" if moved[2, 6] < 1e-5 else "b" if moved[2, 6] < 0.3 else "c",
       "A convolution sees a window, and this cat is outside.")

# %% [markdown]
# So the token on the upper cat cannot know whether there is a second cat. Does that matter? A detector must not report
# a thing twice, and must tell two things from one. For that, somebody has to know more than a window.
#
# Let us make it a test with a number: **how many things are in the picture?** Each single token has to answer, with the
# best linear formula that we can fit for it. We fit on 600 scenes and ask on 200 others. A score of 0 is what you get by
# always naming the average; 1 is perfect.

# %%
@torch.no_grad()
def look(dataset, count):
    """The first scenes: tokens before the encoder and after it, (S, 64, d) each; how many things, (S,)."""
    before, after = [], []
    for start in range(0, count, 50):
        batch = collate([prepare(*dataset[i]) for i in range(start, start + 50)])
        tokens, grid = model.tokenize(batch.images, batch.mask)  # (50, 64, 128)
        before.append(tokens)
        after.append(model.encoder(tokens, grid))  # (50, 64, 128)
    things = torch.tensor([len(dataset[i][1]["labels"]) for i in range(count)])
    return torch.cat(before), torch.cat(after), things

# %%
def score(train, things, test, test_things):
    """How much of the number of things a linear formula reads off a single token: 0 nothing, 1 all of it."""
    flat = [torch.cat([x, torch.ones_like(x[..., :1])], dim=-1).flatten(0, 1).double() for x in (train, test)]
    wanted, truth = (n.double().repeat_interleave(64) for n in (things, test_things))  # (S * 64,)
    square = flat[0].T @ flat[0] + 1e-3 * torch.eye(flat[0].shape[1])  # least squares, with a pinch of ridge
    answer = flat[1] @ torch.linalg.solve(square, flat[0].T @ wanted)  # (S * 64,)
    return 1 - ((answer - truth) ** 2).mean().item() / truth.var().item()

before, after, things = look(train_set, 600)
before_test, after_test, things_test = look(held_out, 200)
blind = score(before, things, before_test, things_test)
print(f"a token of the backbone scores {blind:.2f}")

# %% [markdown]
# A third. The window holds hints, and no more. Keep the number; we come back to it in section 8.
#
# ## 2. The smallest example: counting with attention
#
# Four places in a row. Each token has two numbers. The first: is there a thing here? The second is an empty page.

# %%
x = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])  # (4, 2) thing here?, page

weights = torch.full((4, 4), 0.25)  # everybody looks at everybody alike
values = torch.stack([torch.zeros(4), x[:, 0]], dim=1)  # (4, 2): what is collected goes onto the page
update = weights @ values  # (4, 2)
print("the update:\n", update)
print("x + update:\n", x + update)

# %% [markdown]
# After one step of self-attention every place holds 0.5 on its page: half of all places have a thing. Times four, that
# is the count. No window was needed.
#
# And see why the update is **added**. The update alone is the same for everybody: the places would have forgotten what
# they are. Adding keeps the old and brings the new. This is the **residual** connection.
#
# ## 3. From pixels to tokens, with shapes
#
# First the paper's model. Random weights will do, as we only want to see shapes. The two images differ in size, so
# `collate` pads both to the largest height and width.

# %%
torch.manual_seed(0)
paper = dm.build("detr", "coco").eval()  # DETR-R50

landscape, portrait = torch.randn(3, 384, 640), torch.randn(3, 512, 416)
batch = collate([(landscape, {}), (portrait, {})])
print("images  ", tuple(batch.images.shape))

with torch.no_grad():
    features = paper.backbone(batch.images)[0]
print("features", tuple(features.shape), "  512 / 32 =", 512 // 32, "  640 / 32 =", 640 // 32)

# %% [markdown]
# ResNet-50 halves the map five times, so its **stride** is 2⁵ = 32: one place for 32 x 32 pixels. Each place has 2,048
# numbers. That is more than the transformer wants, so a 1x1 convolution brings them to d = 256.

# %%
with torch.no_grad():
    projected = paper.input_proj[0](features)
print("projected", tuple(projected.shape))

kernel = paper.input_proj[0].weight[:, :, 0, 0]  # (256, 2048)
one_place = kernel @ features[0, :, 3, 7] + paper.input_proj[0].bias  # (256,)
print("a 1x1 convolution is one linear layer, at every place:",
      torch.allclose(one_place, projected[0, :, 3, 7], atol=1e-4))

# %% [markdown]
# Now the two axes of the map become one list of tokens. The paper's code puts the list first and the batch second; ours
# puts the batch first. The numbers are the same.

# %%
as_paper = projected.flatten(2).permute(2, 0, 1)  # (b, 256, hw) -> (hw, b, 256)
batch_first = projected.flatten(2).transpose(1, 2)  # (b, 256, hw) -> (b, hw, 256)
print("(b, 2048, h, w)", tuple(features.shape))
print("(b, 256, h, w) ", tuple(projected.shape))
print("(hw, b, 256)   ", tuple(as_paper.shape), " the paper's code")
print("(b, hw, 256)   ", tuple(batch_first.shape), " here")
print("the same numbers:", torch.equal(as_paper.transpose(0, 1), batch_first))
place = 3 * 20 + 7  # row 3, column 7 of a map 20 wide
print("token", place, "is row 3, column 7:", torch.equal(batch_first[0, place], projected[0, :, 3, 7]))

# %% [markdown]
# Row after row, so row r and column c become token r · w + c. Nothing was computed, only relabelled. The list has lost
# its two dimensions, though. Positions (notebook 03) bring them back.
#
# The same way with the small backbone. Its stride is 16.

# %%
with torch.no_grad():
    features = model.backbone(pair.images)[0]  # (2, 128, 8, 8)
    projected = model.input_proj[0](features)  # (2, 128, 8, 8)
by_hand = projected.flatten(2).transpose(1, 2)  # (2, 64, 128)
print(tuple(pair.images.shape), "->", tuple(features.shape),
      "->", tuple(projected.shape), "->", tuple(by_hand.shape))
print("equal to the package's tokens:", torch.equal(by_hand, tokens))

# %% [markdown]
# ## 4. What a stride means
#
# Stride 16 means: a new token every 16 pixels. It does not mean that a token sees 16 pixels. Predict what it does see:

# %%
predict("05.window", "How wide is the window of pixels that one token of the small backbone depends on?",
        "16 pixels: its own cell", "48 pixels: its cell and the neighbours",
        "87 pixels: two thirds of the picture")

# %% [markdown]
# We need not argue, we can measure. The gradient of a token with respect to the pixels says which pixels it depends on.

# %%
def window(of_tokens, index):
    """Left, top, right, bottom of the pixels that token `index` depends on."""
    pixels = pair.images[:1].clone().requires_grad_()
    tokens, grid = model.tokenize(pixels, pair.mask[:1])
    of_tokens(tokens, grid)[0, index].square().sum().backward()
    slope = pixels.grad[0].abs().sum(dim=0)  # (128, 128)
    rows, columns = (slope > 1e-6 * slope.max()).nonzero(as_tuple=True)
    return [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]

middle = 4 * 8 + 4  # row 4, column 4
by_backbone = window(lambda tokens, grid: tokens, middle)
by_encoder = window(lambda tokens, grid: model.encoder(tokens, grid), middle)
width = by_backbone[2] - by_backbone[0]
print("after the backbone:", by_backbone, "=", width, "pixels wide")
print("after the encoder: ", by_encoder)
reveal("05.window", "bc"[width > 80], "Each 3x3 convolution widens the window, and strides multiply it.")

# %%
figure, (left, right) = plots.canvas(2, width=5.6, height=2.9)
for axes, box, title in ((left, by_backbone, "after the backbone"), (right, by_encoder, "after the encoder")):
    plots.scene(image, [[64, 64, 80, 80], box], ["", ""], title=title, axes=axes)
    for line in range(16, 128, 16):
        axes.axvline(line - 0.5, color="white", linewidth=0.5, alpha=0.7)
        axes.axhline(line - 0.5, color="white", linewidth=0.5, alpha=0.7)
show(figure, alt="The scene twice, with a fine grid of 8 by 8 cells and one cell framed in blue. On the left "
                 "an orange window of 87 pixels around it. On the right the window is the whole picture.")
assert width < 128 and by_encoder == [0, 0, 128, 128]  # a window that ends; one that does not

# %% [markdown]
# The blue cell is where the token sits, the orange frame is what it has seen. The backbone's window is large, and it
# ends. After the encoder there is no window any more: each token depends on every pixel.
#
# In DETR-R50 the windows are larger, and so are the images. The shape of the argument stays.
#
# ## 5. Padding must not be looked at
#
# Pictures of different sizes share a batch, and the smaller ones are padded. The **mask** says where. It is made for
# pixels, and the encoder needs it for tokens.

# %%
from detr_mini.backbone import padding_at

cropped = held_out[7][0][:, 8:104, 48:128]  # (3, 96, 80)
nothing = {"labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)}
keep_size = build_transform(recipe.data, train=False).steps[-1]  # normalise, do not resize
mixed = collate([keep_size(picture, nothing) for picture in (image, cropped)])
small = padding_at(mixed.mask, (8, 8))  # (2, 8, 8)

print("images", tuple(mixed.images.shape), " mask",
      tuple(mixed.mask.shape), " -> for tokens", tuple(small.shape))
print("image of the second one: rows 0 to", 96 // 16 - 1, ", columns 0 to", 80 // 16 - 1)
print(small[1].int())

# %% [markdown]
# The mask is shrunk by taking the nearest pixel: a cell counts as padding when its upper left pixel does. These tokens
# get a score of minus infinity, as in notebook 01. What if we forget?

# %%
def mass_on_padding(mask):
    """How much attention the second picture's real tokens give to padding, mean over heads and tokens."""
    with torch.no_grad(), dm.AttentionTrace(model) as trace:
        model(mixed.images, mask)
    weights = trace["encoder.layers.1.self_attention"].weights[1]  # (heads, 64, 64)
    padding = small[1].flatten()  # (64,)
    return weights[:, ~padding][..., padding].sum(dim=-1).mean().item()

print(f"padded part of the map: {small[1].float().mean():.2f}")
print(f"attention on padding, with the mask:    {mass_on_padding(mixed.mask):.2f}")
print(f"attention on padding, mask forgotten:   {mass_on_padding(torch.zeros_like(mixed.mask)):.2f}")

# %% [markdown]
# No error, no warning: a large part of what is collected comes from nowhere.
#
# ## 6. An encoder layer, by hand
#
# A layer has two parts. In the first, tokens talk. In the second, each thinks for itself. Both end alike: add, then
# normalise. We take the weights of the first layer and compute it step by step.
#
# **Part one: self-attention.** The positions are added to what queries and keys are made of. They are *not* added to
# the values.

# %%
layer, x, position = model.encoder.layers[0], tokens, grid.position  # x, position: (2, 64, 128)
heads = layer.self_attention.heads

def split(x):
    """(B, N, d) -> (B, heads, N, d / heads)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)

with torch.no_grad():
    q = split(layer.self_attention.query(x + position))  # (2, 8, 64, 16)
    k = split(layer.self_attention.key(x + position))  # (2, 8, 64, 16)
    v = split(layer.self_attention.value(x))  # (2, 8, 64, 16), no position
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)  # (2, 8, 64, 64)
    merged = (weights @ v).transpose(1, 2).flatten(2)  # (2, 64, 128)
    update = layer.self_attention.output(merged)  # (2, 64, 128)
print("weights", tuple(weights.shape), "= images, heads, tokens that ask, tokens that are asked")

# %% [markdown]
# Why not to the values? Queries and keys decide **who is found**, and for that, places matter. Values are **what is
# collected**: colours, shapes, parts. With positions in them, a token would collect a mixture of addresses.
#
# So do tokens not know where they are? They could still come to know it: a token that looked to its left has collected
# what is on its left, so its content may tell where it stands. Section 9 measures whether it does.
#
# It also means that positions are only lent: they are never added to what a token keeps. So DETR adds them again *in
# every layer*, where the first Transformer added them once, at the input.
#
# **Add, then normalise.** A LayerNorm takes each token by itself. It moves its 128 numbers to mean 0 and spread 1, then
# applies a learned scale and shift.

# %%
def normalise(x, norm):
    """LayerNorm by hand: (B, N, d) -> (B, N, d), each token on its own."""
    mean, variance = x.mean(dim=-1, keepdim=True), x.var(dim=-1, keepdim=True, correction=0)  # (B, N, 1)
    return (x - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias

row = torch.tensor([[[2.0, 4.0, 6.0, 8.0]]])  # one token of four numbers
print("LayerNorm of 2, 4, 6, 8:", normalise(row, torch.nn.LayerNorm(4)).detach().flatten())

with torch.no_grad():
    x = normalise(x + update, layer.norm1)  # (2, 64, 128): the norm comes after the sum
print("the tokens now:", tuple(x.shape))

# %% [markdown]
# The norm comes *after* the sum. That is called **post-norm**, and it is DETR's. (Many newer models normalise before each
# part instead, pre-norm.)
#
# **Part two: the feed-forward part.** Two linear layers with a ReLU between them, four times as wide inside (in DETR-R50
# eight times). It is applied to each token alone: here nobody talks.

# %%
feed = layer.feed_forward
with torch.no_grad():
    wide = feed.linear1(x).relu()  # (2, 64, 512)
    x = normalise(x + feed.linear2(wide), feed.norm)  # (2, 64, 128)
    attended = model.encoder.encoder_attend(layer, tokens, grid)  # (2, 64, 128), the package's part one
    theirs = layer(tokens, attended)  # (2, 64, 128), the package's layer
print("wide", tuple(wide.shape), "  out", tuple(x.shape))
print("our update equals the package's: ", torch.allclose(update, attended, atol=1e-5))
print("our layer equals EncoderLayer:   ", torch.allclose(x, theirs, atol=1e-5))

# %% [markdown]
# The package's `encoder_attend` is one of its named *seams*: a variant that wants to attend differently replaces this
# one method. Notebook 11 does.
#
# ## 7. A stack of them
#
# An encoder is layers, one after another. DETR-R50 has six, ours has two. No norm comes at the end.

# %%
with torch.no_grad():
    memory = tokens
    for layer in model.encoder.layers:
        attended = layer.self_attention(memory, memory, memory, grid.position, grid.position)  # (2, 64, 128)
        memory = layer(memory, attended)  # (2, 64, 128)
    theirs = model.encoder(tokens, grid)
print("memory", tuple(memory.shape), " equal to dm.Encoder's:", torch.allclose(memory, theirs, atol=1e-5))

# %% [markdown]
# What comes out has the shape of what went in: one token per place. In between, every token has heard from all others,
# twice.
#
# ## 8. Did they talk?
#
# Back to the two cats. We paint over the lower one again, and now we watch the *memory*.

# %%
moved_now = change(memory)
print(f"change of the upper cat's token: backbone {moved[2, 6]:.2f}, memory {moved_now[2, 6]:.2f}")
print("tokens that did not change: backbone",
      int((moved < 1e-5).sum()), "  memory", int((moved_now < 1e-5).sum()))
show(looks(image, [moved, moved_now], ["change of the tokens", "change of the memory"]),
     alt="The scene, then two maps of change. For the tokens only the surroundings of the painted cat glow. "
         "The memory glows most at the painted cat, and faintly everywhere.")

# %%
predict("05.count",
        "A backbone token could tell about a third of the number of things. And a token of the memory?",
        "no more: it still sits at one place", "somewhat more", "most of it")

# %%
told = score(after, things, after_test, things_test)
print(f"how many things? a token of the backbone scores {blind:.2f}, a token of the memory {told:.2f}")
reveal("05.count", "c" if told > 0.6 else "b" if told > blind + 0.1 else "a",
       "Any place can now tell, even empty ground.")

# %% [markdown]
# Nobody asked the encoder to count. Is it what training taught it? There is a simple test: encoders that never learned.
# The same backbone with random weights behind it, drawn three times.

# %%
def fresh(seed):
    """DETR before its first training step, with the random weights of a seed."""
    torch.manual_seed(seed)
    return dm.build("detr").eval()

def look_with(detector, dataset, count):
    """As `look`, with the encoder of another detector: its memory, (S, 64, d)."""
    parts = (collate([prepare(*dataset[i]) for i in range(at, at + 50)]) for at in range(0, count, 50))
    with torch.no_grad():
        return torch.cat([detector.encoder(*detector.tokenize(part.images, part.mask)) for part in parts])

untrained = [fresh(seed) for seed in range(3)]
mixed_only = [score(look_with(one, train_set, 600), things, look_with(one, held_out, 200), things_test)
              for one in untrained]
print("after three untrained encoders:", [round(found, 2) for found in mixed_only])
assert min(mixed_only) > 0.6

# %% [markdown]
# Just as good! So counting proves that places are *connected*, and nothing about learning. It is section 2 again: with
# random weights everybody looks at everybody alike, and that is all it takes to count.
#
# Then what does training add? Two things can be measured: tokens come to know **where they are** (section 9), and **whom
# to listen to** (section 10).
#
# ## 9. Where am I?
#
# A detector must say *where* things are. But positions are only lent to queries and keys; they are never added to what a
# token keeps. Does a token of the memory know its own place all the same?
#
# We ask as before: a linear formula has to read it off one token, this time its **row** and its **column**. The formula
# is fitted on 200 held-out scenes (by *ridge regression*: least squares with a small penalty on large weights), and
# judged on 200 others. The score is R²: 0 for always naming the middle of the picture, 1 for perfect.

# %%
predict("05.where", "First a token of the backbone, which was told of no position. How well does it know its place?",
        "not at all: a convolution does the same everywhere", "about half", "nearly perfectly")

# %%
from detr_mini.course.where_am_i import Reader

reader = Reader(held_out, recipe.data)
read = {"trained": reader.look(model)} | {f"untrained, seed {n}": reader.look(one) for n, one in enumerate(untrained)}
print("R² of row, column        backbone        after the encoder")
for name, found in read.items():
    print(f"{name:18}       {found['tokens'][0]:.2f}, {found['tokens'][1]:.2f}      "
          f"{found['memory'][0]:.2f}, {found['memory'][1]:.2f}")
backbone = sum(read["trained"]["tokens"]) / 2
reveal("05.where", "a" if backbone < 0.1 else "b" if backbone < 0.8 else "c",
       "It knows something: at the border a convolution sees the zeros beside the picture.")

# %% [markdown]
# Two surprises. The backbone knows its place by half, though nobody told it. A convolution does the same everywhere
# *except at the border*: there it sees the zeros beside the picture, and each further layer carries that inwards. (Islam
# and colleagues found this in 2020. We check it below, with pictures of pure noise, in which nothing but the border
# can tell.) And the **trained encoder** makes nearly perfect knowledge of it, which untrained ones do not.
#
# Let us draw where tokens *believe* they are. Each dot is one token in one scene, darker the further right it truly stands.
# The net joins the means of neighbouring places. If all tokens knew their places, it would lie on the pale grid.

# %%
from detr_mini.course.where_plots import nets

seen, places = reader.collect(model)  # tokens and memory (400, 64, 128), places (64, 2)
blank = reader.collect(untrained[0])[0]["memory"]  # (400, 64, 128)
said = {title: reader.said(some, places) for title, some in (  # (200, 64, 2) each
    ("backbone", seen["tokens"]), ("untrained encoder", blank), ("trained encoder", seen["memory"]))}
show(nets(said, side=8), alt="Three nets of 8 by 8 knots over a pale square grid, with many small dots. Backbone and "
     "untrained encoder: the nets are crumpled, the middle rows and columns fall together, and dots are everywhere. "
     "Trained encoder: the net fills the grid, nearly square.")
off = {title: (answers.mean(dim=0) - places).norm(dim=1).mean().item() for title, answers in said.items()}
print({title: f"{7 * far:.1f} cells off, on average" for title, far in off.items()})
assert off["trained encoder"] < 0.4 * min(off["backbone"], off["untrained encoder"])

# %% [markdown]
# At the border the backbone knows its way, but in the middle, all places look alike to it. After the trained encoder each
# place knows where it is.
#
# **Where does it know this from?** Positions decide who looks where, and so what is collected. If that is the way, then
# the knowledge must go when the positions go. So we set them to zero, in the encoder alone, and change no weight.

# %%
import copy
from dataclasses import replace
from detr_mini.course.where_am_i import NoCodeEncoder

noisy = copy.copy(reader)
noisy.batch = replace(reader.batch, images=torch.randn(400, 3, 128, 128))
silent = copy.deepcopy(model)
silent.encoder.__class__ = NoCodeEncoder  # the same weights; adds zeros instead of positions
pieces = {"backbone, on noise": noisy.look(model)["tokens"], "memory": read["trained"]["memory"],
          "memory, positions set to 0": read["trained"]["silenced"]}
for name, (row, column) in pieces.items():
    print(f"{name:27} row {row:.2f}, column {column:.2f}")
for name, detector in (("as trained", model), ("positions set to 0", silent)):
    print(f"{name:27} AP50 {dm.evaluate(detector, held_out, recipe.data, batch_size=50).ap50:.2f}")

# %% [markdown]
# Without positions the memory knows no more than the backbone did. So the knowledge does come from the positions, although
# none was ever added to it: **position gets into content through attention**. And this detector relies on it, or on
# something else that positions do in its encoder: without them it finds hardly anything.
#
# It is tempting to stop here and to write: *the encoder is there to tell tokens where they are*. But switching a thing off
# in a network that has learned to count on it shows only that it counts on it. The fair control is a DETR that
# **never had positions in its encoder**, from the first training step on. (Its decoder has them, in the keys.) Three seeds
# each, 1,500 steps:

# %%
from detr_mini.course.where_am_i import FORMS, recorded
from detr_mini.course.where_plots import two_forms

memory, ap50 = ([recorded(form, name) for form in FORMS] for name in ("memory", "ap50"))
show(two_forms(memory, ap50, ["positions in the encoder", "never any"], level=backbone),
     alt="Two pictures against the training step, three seeds of each. Left, R² of the memory: with positions it "
         "rises from 0.5 to above 0.9 by step 1,000; without, it stays near the level of the backbone. Right, AP50: "
         "the lines of both kinds rise together and cross.")
for name, known, found in zip(FORMS, memory, ap50):
    print(f"{name:8} R² at 1,500: {[round(sum(pair) / 2, 2) for pair in known[1500]]}", end="   ")
    print(", ".join(f"AP50 at {step:,}: {[round(value, 2) for value in found[step]]}" for step in (1000, 1500)))
assert all(min(ap50[0][step]) < max(ap50[1][step]) for step in (500, 1000, 1500))  # the bands overlap, everywhere

# %% [markdown]
# Without positions in its encoder, the memory does not learn its place, as expected. But the detector **gets along**: its
# AP50 is lower by a few hundredths on average, and the seeds overlap at every step at which we measured. So these
# runs cannot tell the two kinds apart. On COCO, with far more training, the authors lost 1.3 of 40.6 AP in this way, and
# call it surprising (table 3 of the paper). The decoder still knows where to look, because its keys have positions.
#
# So this is what we can say. Training does teach the encoder where each place is. But the detector does not stand or
# fall with it: that training makes something of a part does not show that the part is *for* that. (How boxes come out
# right when a token knows its place only by half, we have not measured. A straight line finds half; the decoder and its
# box head are no straight lines, and may find more.)
#
# ## 10. Who looks at whom?
#
# An `AttentionTrace` keeps the weights of the very pass. Four places in one scene, the second layer, the mean of all
# heads:

# %%
with torch.no_grad(), dm.AttentionTrace(model) as trace:
    model(pair.images[:1], pair.mask[:1])
maps = trace.maps("encoder.layers.1.self_attention")[0].mean(dim=0)  # (64, 8, 8)

spots = {"upper cat": (6, 2), "large boat": (5, 5), "small boat": (2, 1), "ground": (3, 3)}  # column, row
cells = [row * 8 + column for column, row in spots.values()]
dots = [(16 * column + 8, 16 * row + 8) for column, row in spots.values()]
show(looks(image, maps[cells], list(spots), dots=dots),
     alt="A scene with four dots, and four attention maps. The upper cat looks at itself and, less, at the "
         "lower cat. The boats look at themselves, at each other and at other things. The ground looks "
         "around itself and at a cat.")
upper = maps[cells[0]]  # (8, 8) where the upper cat looks; 1/64 would be even
assert upper[1:4, 5:8].mean() > upper[5:7, 1:3].mean() > 1 / 64  # most at itself, then at the lower cat

# %% [markdown]
# It looks as if places on things looked at things, the upper cat most of all at itself. A nice picture proves nothing, so let
# us count, over 150 held-out scenes. For each thing: how much attention do its places give to that same thing, and how
# much would they give it if they looked at everything alike? The second number is simply its part of all places.

# %%
from detr_mini.course.token_explorer import inside

batch = collate([prepare(*held_out[i]) for i in range(150)])
with torch.no_grad(), dm.AttentionTrace(model) as trace:
    model(batch.images, batch.mask)

def own_share(trace, layer):
    """Attention from each thing's places to itself, and the thing's part of all places: (things,) each."""
    weights = trace[f"encoder.layers.{layer}.self_attention"].weights.mean(dim=1)  # (150, 64, 64)
    given, area = [], []
    for image, target in enumerate(batch.targets):
        for covers in inside(target["boxes"], 8, 8):  # (64,) bool
            if covers.any():
                given.append(weights[image][covers][:, covers].sum(dim=-1).mean())
                area.append(covers.float().mean())
    return torch.stack(given), torch.stack(area)

# %%
with torch.no_grad(), dm.AttentionTrace(untrained[0]) as trace_untrained:
    untrained[0](batch.images, batch.mask)

for name, which in (("untrained", trace_untrained), ("trained", trace)):
    for layer in (0, 1):
        given, area = own_share(which, layer)
        print(f"{name:9} layer {layer + 1}: {len(given)} things; to itself {given.mean():.3f}, its area "
              f"{area.mean():.3f}, {given.mean() / area.mean():.1f} times as much")
print("more than its area, in the trained second layer: over 95% of the things:",
      bool((given > area).float().mean() > 0.95))

# %% [markdown]
# Untrained, a thing gets what its area would give it. Trained, the second layer gives it about twice that. But is it
# because it is *the same thing*, or only because it is *near*? Places of one thing are neighbours. A fair comparison
# holds the distance fixed: from the same place, other places equally far, some on the thing and some not.

# %%
row, column = torch.arange(64) // 8, torch.arange(64) % 8
apart = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2  # (64, 64) squared distance, in cells

def at_equal_distance(layer):
    """Mean weight, times 64, of equally far places on the same thing and off it: two numbers; 1 is even."""
    weights = trace[f"encoder.layers.{layer}.self_attention"].weights.mean(dim=1)  # (150, 64, 64)
    on, off = [], []
    for image, target in enumerate(batch.targets):
        for covers in inside(target["boxes"], 8, 8):
            for place, far in ((place, far) for place in covers.nonzero().flatten() for far in (1, 2, 4, 5)):
                ring, w = apart[place] == far, weights[image, place]
                if (ring & covers).any() and (ring & ~covers).any():
                    on.append(w[ring & covers].mean())
                    off.append(w[ring & ~covers].mean())
    return 64 * torch.stack(on).mean().item(), 64 * torch.stack(off).mean().item()

# %%
for layer in (0, 1):
    on, off = at_equal_distance(layer)
    print(f"layer {layer + 1}: on the same thing {on:.1f}, off it at the same distance {off:.1f} (even "
          "attention: 1)")

# %% [markdown]
# Both are true. Near places get more than far ones, and in the second layer places on the same thing get clearly more
# than their equals off it. In the first layer there is hardly a difference: it looks at what is near. The paper's
# figure 3 shows such maps on COCO, where things come apart more sharply.
#
# ## 11. Do without it?
#
# We cut the encoder out of the trained detector, one layer at a time. Nothing is trained anew. AP50 says how many things
# it finds, and how cleanly (notebook 04): 1 is perfect.

# %%
def cut(model, layers):
    """The same detector with only its first encoder layers."""
    shorter = copy.deepcopy(model)
    shorter.encoder.layers = shorter.encoder.layers[:layers]
    return shorter

found = {layers: dm.evaluate(cut(model, layers), held_out, recipe.data, batch_size=50).ap50
         for layers in (2, 1, 0)}
for layers, ap50 in found.items():
    print(f"{layers} encoder layers: AP50 {ap50:.2f}")

# %% [markdown]
# Read this with care. The decoder was trained on the memory of two layers. Give it anything else and it is lost: that
# alone costs much. So the figure says that this detector relies on its encoder, not how good a detector
# without one could be. For that one has to train it without. The authors did: without encoder, DETR loses 3.9 AP on COCO,
# and 6.0 on large objects (table 2 of the paper).
#
# ## 12. What it costs
#
# Everybody looks at everybody, so the attention map is tokens times tokens. Count the multiplications of one layer, for
# N tokens of width d:
#
# - four projections: 4 N d²
# - scores and average: 2 N² d
# - feed-forward part, h wide: 2 N d h

# %%
def multiplications(tokens, d=256, hidden=2048):
    """Of one encoder layer: projections, attention proper, feed-forward part."""
    return 4 * tokens * d**2, 2 * tokens**2 * d, 2 * tokens * d * hidden

print("an image of 800 x 1,066 pixels, one layer of DETR-R50, in thousand millions:")
for stride in (32, 16, 8):
    n = -(-800 // stride) * -(-1066 // stride)  # rounded up
    projections, attention, feed_forward = (count / 1e9 for count in multiplications(n))
    gigabytes = 8 * n * n * 4 / 1e9  # eight heads, four bytes
    print(f"stride {stride:2}: {n:6,} tokens   projections {projections:4.1f}   attention {attention:5.1f}   "
          f"feed-forward {feed_forward:4.1f}   the maps alone: {gigabytes:.2f} x 10⁹ bytes")

# %% [markdown]
# We can have PyTorch count, on a real layer. (It counts an addition and a multiplication as two.)

# %%
from torch.utils.flop_counter import FlopCounterMode
from detr_mini.positions import Grid

n = 300
random = torch.randn(1, n, 256)
where = Grid(random, torch.zeros(1, n, dtype=torch.bool), [(15, 20)])
layer = paper.encoder.layers[0]
with torch.no_grad(), FlopCounterMode(display=False) as counter, dm.AttentionTrace(paper):
    layer(random, paper.encoder.encoder_attend(layer, random, where))
print("we count", sum(multiplications(n)), " PyTorch counts", counter.get_total_flops() // 2)
assert sum(multiplications(n)) == counter.get_total_flops() // 2

# %%
counts = [round(10 ** (power / 8)) for power in range(14, 35)]
parts = torch.tensor([multiplications(n) for n in counts]).T / 1e9  # (3, 21)
figure = plots.curves(dict(zip(("projections", "attention", "feed-forward"), parts)), counts, log_x=True,
                      xlabel="tokens", ylabel="thousand million multiplications")
figure.axes[0].set_yscale("log")
for n, name in ((850, "stride 32"), (3350, "16"), (13400, "8")):
    figure.axes[0].axvline(n, color=plots.GREY, linewidth=0.8, linestyle="--")
    figure.axes[0].text(n, parts.min(), f" {name}", color=plots.GREY, va="bottom")
show(figure, alt="Multiplications of an encoder layer against tokens, both axes logarithmic. Projections and "
                 "feed-forward part rise in step with the tokens. Attention rises twice as steeply and "
                 "passes both by stride 16.")
assert torch.isclose(parts[1, -1] / parts[1, 0], (parts[0, -1] / parts[0, 0]) ** 2)  # twice as steep
assert parts[:, 0].argmin() == 1 == parts[:, -1].argmax()  # for few tokens the cheapest part, for many the dearest

# %% [markdown]
# Half the stride, four times the tokens, sixteen times the attention. Small things need fine maps, and fine maps are what
# DETR cannot afford. Remember this when you meet Deformable DETR (notebook 11).
#
# ## 13. Explore
#
# Move the sliders, with the mouse or with Tab and the arrow keys. Find out:
#
# 1. Does the ground look at things, or at ground?
# 2. Layer 1, heads 3 and 5, from places away from the border: one of them looks upwards most of the time, the other one
#    has no favourite direction. Which is which?
# 3. In which layer does a thing look more at itself?

# %%
from detr_mini.course.token_explorer import Place, TokenExplorer, watch

TokenExplorer(watch(model, held_out, [16, 0, 5, 7, 13, 20], recipe.data), Place(row=2, column=6, layer=1))

# %% [markdown]
# ## 14. Exercises
#
# Fill in a cell, run it, then run the check below it. For a hint: `dm.hint("05.padding")` in a new cell, with the
# exercise's name.
#
# ### A map becomes tokens (`05.tokens`)
#
# *Warm-up, 6 minutes.* From a feature map (B, C, h, w) to tokens (B, hw, C), row after row.

# %% tags=["exercise"]
def tokens_of(maps):
    """maps (B, C, h, w) -> (B, hw, C)."""
    return None  # your lines

# %% tags=["solution"]
def tokens_of(maps):
    """maps (B, C, h, w) -> (B, hw, C)."""
    return maps.flatten(2).transpose(1, 2)  # (B, C, hw) -> (B, hw, C)

# %%
check("05.tokens", tokens_of)

# %% [markdown]
# ### Which cells are padding? (`05.padding`)
#
# *Core, 12 minutes.* The pictures of a batch have different sizes, and all are padded to `height` x `width` pixels, at
# the right and at the bottom. Which tokens are padding? A cell is when its upper left pixel is.

# %% tags=["exercise"]
def padding(sizes, height, width, stride):
    """sizes (B, 2): height, width in pixels -> (B, height / stride, width / stride) bool, True on padding."""
    return None  # your lines

# %% tags=["solution"]
def padding(sizes, height, width, stride):
    """sizes (B, 2): height, width in pixels -> (B, height / stride, width / stride) bool, True on padding."""
    down = torch.arange(0, height, stride)[:, None]  # (h, 1): the first pixel row of each cell
    across = torch.arange(0, width, stride)  # (w,)
    tall, wide = sizes[:, 0, None, None], sizes[:, 1, None, None]  # (B, 1, 1) each
    return (down >= tall) | (across >= wide)  # (B, h, w)

# %%
check("05.padding", padding)

# %% [markdown]
# ### The layer, from its parts (`05.layer`)
#
# *Core, 12 minutes.* You get the parts as functions: `attend(query, key, value)`, `norm1`, `feed_forward`, `norm2`. Put
# them together as DETR does.

# %% tags=["exercise"]
def encoder_layer(x, position, attend, norm1, feed_forward, norm2):
    """x (B, N, d), position (B, N, d) -> (B, N, d)."""
    return None  # your lines

# %% tags=["solution"]
def encoder_layer(x, position, attend, norm1, feed_forward, norm2):
    """x (B, N, d), position (B, N, d) -> (B, N, d)."""
    x = norm1(x + attend(x + position, x + position, x))
    return norm2(x + feed_forward(x))

# %%
check("05.layer", encoder_layer)

# %% [markdown]
# ### How much a thing looks at itself (`05.share`)
#
# *Stretch, 15 minutes.* Section 10 for a single thing. By which factor do the places inside it look more at the thing
# than even attention would? Take the mean over heads and over these places.

# %% tags=["exercise"]
def share(weights, inside):
    """weights (heads, N, N), rows ask; inside (N,) bool, its places -> a number, 1 for even attention."""
    return None  # your lines

# %% tags=["solution"]
def share(weights, inside):
    """weights (heads, N, N), rows ask; inside (N,) bool, its places -> a number, 1 for even attention."""
    own = weights[:, inside][..., inside].sum(dim=-1)  # (heads, n): what each of them gives to all of them
    return own.mean() / inside.float().mean()

# %%
check("05.share", share)

# %% [markdown]
# ## 15. Limits, and errata
#
# - **Ours is small.** Two layers and 64 tokens, where DETR-R50 has six and about 850. Our window is two thirds as
#   wide as the picture, so the backbone alone sees many things whole. That makes the encoder's task easier than on
#   COCO.
# - **A box is not a shape.** We counted places in a box, corners of ground included. So the true preference for the own
#   thing is likely to be larger than our figure.
# - **Attention is not explanation.** That a place looks at a thing does not say what it takes from it. Section 8 tests
#   what arrives; maps do not.
# - **A linear reading is a lower bound.** A token may know more than a linear formula finds in it. In section 9 that holds
#   for the backbone above all; and that something can be read off a token does not mean that anybody reads it.
# - **Padding still leaks.** The backbone's convolutions see the zeros beside a picture. So in DETR an image alone and
#   the same image in a padded batch give slightly different answers.
# - **Paper and code.** The paper's text has the fixed positions added at every attention layer, and so has the code;
#   diagrams that show them added once, at the bottom, follow the first Transformer. The code can also normalise before
#   each part; then, and only then, the encoder ends with a norm.
#
# ## Recap
#
# - (b, 2048, h, w) → 1x1 convolution → (b, 256, h, w) → (b, hw, 256): a token per place.
# - A CNN's token sees a window. Behind self-attention it depends on the whole picture.
# - A layer: norm(x + attention), then norm(x + feed-forward). Positions go to q and k, in every layer, never to v.
# - The mask shrinks with the map, and hides padded tokens.
# - After training a token of the memory tells its row and column (R² above 0.9 here), before it by half. It comes from the
#   positions in q and k. But a DETR trained without them in its encoder finds about as much, here and on COCO.
# - Attention costs tokens squared.

# %%
quiz("05")

# %% [markdown]
# **Next:** [06, decoder and queries](06_decoder_and_queries.ipynb): who asks the memory.
#
# **References**
#
# - N. Carion et al., *End-to-End Object Detection with Transformers*, 2020. Section 3.2 for the encoder, figure 3 for its
#   attention, table 2 for detectors trained with fewer encoder layers, table 3 for positions left out.
# - A. Vaswani et al., *Attention Is All You Need*, 2017. Section 3.1: the layer, with its residuals and norms.
# - M. A. Islam, S. Jia, N. D. B. Bruce, *How Much Position Information Do Convolutional Neural Networks Encode?*, 2020.
# - J. L. Ba, J. R. Kiros, G. E. Hinton, *Layer Normalization*, 2016.
# - K. He et al., *Deep Residual Learning for Image Recognition*, 2016: ResNet-50.

# %% [markdown]
# # 02 · Self- and cross-attention
#
# **Where do queries, keys and values come from?**
#
# *About 75 minutes with the exercises; the cells themselves run in seconds, without a GPU.*
# *You need notebook 01: score, weigh, average.*
#
# After this notebook you can
#
# - write q = W_q a, k = W_k b, v = W_v b, with the shape of everything;
# - say what self-attention and cross-attention share, and what differs: one letter;
# - show what is lost when two of the three projections are one;
# - split attention into heads and put it together again, and mask a padded batch;
# - write the attention module of a detector, and prove that it is PyTorch's.

# %%
import detr_mini as dm
from detr_mini.course.notebook import AttentionByHand, check, plots, predict, quiz, reveal, show
from detr_mini.course.notebook import where_we_are

dm.setup(seed=0)
where_we_are("self_and_cross_attention")

# %% [markdown]
# ## Where we are
#
# The encoder and the decoder are lit. In the encoder, places of the picture ask each other: that is **self-attention**.
# In the decoder, object queries ask the picture: that is **cross-attention**. Both are the formula of notebook 01. What
# is new is where its three inputs come from.
#
# ## 1. One token, three jobs
#
# In notebook 01 we wrote queries, keys and values by hand, as three different things. A network has no such luxury. It
# has **tokens**: one vector for each thing, and all that is known about the thing is in there.
#
# Four friends play rock, paper, scissors. Each is a token of three numbers: two for the hand, one for the coins in the
# pocket. Rock is (1, 0), paper is (0, 1), scissors is (-1, -1).

# %%
import math

import torch

torch.set_num_threads(1)  # all here is small: a second thread would only wait for the first

friends = ["Ada, rock", "Ben, paper", "Cleo, scissors", "Dan, paper"]
x = torch.tensor([[1.0, 0.0, 3.0],
                  [0.0, 1.0, 9.0],
                  [-1.0, -1.0, 4.0],
                  [0.0, 1.0, 5.0]])  # (4, 3): hand, hand, coins

for name, token in zip(friends, x.tolist()):
    print(f"{name:15} token {token}")

# %% [markdown]
# Each friend wonders: **how many coins has the one whom I beat?** Rock beats scissors, so Ada should look at Cleo and
# find 4. Ben and Dan should look at Ada, and find 3.
#
# Let us try what is at hand: every token is its own query, its own key and its own value.

# %%
predict("02.plain", "q = k = v = x. Whom does Ada look at?",
        "Cleo, whom she beats", "herself", "Ben, who is rich")

# %%
def attention(q, k, v):
    """q (Q, d), k (K, d), v (K, n) -> weights (Q, K), answers (Q, n): all of notebook 01."""
    weights = (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1)  # (Q, K)
    return weights, weights @ v

plain, answers = attention(x, x, x)  # (4, 4), (4, 3)
print("Ada's scores: ", (x[0] @ x.T).tolist())
print("Ada's weights:", plain[0].numpy())
print("answers\n", answers.numpy())
reveal("02.plain", {2: "a", 0: "b", 1: "c"}[plain[0].argmax().item()],
       "Her coins times Ben's coins is 27. Hands hardly count beside that.")

# %% [markdown]
# Everybody stares at Ben. Only Cleo beats him, and the answer is Ben's whole token. Three jobs were mixed up
# in one vector:
#
# - as a **query**, Ada should say *scissors*: what she looks for, and not what she is;
# - as a **key**, she should say *rock*: her hand, and not her coins;
# - as a **value**, she should say *3*: her coins, and not her hand.
#
# ## 2. Three projections
#
# So let each job read the token in its own way. Reading is a matrix. We write the three of them by hand.

# %%
W_k = torch.tensor([[1.0, 0.0, 0.0],
                    [0.0, 1.0, 0.0]])  # (2, 3): keep the hand
W_v = torch.tensor([[0.0, 0.0, 1.0]])  # (1, 3): keep the coins
W_q = torch.tensor([[-1.0, 1.0, 0.0],
                    [-1.0, 0.0, 0.0]])  # (2, 3): turn a hand into the one it beats

for name, token in zip(friends[:3], x):
    print(f"{name:15} asks for {(W_q @ token).tolist()}")

# %% [markdown]
# Check the first line with a pencil: Ada is (1, 0, 3). The first row gives -1 · 1 + 1 · 0 + 0 · 3 = -1, the second one
# gives -1. And (-1, -1) is the hand of scissors. So rock asks for scissors, paper for rock, scissors for paper.
#
# Such a matrix is called a **projection**. For all tokens at once, rows times the transposed matrix. PyTorch's `Linear`
# does the same, and stores its matrix in the same way.

# %%
q = x @ W_q.T  # (4, 3) @ (3, 2) -> (4, 2)
k = x @ W_k.T  # (4, 2)
v = x @ W_v.T  # (4, 1)

linear = torch.nn.Linear(3, 2, bias=False)  # from 3 numbers to 2
linear.weight.data = W_q
print("same as Linear:", torch.equal(linear(x), q))
print("scores, before dividing by √2\n", (q @ k.T).numpy())

# %% [markdown]
# Every row has its largest score at a friend that this one beats. The gaps are small, though. Notebook 01 knows the
# cure: a longer query asks more sharply. Ten times as long will do.

# %%
weights, found = attention(10 * q, k, v)  # (4, 4), (4, 1)
for name, coins in zip(friends, found[:, 0].tolist()):
    print(f"{name:15} found {coins:.2f} coins")

figure, (left, right) = plots.canvas(2, height=2.9)
short = [name.split(",")[0] for name in friends]
plots.matrix(plain, short, short, title="q = k = v = x", top=1.0, row_name="asks", axes=left)
plots.matrix(weights, short, short, title="with three projections", top=1.0, axes=right)
show(figure, alt="""Two attention maps of four friends. Without projections, all four rows have weight 1.00
     on Ben. With projections, Ada looks at Cleo, Ben and Dan look at Ada, and Cleo looks half at Ben,
     half at Dan.""")
assert plain[:, 1].min() > 0.95  # without projections, everybody stares at Ben
assert weights[[0, 1, 3], [2, 0, 0]].min() > 0.95 and weights[2, [1, 3]].min() > 0.45  # with them, at whom they beat

# %% [markdown]
# Ada found 4 and Ben found 3. Cleo beats two friends, with 9 and 5 coins, and found their average. The tokens are still
# the same. Only the way to read them has changed:
#
# > **q = W_q x,  k = W_k x,  v = W_v x**
#
# In a network, nobody writes these matrices. They are what is learned.
#
# ## 3. Three projections that share nothing
#
# Are three matrices necessary? One could save a third of the memory with W_q = W_k. Look at what happens to the scores
# then: Ada's score for Ben is q of Ada times k of Ben. With one matrix for both, that is the same as Ben's for Ada.

# %%
torch.manual_seed(0)
W, U = torch.randn(2, 3), torch.randn(2, 3)

shared = (x @ W.T) @ (x @ W.T).T  # (4, 4)
apart = (x @ U.T) @ (x @ W.T).T  # (4, 4)
print("one matrix:   scores are symmetric:", torch.allclose(shared, shared.T, atol=1e-4))
print("two matrices: scores are symmetric:", torch.allclose(apart, apart.T, atol=1e-4))
print("one matrix:   weights are symmetric:",
      torch.allclose(shared.softmax(-1), shared.softmax(-1).T, atol=1e-4))

# %% [markdown]
# (The scores are symmetric. The weights need not be, since the softmax divides each row by a sum of its own.)
#
# Now our game. Write *r:s* for the score of rock looking at scissors. Rock wants r:s above r:p, scissors wants s:p
# above s:r, paper wants p:r above p:s. With symmetric scores, r:p is p:r, and so on:
#
# > r:s > r:p = p:r > p:s = s:p > s:r = r:s
#
# So r:s would be larger than itself. **No** shared matrix plays this game, however long it is trained.
#
# There is a second loss. With one matrix, a token's score for itself is the square of a length. Predict: can two tokens
# both prefer each other to themselves?

# %%
predict("02.mutual", "W_q = W_k, drawn at random 1,000 times. How often do two random tokens both score "
        "each other above themselves?", "in about a quarter of the draws", "now and then", "never")

# %%
def mutual(W_q, W_k, tokens):
    """In how many draws do both tokens score the other one above themselves? tokens (1000, 2, 8)."""
    scores = (tokens @ W_q.mT) @ (tokens @ W_k.mT).mT  # (1000, 2, 2)
    return int(((scores[:, 0, 1] > scores[:, 0, 0]) & (scores[:, 1, 0] > scores[:, 1, 1])).sum())

torch.manual_seed(0)
tokens, W, U = torch.randn(1000, 2, 8), torch.randn(1000, 8, 8), torch.randn(1000, 8, 8)
print("two matrices:", mutual(U, W, tokens), "of 1000")
print("one matrix:  ", mutual(W, W, tokens), "of 1000")
reveal("02.mutual", "c" if mutual(W, W, tokens) == 0 else "b" if mutual(W, W, tokens) < 150 else "a",
       "Call the two a and b. Then Wa·Wb > |Wa|² and Wa·Wb > |Wb|². Add: 0 > |Wa|² + |Wb|² - 2 Wa·Wb. "
       "But that is |Wa - Wb|², and a square is never negative.")

# %% [markdown]
# With one matrix for both, one cannot ask freely for something unlike oneself. A left and a right edge could not both
# prefer each other to themselves.
#
# And W_k = W_v? A key is for being found, a value for being taken. If they are one, the same few numbers must hold the
# hand *and* the coins. We let a network learn the game in five ways: nothing shared, then each saving. Three friends,
# coins drawn anew at each step, width 2.

# %%
hands = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)  # rock, paper, scissors
beaten = [2, 0, 1]  # rock beats scissors, ...

def play(rounds):
    """Tokens (rounds, 3, 3), and the coins of the one each beats (rounds, 3, 1)."""
    coins = 2 * torch.rand(rounds, 3, 1, dtype=torch.float64) - 1  # -1 is a debt
    return torch.cat([hands.expand(rounds, 3, 2), coins], dim=-1), coins[:, beaten]

# %%
def learn(one_matrix_for, seed):
    """Train W_q, W_k, W_v and a read-out for 150 steps; returns the mean squared error at the end."""
    torch.manual_seed(seed)
    new = {name: torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for name in "qkv"}
    W = {name: new[one_matrix_for[0]] if name in one_matrix_for else new[name] for name in "qkv"}
    read = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([*new.values(), read], lr=0.1)
    for _ in range(150):
        tokens, truth = play(64)  # (64, 3, 3), (64, 3, 1)
        q, k, v = (tokens @ W[name].T for name in "qkv")  # (64, 3, 2) each
        answer = (q @ k.mT / math.sqrt(2)).softmax(dim=-1) @ v @ read.T  # (64, 3, 1)
        loss = ((answer - truth) ** 2).mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    return loss.item()

# %%
savings = {"nothing shared": "", "W_q = W_v": "qv",
           "W_k = W_v": "kv", "W_q = W_k": "qk", "all three one": "qkv"}
errors = {name: sorted(learn(one, seed) for seed in range(9)) for name, one in savings.items()}

for name, nine in errors.items():
    print(f"{name:15} error, nine seeds: {nine[0]:.3f} to {nine[-1]:.3f}, the middle one {nine[4]:.3f}")
middle = [nine[4] for nine in errors.values()]
assert middle == sorted(middle)  # each line is worse than the one above
assert errors["nothing shared"][4] < errors["W_k = W_v"][0] and errors["W_k = W_v"][-1] < errors["W_q = W_k"][0]

# %% [markdown]
# Read the middle ones first, because now and then a bad start spoils a training, with three matrices, too. (Always
# saying 0 has an error of 0.333.) With nothing shared the middle training is nearly perfect. W_q = W_v does little harm
# in this game, and its band overlaps with the first. With W_k = W_v not one of nine learns the game whole, and with W_q
# = W_k every one is worse still. One matrix for everything has the largest middle error, but its band overlaps with the
# line above. Remember the reasons:
#
# | shared | what is lost |
# |---|---|
# | W_q = W_k | asking for something unlike yourself; *I look at you* without *you look at me* |
# | W_k = W_v | room: what finds you and what you give compete for the same few numbers |
#
# ## 4. Self and cross
#
# So far, the friends asked each other. But the formula never demanded that. Name the tokens that ask **a**, and the
# tokens that are asked **b**:
#
# > **q = W_q a,  k = W_k b,  v = W_v b**
#
# If a **is** b, it is self-attention. If a is something else, it is cross-attention. That is the whole difference.

# %%
def attend(a, b, W_q, W_k, W_v):
    """a (Q, d_a) asks b (K, d_b) -> weights (Q, K), answers (Q, n)."""
    q = a @ W_q.T  # (Q, d)
    k = b @ W_k.T  # (K, d)
    v = b @ W_v.T  # (K, n)
    return attention(q, k, v)

_, to_themselves = attend(x, x, 10 * W_q, W_k, W_v)  # self
print("self-attention, the same numbers as before:", torch.allclose(to_themselves, found))

# %% [markdown]
# Two children look over the fence. They show a hand and have no pockets, so their tokens have **two** numbers. They
# need a W_q of their own width. Keys and values stay as they are.

# %%
predict("02.shape", "Two children ask four friends. Each friend gives one number. The shape of the answer?",
        "(2, 1): one answer per child", "(4, 1): one answer per friend", "(2, 4): one answer per pair")

# %%
children = torch.tensor([[-1.0, -1.0], [1.0, 0.0]])  # (2, 2): scissors, rock
W_q_child = 10 * W_q[:, :2]  # (2, 2): the same question, read from two numbers

weights, answers = attend(children, x, W_q_child, W_k, W_v)  # cross
print("a", tuple(children.shape), " b", tuple(x.shape))
print("weights", tuple(weights.shape), " answers", tuple(answers.shape))
print("scissors found", round(answers[0].item(), 2), "  rock found", round(answers[1].item(), 2))
reveal("02.shape", {(2, 1): "a", (4, 1): "b", (2, 4): "c"}[tuple(answers.shape)],
       "As many answers as questions, each as wide as a value.")

# %% [markdown]
# **Who asks decides how many answers there are.** Let the friends ask the children instead, and there are four answers.
# In DETR, 100 object queries ask some 850 places (a photograph in cells of 32 pixels) and there are 100 boxes. Swap the
# two, and each place would ask the queries: 850 answers, to another question. (A widely read blog post swaps them;
# notebook 06 comes back to it.)
#
# Also note that a and b need not have the same width, nor be the same kind of thing. They only have to meet in the
# width d of q and k. W_q and W_k are translators.
#
# ## 5. Words ask a picture
#
# Now something that deserves the name. a is a **word**, one of ten: *fish, tree, house, car, ...* b is a **picture**,
# as 8 x 8 places. The small backbone of our detector, which knows single things already, describes each place with 128
# numbers. Notebook 05 looks inside; here it is just a maker of tokens.
#
# The task: *where is the car?* W_q and W_k are learned. At the start they are random, and nobody tells them what a car
# looks like. They only hear how far off the answer was. There is no W_v to learn: values are written by hand, each
# place says where it is. So the only way to a right answer is to look at the right places. (DETR learns W_v, too.)
#
# Every thing that appears once in its scene is a question. The first 100 scenes are for learning, 20 for testing.

# %%
from detr_mini import zoo
from detr_mini.data.scenes import CLASSES, Scenes
from detr_mini.data.transforms import build_transform, collate

scenes = Scenes(120, seed=0)
pictures, targets = zip(*[scenes[number] for number in range(120)])
prepare = build_transform(zoo.recipe("detr", "scenes").data, train=False)
images = collate([prepare(*pair) for pair in zip(pictures, targets)]).images  # (120, 3, 128, 128)

backbone = dm.build("detr").backbone.eval()
with torch.no_grad():
    places = backbone(images)[-1].flatten(2).mT.contiguous()  # (120, 128, 8, 8) -> (120, 64, 128)
middle = 16 * torch.arange(8) + 8.0  # pixels
spots = torch.cartesian_prod(middle, middle).flip(-1)  # (64, 2) x, y of each place
print("b, places:", tuple(places.shape), "  values, spots:", tuple(spots.shape))

# %%
questions = [(number, label, target["boxes"][row, :2] * 128)  # scene, word, centre in pixels
             for number, target in enumerate(targets) for row, label in enumerate(target["labels"].tolist())
             if (target["labels"] == label).sum() == 1]
scene = torch.tensor([question[0] for question in questions])  # (questions,)
word = torch.tensor([question[1] for question in questions])  # (questions,)
truth = torch.stack([question[2] for question in questions])  # (questions, 2)
learning = scene < 100
print(int(learning.sum()), "questions to learn from,", int((~learning).sum()), "to test with")

# %%
def fresh(seed):
    """W_word and W_place before training: words (10) and places (128) -> d = 16."""
    torch.manual_seed(seed)
    return [torch.nn.Linear(width, 16, bias=False) for width in (10, 128)]

def look(word, scene, W_word, W_place):
    """word, scene (n,) -> weights (n, 64), where the word was found (n, 2)."""
    q = W_word(torch.eye(10)[word])[:, None]  # (n, 1, 16)
    k = W_place(places[scene])  # (n, 64, 16)
    weights = (q @ k.mT / math.sqrt(16)).softmax(dim=-1)[:, 0]  # (n, 64)
    return weights, weights @ spots

def misses(matrices):
    """How far off the answers to the test questions are, in pixels."""
    with torch.no_grad():
        return (look(word[~learning], scene[~learning], *matrices)[1] - truth[~learning]).norm(dim=-1)

# %%
def taught(matrices):
    """The same matrices after 80 steps of learning."""
    optimizer = torch.optim.Adam([matrix.weight for matrix in matrices], lr=0.02)
    rows = learning.nonzero()[:, 0]
    for _ in range(80):
        some = rows[torch.randint(len(rows), (64,))]  # 64 questions
        loss = (look(word[some], scene[some], *matrices)[1] - truth[some]).abs().mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    return matrices

before, learned = misses(fresh(0)), [taught(fresh(seed)) for seed in range(3)]
after = torch.stack([misses(matrices) for matrices in learned])  # (3, questions)
print(f"before: median miss about {round(before.median().item(), -1):.0f} pixels")
print(f"after, three seeds: median miss {[round(miss.median().item()) for miss in after]} pixels")
print("more than 0.8 of the answers within one place (16 pixels):", ((after < 16).float().mean(dim=1) > 0.8).tolist())

# %% [markdown]
# Eighty steps, and it answers for pictures that it never saw. Before you run the next cell, say aloud what the maps
# will show. The picture has a blue car, a green tree and a grey cat.

# %%
from detr_mini.data.scenes import draw_scene

picture = draw_scene(seed=0, index=12)[0]  # as in notebook 01
asked = [CLASSES.index(name) for name in ("car", "tree", "cat")]
with torch.no_grad():
    maps, found = look(torch.tensor(asked), torch.tensor([12] * 3), *learned[0])  # (3, 64), (3, 2)

boxes = dict(zip(targets[12]["labels"].tolist(), targets[12]["boxes"] * 128))  # label -> (4,) centre, size
for label, weights in zip(asked, maps):
    centre, size = boxes[label].split(2)
    inside = ((spots - centre).abs() < size / 2 + 8).all(dim=-1)  # (64,) places that touch the box
    print(f"{CLASSES[label]:5} is on {inside.float().mean():.2f} of the places, and gets "
          f"{weights[inside].sum():.1f} of the attention")

# %%
figure, axes = plots.canvas(4, height=2.1)
plots.scene(picture, title="b: the picture", axes=axes[0])
for place, label, weights, spot in zip(axes[1:], asked, maps, found.tolist()):
    plots.attention_map(picture, weights.reshape(8, 8), title=f"a: '{CLASSES[label]}'", axes=place)
    place.plot(*spot, "+", color="white", markersize=12, markeredgewidth=2)
    centre, size = boxes[label].split(2)
    assert ((torch.tensor(spot) - centre).abs() < size / 4).all()  # the cross is near the middle of the thing
show(figure, alt="""A scene with a blue car, a green tree and a grey cat, and three attention maps of it.
     For each of the three words the places on that thing glow, and a cross marks its middle.""")

# %% [markdown]
# That was scene 12, one of those it learned from; the figures above were for new ones. What happened? W_q and W_k
# brought words and places into one space of 16 numbers, in which the word *car* points the same way as a place on a
# car.
# **They learned a dictionary.** DETR's decoder must do the same with queries that are not even words. It was easy
# here: the words were clear, and the values said where. DETR starts with neither.
#
# ## 6. One softmax cannot look at two places
#
# A bright bar lies on a dark row of eight places. Where does it begin, and where does it end? Each place knows whether
# the light goes on there, or off, and its own number.

# %%
def bar(first, last):
    """Tokens (8, 3) of a row: light goes on here, light goes off behind here, my number."""
    number = torch.arange(8.0)
    return torch.stack([number == first, number == last, number], dim=-1).float()

wide, narrow = bar(2, 5), bar(3, 4)  # (8, 3) each
on, off = torch.tensor([[12.0, 0.0]]), torch.tensor([[0.0, 12.0]])  # two questions, (1, 2)

# %%
predict("02.both", "One query asks for both, (12, 12). Bars: 2 to 5, and 3 to 4. What are the answers?",
        "different ones, since the bars differ", "the same one, for both bars", "the first edge of each")

# %%
for name, tokens in [("2 to 5", wide), ("3 to 4", narrow)]:
    keys, numbers = tokens[:, :2], tokens[:, 2:]  # (8, 2), (8, 1)
    _, both = attention(on + off, keys, numbers)
    _, first = attention(on, keys, numbers)
    _, last = attention(off, keys, numbers)
    print(f"bar {name}: one softmax says {both.item():.2f};  two say {first.item():.2f} and "
          f"{last.item():.2f}")

answers = [attention(on + off, tokens[:, :2], tokens[:, 2:])[1].item() for tokens in (wide, narrow)]
reveal("02.both", "b" if abs(answers[0] - answers[1]) < 0.01 else "a",
       "Half the weight here, half there: the average is the middle, and the size is gone.")

# %%
figure, axes = plots.canvas(3, height=1.7)
titles = ["one softmax: both edges", "head 1: on", "head 2: off"]
shares = torch.cat([attention(query, wide[:, :2], wide[:, 2:])[0] for query in (on + off, on, off)])  # (3, 8)
for place, weights, title in zip(axes, shares, titles):
    place.bar(range(8), weights, color=plots.BLUE)
    place.axvspan(1.5, 5.5, color=plots.YELLOW, alpha=0.35, zorder=0)
    place.set(title=title, ylim=(0, 1.05), xticks=range(8), xlabel="place")
axes[0].set_ylabel("weight")
show(figure, alt="""Three bar charts of attention over eight places; a yellow band marks the bar from 2
     to 5. One softmax: half at place 2, half at place 5. Head 1: all at 2. Head 2: all at 5.""")
assert (shares[:, [2, 5]] - torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])).abs().max() < 0.05

# %% [markdown]
# A softmax shares out one whole among all places, and the average forgets who gave what. To keep two answers apart, ask
# twice: two softmaxes, two averages, side by side. Each is called a **head**.
#
# Then one more matrix, the output projection **W_o**, reads the heads together. It can compute what no head knows.

# %%
W_o = torch.tensor([[0.5, 0.5], [-1.0, 1.0]])  # (2, 2): middle, and last minus first

for name, tokens in [("2 to 5", wide), ("3 to 4", narrow)]:
    heads = [attention(query, tokens[:, :2], tokens[:, 2:])[1] for query in (on, off)]  # [(1, 1), (1, 1)]
    side_by_side = torch.cat(heads, dim=-1)  # (1, 2)
    centre, length = (side_by_side @ W_o.T)[0].tolist()
    print(f"bar {name}: middle {centre:.2f}, last minus first {length:.2f}")

# %% [markdown]
# Middle and length: that is a box, in one dimension. Notebook 09 looks at the heads of a
# trained DETR.
#
# ## 7. Heads for free
#
# Eight heads of width d would cost eight times as much. So the width is divided instead: with d = 256 and 8 heads, each
# gets 256 / 8 = 32 numbers. One large projection makes all heads' queries at once. Then we cut it.

# %%
x8 = torch.arange(24).reshape(1, 3, 8)  # (B=1, N=3, d=8): three tokens
print(x8[0].numpy())

def split(x, heads):
    """(B, N, d) -> (B, heads, N, d/heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)

print("two heads", tuple(split(x8, 2).shape))
print("head 1 has the first half of every token:\n", split(x8, 2)[0, 0].numpy())

# %%
predict("02.reshape", "x8.reshape(1, 2, 3, 4) has the same shape. Does head 1 get the same numbers?",
        "yes, a shape is a shape", "no: it gets all of the first token, and half of the second")

# %%
jumped = x8.reshape(1, 2, 3, 4)  # (B, heads, N, d/heads), or so it seems
print(jumped[0, 0].numpy())
reveal("02.reshape", "a" if torch.equal(jumped, split(x8, 2)) else "b",
       "reshape reads the numbers in order. First cut the width in two, then move the new axis forward.")

# %% [markdown]
# Tempting, and wrong without any error. Here is the right way in a picture, and the way back: `merge` undoes `split`.

# %%
def merge(x):
    """(B, heads, N, d/heads) -> (B, N, d)."""
    return x.transpose(1, 2).flatten(-2)

print("merge undoes split:", torch.equal(merge(split(x8, 2)), x8))

figure, axes = plots.canvas(3, height=1.6)
grids = {"3 tokens, d = 8": x8[0], "head 1": split(x8, 2)[0, 0], "head 2": split(x8, 2)[0, 1]}
for place, (title, numbers) in zip(axes, grids.items()):
    half = torch.where(numbers % 8 < 4, -1.0, 1.0)  # for the colours
    plots.matrix(half, title=title, signed=True, top=2.5, axes=place)
    for text, number in zip(place.texts, numbers.flatten().tolist()):
        text.set_text(number)
show(figure, alt="""Three grids of numbers. Left: three tokens of eight numbers, the first four columns
     purple, the last four orange. Middle, head 1: the purple columns of all three tokens. Right, head 2:
     the orange ones.""")
assert (grids["head 1"] % 8 < 4).all() and (grids["head 2"] % 8 >= 4).all()  # each head has one colour

# %% [markdown]
# And the cost? Four matrices of d x d, however many heads there are.

# %%
from detr_mini.attention import MultiHeadAttention

for heads in [1, 8, 32]:
    module = MultiHeadAttention(d_model=256, heads=heads)
    count = sum(p.numel() for p in module.parameters())
    print(f"{heads:2} heads of width {256 // heads:3}: {count:,} parameters")

try:
    MultiHeadAttention(d_model=256, heads=6)
except ValueError as error:
    print("6 heads:", error)

# %% [markdown]
# Nothing is free, of course. A narrow head asks a simpler question: with 32 numbers it can tell fewer things apart than
# with 256. (Scores are divided by the root of the *head's* width, √32.)
#
# ## 8. Masks, for batches
#
# Two tables play: four friends at one, three at the other. A batch is one tensor, so the second table gets an empty
# chair, a token of zeros. It has no hand and no coins.

# %%
predict("02.zeros", "The chair's key is all zeros, and its value is 0. How much weight will rock give it?",
        "exactly 0", "some, but it does no harm: its value is 0", "some, and it spoils the answer")

# %%
second = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 6.0], [-1.0, -1.0, 8.0], [0.0, 0.0, 0.0]])
tables = torch.stack([x, second])  # (B=2, N=4, 3)
padding = torch.tensor([[False, False, False, False], [False, False, False, True]])  # (2, 4)

q, k, v = tables @ W_q.T, tables @ W_k.T, tables @ W_v.T  # (2, 4, 2), (2, 4, 2), (2, 4, 1)
scores = q @ k.mT / math.sqrt(2)  # (2, 4, 4)

late = scores.softmax(dim=-1) * ~padding[:, None, :]  # hide after the softmax
early = scores.masked_fill(padding[:, None, :], -math.inf).softmax(dim=-1)  # hide before it

for name, weights in [("no mask", scores.softmax(dim=-1)), ("after the softmax", late), ("before it", early)]:
    rock = weights[1, 0]  # (4,)
    print(f"{name:18} weights {rock.numpy()}  sum {rock.sum():.2f}  answer {(rock @ v[1]).item():.2f}")

three_alone = (scores[1, :3, :3].softmax(dim=-1) @ v[1, :3])[0].item()
print("the three of them, without a chair:", round(three_alone, 2))
reveal("02.zeros", "c" if abs((scores.softmax(-1) @ v)[1, 0].item() - three_alone) > 0.1 else "b",
       "Its score is 0, so e⁰ = 1 takes part. The others' shares shrink.")

# %% [markdown]
# Zeros are not nothing. Only *minus infinity, before the softmax* gives the answer that the three would give alone. The
# mask is (B, 1, K): the same for all queries of one picture. With heads, one more axis: (B, 1, 1, K).
#
# Two traps, both silent. **First:** what does True mean? In PyTorch's `nn.MultiheadAttention`, True means hidden, as
# here. In its `scaled_dot_product_attention`, it means the opposite. **Second:** a row in which everything is hidden.

# %%
import torch.nn.functional as F

keep = F.scaled_dot_product_attention(q, k, v, attn_mask=~padding[:, None, :])  # here True means: may be seen
print("scaled_dot_product_attention, True = seen:  ", torch.allclose(keep, early @ v, atol=1e-6))

wrong = F.scaled_dot_product_attention(q[1:], k[1:], v[1:], attn_mask=padding[1:, None, :])
print("the other way round, all see only the chair:", wrong[0, :3, 0].tolist())

nobody = torch.full((1, 4), -math.inf).softmax(dim=-1)
print("everything hidden:", nobody.tolist())
print("the chair itself still answers:", round((early @ v)[1, 3].item(), 2), "(nobody may read that)")

# %% [markdown]
# Minus infinity everywhere is 0 / 0. And a mask hides the chair as a *key*. As a *query* it still gets an answer, which
# nobody should read. In the decoder this does not matter: padding is only ever asked.
#
# ## 9. The module, and three proofs
#
# Here is all of it. Four projections, heads, a bias. a asks b.

# %%
class HandMultiHead(torch.nn.Module):
    """Attention with heads: a asks b. Self-attention when a is b."""

    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (torch.nn.Linear(d, d) for _ in range(4))

    def forward(self, a, b, bias=0.0):
        """a (B, Q, d), b (B, K, d), bias broadcasts to (B, heads, Q, K) -> (B, Q, d)."""
        q, k, v = (split(x, self.heads) for x in (self.query(a), self.key(b), self.value(b)))
        scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, heads, Q, K)
        self.weights = (scores + bias).softmax(dim=-1)  # (B, heads, Q, K)
        return self.output(merge(self.weights @ v))  # (B, Q, d)

# %% [markdown]
# **First proof:** the package's `MultiHeadAttention`. Its parameters have the same names, so ours can be loaded. It takes
# key and value apart, because positions will be added to keys and not to values. That is notebook 03.

# %%
from detr_mini.attention import padding_bias

torch.manual_seed(0)
a, b = torch.randn(2, 5, 32), torch.randn(2, 7, 32)  # 5 queries, 7 tokens
hidden = torch.zeros(2, 7, dtype=torch.bool)
hidden[1, 5:] = True  # the second picture is smaller
bias = padding_bias(hidden)  # (2, 1, 1, 7): 0, or -inf where a key is hidden

mine = HandMultiHead(d=32, heads=4)
package = MultiHeadAttention(d_model=32, heads=4)
print(package.load_state_dict(mine.state_dict()))

with dm.AttentionTrace(package) as trace:
    theirs = package(a, b, b, bias=bias)  # (2, 5, 32)
print("cross: answers agree:", torch.allclose(mine(a, b, bias), theirs, atol=1e-6))
print("cross: weights agree:", torch.allclose(mine.weights, trace[""].weights, atol=1e-6))
print("self:  answers agree:", torch.allclose(mine(b, b, bias), package(b, b, b, bias=bias), atol=1e-6))

# %% [markdown]
# **Second proof:** PyTorch's own `nn.MultiheadAttention`. It keeps W_q, W_k and W_v stacked in one matrix of 3d x d.

# %%
official = torch.nn.MultiheadAttention(32, 4, batch_first=True)
stacked = [mine.query, mine.key, mine.value]
with torch.no_grad():
    official.in_proj_weight.copy_(torch.cat([linear.weight for linear in stacked]))  # (96, 32)
    official.in_proj_bias.copy_(torch.cat([linear.bias for linear in stacked]))  # (96,)
official.out_proj.load_state_dict(mine.output.state_dict())

theirs, weights = official(a, b, b, key_padding_mask=hidden, average_attn_weights=False)
print("answers agree:", torch.allclose(mine(a, b, bias), theirs, atol=1e-6))
print("weights agree:", torch.allclose(mine.weights, weights, atol=1e-6))

# %% [markdown]
# **Third proof:** the mask does what it is for. We write nonsense into the padding. No answer may change. And the second
# picture alone, without padding, must give what it gave in the batch. (The last line is a curiosity. Can you say why?)

# %%
nonsense = torch.where(hidden[..., None], 1000.0, b)  # (2, 7, 32)
before = mine(a, b, bias)  # (2, 5, 32)
print("nonsense changes nothing:", torch.allclose(mine(a, nonsense, bias), before, atol=1e-6))
print("alone as in the batch:   ", torch.allclose(mine(a[1:], b[1:, :5]), before[1:], atol=1e-6))

mine.key.bias.data += 5.0
print("a bias of 5 on all keys changes nothing:", torch.allclose(mine(a, b, bias), before, atol=1e-4))

# %% [markdown]
# ## 10. Explore
#
# The three hands, as keys in a plane; their values are Ada's, Ben's and Cleo's coins. You hold the query.
#
# 1. Put q on Rock's own key, (1, 0). Whom does it find? That is W_q = W_k, with nothing turned.
# 2. Turn q until Scissors wins. Where is it now? That turn is W_q.
# 3. Make it three times as long. Whose coins are the answer now?

# %%
AttentionByHand(["Rock", "Paper", "Scissors"], hands.float(), x[:3, 2],
                axes=("first number", "second number"),
                value="coins")

# %% [markdown]
# ## 11. Exercises
#
# Fill in a cell, run it, then run the check below it. For a hint, run `dm.hint("02.shapes")` in a new cell.
#
# ### Five shapes (`02.shapes`)
#
# *Warm-up, 5 minutes.* Three queries of width 5 ask seven tokens of width 4. The common width of queries and keys is 6,
# each value is 2 wide. Write the shapes of W_q, W_k, W_v (in the notebook's way: rows = numbers that come out), of the
# weights, and of the answers.

# %% tags=["exercise"]
my_shapes = None  # [[rows, columns] of W_q, of W_k, of W_v, of the weights, of the answers]

# %% tags=["solution"]
my_shapes = [
    [6, 5],  # W_q reads 5 numbers and gives 6
    [6, 4],  # W_k reads 4
    [2, 4],  # W_v reads the same tokens as W_k
    [3, 7],  # a row per query, a column per token
    [3, 2],  # an answer per query, as wide as a value
]

# %%
check("02.shapes", my_shapes)

# %% [markdown]
# ### Look at the winner (`02.winner`)
#
# *Core, 10 minutes.* With rock (1, 0), paper (0, 1), scissors (-1, -1) and keys as they are, write a W_q (2, 2) with
# which everybody looks at the hand that **beats** them: rock at paper, paper at scissors, scissors at rock. That hand
# must get at least 0.5 of the weight.

# %% tags=["exercise"]
my_W_q = None  # torch.tensor([[..., ...], [..., ...]])

# %% tags=["solution"]
# The columns of a matrix are what it makes of (1, 0) and of (0, 1): paper and scissors. Then
# (-1, -1) becomes minus the sum of both, (1, 0), which is rock.
my_W_q = torch.tensor([[0.0, -1.0],
                       [1.0, -1.0]])

# %%
check("02.winner", my_W_q)

# %% [markdown]
# ### Heads, from memory (`02.heads`)
#
# *Core, 15 minutes.* Write attention with heads, for queries, keys and values that are projected already. No output
# projection. Do not look up.

# %% tags=["exercise"]
def multi_head(q, k, v, heads):
    """q (B, Q, d), k (B, K, d), v (B, K, d) -> (B, Q, d); each head works on its own d/heads numbers."""
    return None  # your lines

# %% tags=["solution"]
def multi_head(q, k, v, heads):
    """q (B, Q, d), k (B, K, d), v (B, K, d) -> (B, Q, d); each head works on its own d/heads numbers."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, N, d/heads)
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5  # (B, heads, Q, K); the head's width
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(-2)  # (B, Q, d)

# %%
check("02.heads", multi_head)

# %% [markdown]
# ### Two matrices or one? (`02.merge`)
#
# *Stretch, 15 minutes.* Scores are (W_q a) · (W_k b) / √d. One matrix M could do that: score = aᵀ M b. Write M, so that
# `a @ M @ b.T` gives all scores.

# %% tags=["exercise"]
def merged(W_q, W_k):
    """W_q (d, d_a), W_k (d, d_b) -> M (d_a, d_b) with a @ M @ b.T = the scaled scores."""
    return None  # your line

# %% tags=["solution"]
def merged(W_q, W_k):
    """W_q (d, d_a), W_k (d, d_b) -> M (d_a, d_b) with a @ M @ b.T = the scaled scores."""
    return W_q.T @ W_k / W_q.shape[0] ** 0.5  # (a W_q^T)(b W_k^T)^T = a (W_q^T W_k) b^T

# %%
check("02.merge", merged)

# %% [markdown]
# ## 12. Limits, and errata
#
# - **One large matrix or many small ones.** Vaswani et al. write a projection per head. Code cuts one large projection.
#   It is the same: the rows of the large matrix are the small ones, stacked.
# - **The bias of W_k does nothing.** It adds the same number to all scores of a row, and a softmax only sees gaps.
#   Section 9 showed it.
# - **Heads need not differ.** Nothing in the formula makes them. Michel et al. (2019) removed many heads of trained
#   models and lost little.
# - **PyTorch averages heads** in the weights it returns, unless told otherwise. A picture of the mean hides the division
#   of labour.
# - **Not all masks are in the softmax.** Deformable DETR sets the padding's *values* to zero and leaves the weights alone.
#   Notebook 11 looks at that.
#
# ## Recap
#
# - q = W_q a, k = W_k b, v = W_v b. Self-attention: a is b. Cross-attention: a is not b.
# - a decides how many answers there are, b what they are made of.
# - W_q apart from W_k: to ask for something unlike oneself. W_v apart from W_k: to give something else than one's name.
# - A softmax gives one average. Heads keep several answers apart, each on d / heads numbers; W_o reads them together.
# - Split with unflatten and transpose, never with a bare reshape.
# - Zeros are not nothing: hide padding with minus infinity, before the softmax.

# %%
quiz("02")

# %% [markdown]
# **Next:** [03, positions](03_positions.ipynb): shuffle the tokens, and attention does not notice.
#
# **References**
#
# - A. Vaswani et al., *Attention Is All You Need*, 2017. Section 3.2.2: heads; section 3.2.3: self- and
#   encoder-decoder attention, as cross-attention is called there.
# - N. Carion et al., *End-to-End Object Detection with Transformers*, 2020. Appendix A.1 writes out attention with heads.
# - P. Michel, O. Levy, G. Neubig, *Are Sixteen Heads Really Better than One?*, 2019.

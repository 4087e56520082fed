"""Training: one loop that reads from top to bottom, for a laptop and for many GPUs.

`fit` is the loop. Around it: which data comes at which step (`Order`, `Draws`), how fast each parameter learns
(`parameter_groups`, `lr_factor`), and the run's folder (`RunFolder`), from which a killed run goes on.

Everything that is random depends on the seed and the step alone. So a run that was killed and resumed ends at the
same weights, bit by bit on a CPU, as one that was left in peace.
"""

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from detr_mini.checkpoints import save_weights
from detr_mini.data.first_look import look_at_first
from detr_mini.data.labels import listed
from detr_mini.data.loading import workers_errors
from detr_mini.data.transforms import Batch, build_transform, normalise_last
from detr_mini.decoder import DetectorOutput
from detr_mini.detr import Detr
from detr_mini.evaluation import AveragePrecision
from detr_mini.files import atomic, make_folder, unwritten
from detr_mini.losses import SetCriterion
from detr_mini.matching import Matches
from detr_mini.printing import plain
from detr_mini.recipes import Recipe, TrainRecipe


class TrainingError(RuntimeError):
    """A run that cannot go on. The message says why and what to do."""


@dataclass
class Step:
    """What a callback sees after each optimisation step; `number` counts from 1."""

    number: int
    model: Detr
    batch: Batch
    output: DetectorOutput
    matches: Matches
    losses: dict[str, float]


Callback = Callable[[Step], None]


@dataclass
class Run:
    """The outcome of `fit`: one dict per step (step, loss, lr, ...), some with AP, and the best AP seen."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_ap: float = -1.0


def fit(
    model: Detr,
    dataset: Dataset,
    recipe: Recipe,
    folder: Path | str | None = None,
    *,
    evaluate: Callable[[Detr], AveragePrecision] | None = None,
    evaluate_every: int | None = None,
    callbacks: tuple[Callback, ...] = (),
    seed: int = 0,
    accumulate: int = 1,
    precision: str = "no",
    save_every: int = 250,
    workers: int = 0,
    progress: bool = True,
    tensorboard: bool = False,
    processes: int | None = None,
    compiled: bool = False,
    recompute: bool = False,
) -> Run:
    """Train a detector by its recipe; returns what happened, step by step.

    folder: where log.jsonl, last.pt, best.safetensors and final.safetensors go; a run found there goes on from
    last.pt. None writes nothing. evaluate: called every `evaluate_every` steps (default: once, at the end), by every
    process. accumulate: micro-batches per step; the recipe's batch stays the global one. precision: "no", "bf16",
    "fp16". processes: how many have to take part; None accepts any number. compiled: through torch.compile.
    recompute: the encoder computes its activations a second time instead of keeping them: less memory, more time.

    Raises ValueError for items of a data set that are not what is expected, see `first_look`. TrainingError when the
    loss is not finite (naming the images), when the folder holds another run, when fewer or more processes run than
    asked for, and when the batch cannot be shared out evenly. LoadingError when a process that loads images was
    killed; OSError, naming the file, when one cannot be written.
    """
    look_at_first(dataset, recipe.model.classes)
    accelerator = make_accelerator(precision, accumulate, compiled, processes)
    train, total_steps = recipe.train, count_steps(recipe.train, len(dataset))
    criterion = SetCriterion(recipe.loss, recipe.model.classes, recipe.model.head)
    optimizer = torch.optim.AdamW(parameter_groups(model, train), weight_decay=train.weight_decay)
    torch.manual_seed(seed)
    with RunFolder(folder, recipe, seed, dataset, accelerator, tensorboard) as keeper, workers_errors():
        first, run = keeper.resume(model, optimizer)
        model.encoder.recompute = recompute
        model.class_names = list(dataset.classes)  # `evaluate` matches another data set's classes by name
        model, optimizer = accelerator.prepare(model.train(), optimizer)
        bare = accelerator.unwrap_model(model, keep_torch_compile=False)
        take_step = Stepper(accelerator, model, criterion, optimizer, train.clip)
        order = Order(len(dataset), train.batch, seed, first, total_steps, accelerator, accumulate)
        batches = iter(make_loader(dataset, recipe, seed, order, workers))
        bar = tqdm(range(first, total_steps), initial=first, total=total_steps, desc="training",
                   disable=not (progress and accelerator.is_main_process))
        for step in bar:
            started = time.perf_counter()
            set_lr(optimizer, lr_factor(step, total_steps, train))
            batch, output, line = take_step(step, (next(batches).to(accelerator.device) for _ in range(accumulate)))
            line |= {"lr": optimizer.param_groups[0]["lr"], "seconds": round(time.perf_counter() - started, 4)}
            if evaluate and is_due(step + 1, evaluate_every, total_steps):
                result = evaluate(bare)
                line |= {"ap": result.ap, "ap50": result.ap50}
                keeper.keep_best(bare, run, result.ap, step + 1)
            run.history.append(line)
            keeper.write(line)
            bar.set_postfix(loss=f"{line['loss']:.2f}")
            for callback in callbacks:
                callback(Step(step + 1, bare, batch, output, criterion.matches, losses_in(line)))
            if is_due(step + 1, save_every, total_steps):
                stop_if_weights_not_finite(bare, step)
                keeper.save(bare, optimizer, run, step + 1)
        keeper.finish(bare, total_steps)
    return run


@dataclass
class Stepper:
    """One step of gradient descent: forward, match and compare, backward, clip, update; over all micro-batches."""

    accelerator: Accelerator
    model: torch.nn.Module
    criterion: SetCriterion
    optimizer: torch.optim.Optimizer
    clip: float

    def __call__(self, step: int, batches: Iterable[Batch]) -> tuple[Batch, DetectorOutput, dict[str, float]]:
        """Returns the last micro-batch, what the detector said of it, and the step's line for the log: losses as means
        over all micro-batches of all processes."""
        rows = []
        for batch in batches:
            with self.accelerator.accumulate(self.model):
                output = self.model(batch.images, batch.mask)
                losses = self.criterion(output, batch.targets)
                loss = self.criterion.total(losses)
                stop_if_not_finite(loss, batch, step)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
            shown = {"loss": loss} | last_layer(losses)
            rows.append(torch.stack([value.detach() for value in shown.values()]))  # (number of losses,)
        means = self.accelerator.reduce(torch.stack(rows).mean(0), "mean").tolist()
        return batch, output, {"step": step + 1} | dict(zip(shown, means, strict=True)) | {"grad_norm": float(norm)}


def make_accelerator(precision: str, accumulate: int, compiled: bool, processes: int | None) -> Accelerator:
    """Accelerate's view of the machine, for one training; arguments and errors as for `fit`.

    Accelerate keeps the first training's precision for the whole Python process. A notebook trains more than once, so
    what it kept is dropped; the group of processes stays.
    """
    check_precision(precision)
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=precision, gradient_accumulation_steps=accumulate,
        dynamo_backend="inductor" if compiled else None,
        cpu=not torch.accelerator.is_available(),  # or it would run alone in each of several processes on CPUs
    )
    check_processes(accelerator.num_processes, processes)
    return accelerator


def check_processes(running: int, wanted: int | None) -> None:
    """TrainingError when more or fewer processes run than asked for: some launchers start one and say nothing."""
    started = int(os.environ.get("WORLD_SIZE", 1))
    wanted = wanted or started
    if running != wanted or running != started:
        raise TrainingError(
            f"{wanted} processes were asked for, {started} started, and {running} take part: start them with `torchrun "
            f"--nproc_per_node {wanted} -m detr_mini train ...` (`accelerate launch` starts a single one on CPUs)"
        )


def check_precision(precision: str) -> None:
    """TrainingError for fp16 on a machine that cannot train in it."""
    if precision == "fp16" and not torch.accelerator.is_available():
        raise TrainingError("precision fp16 needs a GPU, and there is none here: choose bf16, which CPUs can do, or no")


def count_steps(train: TrainRecipe, images: int) -> int:
    """Optimisation steps of a schedule that is given in steps or in epochs; ValueError for neither."""
    if train.steps is None and train.epochs is None:
        raise ValueError("the schedule has neither steps nor epochs: set one of them in the recipe's train part")
    return train.steps if train.steps is not None else max(1, train.epochs * images // train.batch)


def is_due(step: int, every: int | None, last: int) -> bool:
    """Whether something done every so many steps, and at the last one, is due."""
    return step == last or bool(every and step % every == 0)


def parameter_groups(model: Detr, train: TrainRecipe) -> list[dict]:
    """Parameters by learning rate: backbone, slow ones, the rest. A backbone rate of 0 freezes the backbone."""
    if train.backbone_lr == 0:
        model.backbone.requires_grad_(False)
    groups: dict[float, list[Tensor]] = {train.lr: []}
    for name, parameter in model.named_parameters():
        slow = any(part in name for part in train.slow)
        lr = train.backbone_lr if name.startswith("backbone.") else train.lr * (0.1 if slow else 1)
        if parameter.requires_grad:
            groups.setdefault(lr, []).append(parameter)
    return [{"params": parameters, "lr": lr, "base_lr": lr} for lr, parameters in groups.items()]


def lr_factor(step: int, total_steps: int, train: TrainRecipe) -> float:
    """What the learning rates are multiplied by at a step (from 0): a linear warm-up, then 1, then 0.1."""
    warm = min(1.0, (step + 1) / train.warmup) if train.warmup else 1.0
    return warm * (0.1 if step >= train.drop * total_steps else 1.0)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its own rate times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def last_layer(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The losses of the final decoder layer."""
    return {name: value for name, value in losses.items() if not name[-1].isdigit()}


def losses_in(line: dict[str, float]) -> dict[str, float]:
    """Of a step's line, the losses of the final decoder layer."""
    return {name: value for name, value in line.items() if name.startswith(("loss_", "class_", "cardinality_"))}


def stop_if_not_finite(loss: Tensor, batch: Batch, step: int) -> None:
    """TrainingError naming the batch's images when the loss is NaN or infinite."""
    if not torch.isfinite(loss):
        images = [int(target["image_id"]) for target in batch.targets]
        raise TrainingError(
            f"the loss is {loss.item()} at step {step + 1}, on images {images}: check their boxes, lower the learning "
            "rate, or use precision bf16 instead of fp16; the last checkpoint is untouched"
        )


def stop_if_weights_not_finite(model: Detr, step: int) -> None:
    """TrainingError when a weight is NaN or infinite: saved, it would be in the way of every restart."""
    broken = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise TrainingError(
            f"{len(broken)} tensors of the model are not finite after step {step + 1}, {broken[0]} among them: lower "
            "the learning rate, or use precision bf16 instead of fp16; the last checkpoint is untouched"
        )


# -- which data comes when ------------------------------------------------------------------------------------


class Order:
    """The indices of every micro-batch from step `first` on: epoch after epoch, each shuffled anew.

    Yields lists of (position, index): `position` counts samples from the start of training and is unique, `index`
    is the item of the dataset. Each process takes its own share of the global batch.
    Raises TrainingError when the global batch cannot be shared evenly.
    """

    def __init__(
        self, items: int, batch: int, seed: int, first: int, last: int, accelerator: Accelerator, accumulate: int
    ) -> None:
        share = batch // (accelerator.num_processes * accumulate)
        if items == 0:
            raise TrainingError("the data set is empty: nothing to train on")
        if share * accelerator.num_processes * accumulate != batch:
            raise TrainingError(
                f"a batch of {batch} cannot be shared by {accelerator.num_processes} processes in {accumulate} "
                "micro-batches: choose a multiple"
            )
        self.items, self.batch, self.seed, self.steps = items, batch, seed, range(first, last)
        self.rank, self.processes, self.share = accelerator.process_index, accelerator.num_processes, share
        self.permutation: tuple[int, list[int]] = (-1, [])

    def index(self, position: int) -> int:
        """The item at a position of the stream; shuffles once per epoch."""
        epoch, place = divmod(position, self.items)
        if self.permutation[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.permutation = (epoch, torch.randperm(self.items, generator=generator).tolist())
        return self.permutation[1][place]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.steps:
            positions = range(step * self.batch + self.rank, (step + 1) * self.batch, self.processes)
            mine = [(position, self.index(position)) for position in positions]
            yield from (mine[start : start + self.share] for start in range(0, len(mine), self.share))

    def __len__(self) -> int:
        return len(self.steps) * (self.batch // (self.share * self.processes))


class Draws(Dataset):
    """Items after augmentation, where the draw depends on the seed and the position alone, not on who draws it.

    `collate` normalises them and makes the batch.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        self.transform, self.collate = normalise_last(build_transform(recipe.data, train=True))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, where: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        position, index = where
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(self.seed * 1_000_003 + position)
        try:
            return self.transform(*self.dataset[index])
        finally:
            torch.set_rng_state(before)  # the model's own random numbers (dropout) go on as if nothing was drawn


def make_loader(dataset: Dataset, recipe: Recipe, seed: int, order: Order, workers: int) -> DataLoader:
    """Batches in the given order. Its own generator keeps the loader from using up the model's random numbers."""
    draws = Draws(dataset, recipe, seed)
    return DataLoader(
        draws, batch_sampler=order, collate_fn=draws.collate, num_workers=workers,
        generator=torch.Generator(), persistent_workers=workers > 0,
    )


# -- what a run leaves behind ---------------------------------------------------------------------------------


def describe(dataset: Dataset, recipe: Recipe) -> dict[str, object]:
    """What a weights file needs to be used on its own: how images are prepared, and what the labels mean.

    A class head may have more rows than the data has classes; those have no name.
    """
    labels = {str(label): category for label, category in dataset.label_to_category.items()}
    classes = [*dataset.classes, *[None] * (recipe.model.classes - len(dataset.classes))]
    return {"data": asdict(recipe.data), "classes": classes, "label_to_category": labels}


def identity_of(recipe: Recipe, seed: int, dataset: Dataset) -> dict[str, object]:
    """What makes a run the same run: recipe, seed, classes in their order, and the data."""
    return {"recipe": asdict(recipe), "seed": seed, "classes": list(dataset.classes), "data": fingerprint(dataset)}


def fingerprint(dataset: Dataset) -> str:
    """A checksum of what is annotated: pictures by name, and classes, boxes and crowds by name and place.

    Neither folders nor numbers of categories count, so data may be moved, or exported with other ids. Of a data set
    without names of files (generated ones; yours in a notebook) only the number of items is known.
    """
    if not hasattr(dataset, "file_names"):
        return f"{len(dataset)} items"
    truth = dataset.coco_ground_truth()
    label_of = {category: label for label, category in dataset.label_to_category.items()}
    row_of = {image["id"]: row for row, image in enumerate(truth["images"])}
    names = [name.replace("\\", "/").rpartition("/")[2] for name in dataset.file_names]
    content = [len(dataset), names, [[image["height"], image["width"]] for image in truth["images"]]]
    content += [[row_of[thing["image_id"]], label_of[thing["category_id"]], thing["bbox"], thing["iscrowd"]]
                for thing in truth["annotations"]]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return f"{len(dataset)} images, {len(truth['annotations'])} annotations, {digest}"


def differences(before: dict[str, object], now: dict[str, object]) -> list[str]:
    """What makes two identities those of two runs, in words."""
    words = []
    if "classes" not in before:
        return ["classes and data that were not written down, as older versions did"]
    if fields := changed_fields(before["recipe"], now["recipe"]):
        words.append(f"another recipe ({', '.join(fields)})")
    if before["seed"] != now["seed"]:
        words.append(f"another seed ({before['seed']}, now {now['seed']})")
    if (old := before["classes"]) != now["classes"]:
        names = [listed([str(name) for name in classes]) for classes in (old, now["classes"])]
        words.append(f"other classes, or in another order ({names[0]}; now {names[1]})")
    elif before["data"] != now["data"]:
        words.append(f"other data ({before['data']}; now {now['data']})")
    return words


def changed_fields(before: dict, now: dict, shown: int = 3) -> list[str]:
    """Fields of a recipe that changed, as "train.steps 6, now 9"."""
    parts = [(part, name) for part in now for name in now[part]]
    changed = [f"{part}.{name} {before.get(part, {}).get(name)}, now {now[part][name]}" for part, name in parts
               if before.get(part, {}).get(name) != json.loads(json.dumps(now[part][name]))]
    return changed[:shown] + [f"{len(changed) - shown} more"] * (len(changed) > shown)


class RunFolder:
    """The files of a run, written so that none is ever half there. Without a folder it keeps nothing.

    log.jsonl: one line per step. last.pt: everything that is needed to go on. best.safetensors, final.safetensors:
    weights. Only the main process writes.
    """

    def __init__(
        self, folder: Path | str | None, recipe: Recipe, seed: int, dataset: Dataset, accelerator: Accelerator,
        tensorboard: bool,
    ) -> None:
        self.folder = Path(folder) if folder is not None else None
        self.writes = folder is not None and accelerator.is_main_process
        self.scaler = accelerator.scaler  # only fp16 has one
        self.identity = json.dumps(identity_of(recipe, seed, dataset), sort_keys=True)
        self.facts = describe(dataset, recipe)
        self.log, self.board, self.lock = None, None, None
        writer = board_writer() if self.writes and tensorboard else None
        if self.writes:
            self.lock = self.take()
            self.board = writer and writer(self.folder)

    def take(self) -> FileLock:
        """Make this process the only one that trains in the folder, until it ends in whatever way.

        Raises TrainingError when another one does. What killed runs left half-written is cleared away.
        """
        lock = FileLock(make_folder(self.folder) / ".training.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            said = f"another process trains in {self.folder}: wait for it, or choose another folder"
            raise TrainingError(said) from None
        for left in self.folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        return lock

    def resume(self, model: Detr, optimizer: torch.optim.Optimizer) -> tuple[int, Run]:
        """Bring back the last saved state; returns the step to go on from (0: a fresh run) and the run so far."""
        state = self.read_last()
        run = Run(best_ap=state["best_ap"]) if state else Run()
        if state:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"])
            if self.scaler:
                self.scaler.load_state_dict(state["scaler"])
            run.history = self.read_log(state["step"])
        if self.writes:
            with atomic(self.folder / "log.jsonl") as temporary:  # lines after the checkpoint will come again
                temporary.write_text("".join(json.dumps(line) + "\n" for line in run.history))
            self.log = (self.folder / "log.jsonl").open("ab", buffering=0)
        return (state["step"] if state else 0), run

    def read_last(self) -> dict | None:
        """last.pt, or None where there is none; TrainingError when it belongs to another run or is damaged."""
        path = self.folder / "last.pt" if self.folder else None
        if path is None or not path.is_file():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            identity = state["identity"]
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise TrainingError(f"{path} is damaged ({reason}): delete it to start again") from error
        if differ := differences(json.loads(identity), json.loads(self.identity)):
            raise TrainingError(
                f"{plain(self.folder)} holds a run with {'; '.join(differ)}. Choose another folder (--to FOLDER), or "
                f"delete {plain(self.folder)} to start again"
            )
        return state

    def read_log(self, steps: int) -> list[dict[str, float]]:
        """The lines of log.jsonl up to a step; TrainingError when they are not all there."""
        path = self.folder / "log.jsonl"
        try:
            lines = [json.loads(line) for line in path.read_text().splitlines()[:steps]]
            whole = [line["step"] for line in lines] == list(range(1, steps + 1))
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise TrainingError(f"{path} does not hold the {steps} steps of last.pt: put it back, or delete last.pt to "
                                "start again")
        return lines

    def write(self, line: dict[str, float]) -> None:
        """Append one line to the log, whole or not at all."""
        if self.log:
            text, end = (json.dumps(line) + "\n").encode(), self.log.tell()
            try:
                if self.log.write(text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self.log.truncate(end)
                raise unwritten(self.log.name, error) from error
        if self.board:
            for name, value in line.items():
                self.board.add_scalar(name, value, line["step"])

    def keep_best(self, model: Detr, run: Run, ap: float, step: int) -> None:
        """Save the weights when they are the best so far."""
        if ap > run.best_ap:
            run.best_ap = ap
            if self.writes:
                save_weights(model, self.folder / "best.safetensors", step=step, ap=ap, **self.facts)

    def save(self, model: Detr, optimizer: torch.optim.Optimizer, run: Run, step: int) -> None:
        """Write last.pt."""
        if not self.writes:
            return
        state = {
            "identity": self.identity, "step": step, "best_ap": run.best_ap, "model": model.state_dict(),
            "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }
        os.fsync(self.log.fileno())  # last.pt counts on these lines
        with atomic(self.folder / "last.pt", RuntimeError) as temporary:
            torch.save(state, temporary)

    def finish(self, model: Detr, step: int) -> None:
        """Write the final weights."""
        if self.writes:
            save_weights(model, self.folder / "final.safetensors", step=step, **self.facts)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        """Close what is open, however the run ended, and leave the folder to others."""
        for file in filter(None, (self.log, self.board)):
            with suppress(OSError):  # of a full disk, which has been told of
                file.close()
        if self.lock:
            self.lock.release()


def board_writer() -> type:
    """TensorBoard's writer; TrainingError saying what to install without it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError("TensorBoard is not installed: pip install tensorboard, or leave it out") from error
    return SummaryWriter

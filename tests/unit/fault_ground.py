"""The ground on which faults are tried: a folder with good data and good weights, and ways to spoil them."""

import contextlib
import functools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_download import Server, archive_of, source_of, zipped

from detr_mini import training, zoo
from detr_mini.__main__ import main
from detr_mini.checkpoints import save_weights
from detr_mini.data import download
from detr_mini.data.coco import CocoFolder
from detr_mini.recipes import resized
from detr_mini.training import describe

TINY_COCO = Path(__file__).parents[2] / "data" / "tiny_coco"
TRAIN_JSON, VAL_JSON = (f"data/annotations/instances_{split}2017.json" for split in ("train", "val"))
FIRST, SECOND = ("data/train2017/000000000139.jpg", "data/train2017/000000000285.jpg")
WORKERS = multiprocessing.get_context("forkserver")  # a process that has PyTorch loaded, and children made of it
WORKERS.set_forkserver_preload(["pytest", "detr_mini.training", "detr_mini.transfer"])
STEPS = 6


@functools.cache
def tiny_weights() -> bytes:
    """A weights file of a DETR with a few thousand weights, for the classes of tiny_coco."""
    data = CocoFolder.open(TINY_COCO, "train")
    torch.manual_seed(0)
    recipe = resized(zoo.recipe("detr"), d_model=32, heads=2, feed_forward=32, encoder_layers=1, decoder_layers=2,
                     queries=6, classes=data.num_classes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tiny.safetensors")
        save_weights(zoo.build("detr", model=recipe.model), path, **describe(data, recipe))
        return path.read_bytes()


@dataclass
class Ground:
    """A folder, which is the current one, and what is undone after a fault was tried.

    Every method that is named after a command returns its arguments.
    """

    folder: Path
    patch: pytest.MonkeyPatch = field(default_factory=pytest.MonkeyPatch)
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    end: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        self.end.callback(os.chdir, Path.cwd())
        os.chdir(self.folder)
        self.undo.callback(self.patch.undo)
        self.put("tiny.safetensors", tiny_weights())
        shutil.copytree(TINY_COCO, self.folder / "data")

    def put(self, name: str, content: bytes | str | Image.Image, **options: object) -> str:
        """Write a file; returns its name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Image.Image):
            content.save(path, **options)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    def lines(self, name: str) -> list[dict]:
        """A file of JSON lines."""
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def state(self, name: str) -> dict:
        """A file of PyTorch's."""
        return torch.load(self.folder / name, weights_only=True)

    def mend(self) -> None:
        """Undo what was done to this process, such as patches and limits."""
        self.undo.close()
        self.undo.callback(self.patch.undo)

    # --- commands

    def detect(self, *pictures: str, weights: str = "tiny.safetensors", to: str = "out") -> list[str]:
        return ["detect", *pictures, "--weights", weights, "--to", to]

    def evaluate(self, *options: str, weights: str = "tiny.safetensors") -> list[str]:
        return ["evaluate", "--weights", weights, "--data", "data", *options]

    def train(self, *options: str, weights: str = "tiny.safetensors", to: str = "run") -> list[str]:
        """A few steps on tiny_coco, which take a moment."""
        usual = {"--data": "data", "--val-split": "train", "--preset": "scenes", "--steps": str(STEPS), "--batch": "2",
                 "--size": "64", "--to": to, "--weights": weights}
        usual |= dict(zip(options[::2], options[1::2], strict=True))
        return ["train", *(word for pair in usual.items() for word in pair)]

    def race(self, *change: str, detector: str = "detr") -> list[str]:
        return ["race", "--detectors", detector, "--to", "race", "--change", *change]

    # --- what is spoiled

    def picture(self, content: bytes | Image.Image, name: str = "photo.jpg", **options: object) -> list[str]:
        """Detect in a picture."""
        return self.detect(self.put(name, content, **options))

    def cut(self, name: str, part: float = 0.5) -> str:
        """Shorten a file; returns its name."""
        content = (self.folder / name).read_bytes()
        return self.put(name, content[: int(part * len(content))])

    def annotated(self, change: Callable[[dict], object], *options: str, name: str = TRAIN_JSON) -> list[str]:
        """Train after a change of an annotation file's content."""
        content = json.loads((self.folder / name).read_text())
        change(content)
        self.put(name, json.dumps(content))
        return self.train(*options)

    def voc(self, xml: str, *options: str) -> list[str]:
        """Train on a folder in VOC's format with one picture."""
        self.put("voc/JPEGImages/a.png", Image.new("RGB", (80, 60)))
        self.put("voc/Annotations/a.xml", f"<annotation>{xml}</annotation>")
        return self.train("--data", "voc", *options)

    def weighed(self, change: Callable[[dict, dict], object]) -> str:
        """A weights file after a change of its tensors and of its facts; returns its name."""
        state, head = load_file(self.folder / "tiny.safetensors"), (self.folder / "tiny.safetensors").read_bytes()
        facts = json.loads(head[8 : 8 + struct.unpack("<Q", head[:8])[0]])["__metadata__"]
        change(state, facts)
        save_file(state, self.folder / "changed.safetensors", facts or None)
        return "changed.safetensors"

    def official(self, content: object) -> list[str]:
        """Train from a .pth file."""
        torch.save(content, self.folder / "official.pth")
        return self.train(weights="official.pth")

    # --- circumstances

    def limit(self, size: int) -> None:
        """No file may grow beyond a size in bytes: the kernel refuses to write, as it does when a disk is full."""
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
        self.undo.callback(resource.setrlimit, resource.RLIMIT_FSIZE, old)

    def save_every(self, steps: int) -> None:
        """Checkpoints come more often than after the 250 steps that are usual."""
        self.patch.setitem(training.fit.__kwdefaults__, "save_every", steps)

    def interrupted(self, at: int) -> None:
        """Somebody presses Ctrl-C at a step of a training."""
        self.patch.setattr(training, "set_lr", before(training.set_lr, raising(KeyboardInterrupt), at))

    def stopped(self, *options: str) -> list[str]:
        """A training that was stopped after step 2 and its checkpoint; returns its command."""
        self.save_every(2)
        self.interrupted(at=3)
        assert main(self.train(*options)) == 130
        self.mend()
        return self.train(*options)

    def killed(self, target: str, call: int, *options: str) -> list[str]:
        """A training whose process was killed when a function had half written a file; returns its command."""
        command = self.train(*options)
        process = WORKERS.Process(target=run_until_killed, args=(command, self.folder, target, call))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        return command

    def losing(self, *options: str) -> list[str]:
        """A training whose loading process is killed after step 2 and its checkpoint."""
        self.save_every(2)
        self.patch.setattr(training, "set_lr", before(training.set_lr, kill_loader, 3))
        return self.train("--workers", "1", *options)

    def download(
        self, files: dict | None = None, body: bytes | None = None, to: str = "got", **archive: object
    ) -> list[str]:
        """Download from a server on this machine, which is `self.server`."""
        self.server = Server(body or zipped(files or {"val2017/1.jpg": bytes(range(256)) * 500}))
        threading.Thread(target=partial(self.server.serve_forever, poll_interval=0.01), daemon=True).start()
        self.end.callback(self.server.server_close)
        self.end.callback(self.server.shutdown)
        self.source = source_of(archive_of(self.server, **archive))
        self.offer()
        return ["download", "bccd", "--to", to, "--yes"]

    def offer(self) -> None:
        """The download command offers what the server has, and makes no pauses."""
        self.patch.setattr(download, "SOURCES", {"bccd": self.source})
        self.patch.setattr(download.fetch, "__defaults__", (False, 0.0))


# --- what is done at a moment


def before(function: Callable, happens: Callable[[], object], call: int) -> Callable:
    """A function before one of whose calls, counted from 1, something happens."""
    calls = iter(range(1, sys.maxsize))

    def spoiled(*arguments: object, **options: object) -> object:
        if next(calls) == call:
            happens()
        return function(*arguments, **options)

    return spoiled


def raising(error: type[BaseException] | BaseException) -> Callable[[], object]:
    """Raises an error when it is called."""
    def happens() -> None:
        raise error

    return happens


def half_writing(function: Callable, call: int) -> Callable:
    """A function that writes a file; at one of its calls half of it only, and the process is killed."""
    calls = iter(range(1, sys.maxsize))

    def spoiled(*arguments: object, **options: object) -> object:
        result = function(*arguments, **options)
        if next(calls) == call:
            path = next(value for value in arguments if isinstance(value, Path))
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return spoiled


def half_a_line(function: Callable, call: int) -> Callable:
    """RunFolder.write; at one of its calls the log gets half a line, and the process is killed."""
    def spoiled(keeper: training.RunFolder, line: dict) -> None:
        if line["step"] == call:
            keeper.log.write(b'{"step": ')
            os.kill(os.getpid(), signal.SIGKILL)
        function(keeper, line)

    return spoiled


def run_until_killed(command: list[str], folder: Path, target: str, call: int) -> None:
    """In a process of its own: run a command that will be killed. target: "torch.save", "save_file" or "log"."""
    torch.set_num_threads(1)
    os.chdir(folder)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the end of the process
    training.fit.__kwdefaults__["save_every"] = 2
    if target == "torch.save":
        torch.save = half_writing(torch.save, call)
    elif target == "save_file":
        from detr_mini import checkpoints

        checkpoints.save_file = half_writing(checkpoints.save_file, call)
    else:
        training.RunFolder.write = half_a_line(training.RunFolder.write, call)
    main(command)


def kill_loader() -> None:
    """Kill the process that loads images, and wait until PyTorch notices, which ends the wait."""
    next(child for child in multiprocessing.active_children() if child.daemon).kill()
    time.sleep(60)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose head promises a very large picture."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


class Evil:
    """Unpickled freely, it makes a file called never."""

    def __reduce__(self) -> tuple:
        return open, ("never", "w")

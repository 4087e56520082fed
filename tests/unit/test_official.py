"""Official checkpoints, made here in the authors' format: every published form is told, used and judged rightly.

The forms are shrunk (width, layers, backbone), the names are the authors' own (tests/golden).
"""

import argparse
import hashlib
import io
import json
import logging
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_download import Server
from torchvision.models.resnet import Bottleneck, ResNet

import detr_mini.backbone
from detr_mini import published as published_module
from detr_mini import zoo
from detr_mini.__main__ import main
from detr_mini.checkpoints import CheckpointError, Official, save_weights, to_official
from detr_mini.data.archives import DownloadError
from detr_mini.data.coco import CocoFolder
from detr_mini.data.labels import labelled_as
from detr_mini.data.pictures import read_image
from detr_mini.data.transforms import build_transform
from detr_mini.detection import detect
from detr_mini.detr import Detr
from detr_mini.official import coco_classes, recognise_form
from detr_mini.published import FORMS, MORE_FORMS, Form, published
from detr_mini.recipes import DataRecipe, resized
from detr_mini.weights import local_file, open_weights

TINY_COCO = Path(__file__).parents[2] / "data" / "tiny_coco"
GOLDEN = Path(__file__).parents[1] / "golden"
FILES = {  # golden files that list the names; the first fits all forms that are not named
    "detr": {"": "detr"}, "conditional": {"": "conditional_detr"}, "smca": {"": "smca"},
    "anchor": {"": "anchor_detr-rcda"}, "dab": {"": "dab_detr", "3-patterns": "dab_detr-3pat"},
    "sam": {"": "sam_detr", "smca": "sam_detr-smca"},
    "deformable": {"": "deformable_detr-multi", "single": "deformable_detr-single",
                   "refine": "deformable_detr-refine", "two-stage": "deformable_detr-twostage"},
}
EVERY_FORM = [(name, preset) for name in FORMS for preset, form in published(name).items() if form.ap]
SMALL = {"d_model": 64, "encoder_layers": 1, "decoder_layers": 2, "feed_forward": 64, "queries": 20}
SMALL_DATA = DataRecipe(train_sizes=(64,), max_size=107, eval_size=64, crop_resize=())


def official_shapes(system: str, preset: str) -> dict[str, list[int]]:
    """The authors' names and shapes of a form."""
    files = FILES[system]
    file = next((files[part] for part in files if part and part in preset), files[""])
    shapes = json.loads((GOLDEN / f"{file}.keys.json").read_text())["keys"]
    norm = {f"input_proj.0.1.{part}": [256] for part in ("weight", "bias")}
    return shapes | norm if preset.endswith("12-epochs") else shapes


def empty_state(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Full-size tensors of zeros that take no memory."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def options_of(form: Form) -> argparse.Namespace:
    """Training options as the authors' code leaves them in a checkpoint, among others that nobody asks for."""
    return argparse.Namespace(dilation=form.recipe.model.dilation, nheads=8, epochs=300, lr=1e-4, device="cuda",
                              lr_backbone_names=["backbone.0"], frozen_weights=None)


def small_resnet(dilated: list[bool], norm) -> ResNet:
    """A ResNet with ResNet-50's stages, names and output channels, and little inside."""
    return ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=8, norm_layer=norm, replace_stride_with_dilation=dilated)


@pytest.fixture
def shrunk(monkeypatch, tmp_path) -> Path:
    """Every published form with a small model and small images; an empty cache and working folder. Returns it."""
    monkeypatch.setattr(detr_mini.backbone, "resnet50",
                        lambda norm_layer, replace_stride_with_dilation: small_resnet(
                            replace_stride_with_dilation, norm_layer))
    for name, group in (("FORMS", FORMS), ("MORE_FORMS", MORE_FORMS)):
        monkeypatch.setattr(published_module, name, {
            system: {preset: small(form) for preset, form in forms.items()} for system, forms in group.items()})
    monkeypatch.setenv("DETR_MINI_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(form: Form) -> Form:
    """The form with a small model and small images."""
    recipe = resized(form.recipe, **SMALL)
    changed = {"recipe": type(recipe)(recipe.model, recipe.loss, SMALL_DATA, recipe.train)}
    return Form(**({key: getattr(form, key) for key in form.__dataclass_fields__} | changed))


def random_model(system: str, preset: str) -> Detr:
    """A detector of a form whose every tensor is its own."""
    torch.manual_seed(7)
    model = zoo.build(system, preset).eval()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def saved(model: Detr, preset: str, path: Path, **beside: object) -> Path:
    """The model as its authors would have saved it. beside: what else is in the file."""
    state = to_official(model.system, model.state_dict(), list(official_shapes(model.system, preset)))
    state |= {"backbone.0.body.bn1.num_batches_tracked": torch.tensor(3), "total_ops": torch.zeros(1)}
    torch.save({"model": state} | beside, path)
    return path


def run(capsys, *arguments: object) -> str:
    """What a command prints when all is well."""
    assert main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def error_of(capsys, *arguments: object) -> str:
    """The one line that a mistake gives."""
    assert main([str(argument) for argument in arguments]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("error: ") and "Traceback" not in "".join(said)
    return said[-1]


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of one file, whatever its address says."""
    running = Server(b"")
    threading.Thread(target=partial(running.serve_forever, poll_interval=0.01), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


# --- which form a checkpoint is


@pytest.mark.parametrize(("system", "preset"), EVERY_FORM)
def test_every_form_is_told_at_full_size(system: str, preset: str) -> None:
    """By its tensors and training options; without the latter, by its name; without both it is not dilated."""
    state, form = empty_state(official_shapes(system, preset)), published(system)[preset]
    told = {"dilation": form.recipe.model.dilation, "nheads": 8}
    assert recognise_form(Official(state, told, None), "checkpoint.pth")[:2] == (system, preset)
    name = "r50-dc5.pth" if form.recipe.model.dilation else "r50.pth"
    assert recognise_form(Official(state, {}, None), name)[:2] == (system, preset)
    assert recognise_form(Official(state, {}, None), "checkpoint.pth", preset)[1:] == (
        preset, f"checkpoint.pth: {system}, published form {preset} (as you said)")
    usual = recognise_form(Official(state, {}, None), "checkpoint.pth")[1]
    assert usual == preset.replace("-dc5", "") and not published(system)[usual].recipe.model.dilation


def test_how_the_form_was_told_is_said() -> None:
    state = empty_state(official_shapes("detr", "coco"))
    words = {name: recognise_form(Official(state, told, None), name)[2] for name, told in {
        "a.pth": {}, "b.pth": {"dilation": True}, "dc5.pth": {}}.items()}
    assert words["a.pth"] == ("a.pth: detr, published form coco (coco and coco-dc5 have the same tensors, and nothing "
                              "says which: --preset chooses another)")
    assert words["b.pth"].endswith("coco-dc5 (coco and coco-dc5 have the same tensors; its training options say which)")
    assert words["dc5.pth"].endswith("coco-dc5 (coco and coco-dc5 have the same tensors; its name says which)")
    state = empty_state(official_shapes("deformable", "coco-two-stage"))
    assert recognise_form(Official(state, {}, None), "c.pth")[2].endswith("(its tensors fit no other)")


def changed_shapes(change: str) -> dict[str, list[int]]:
    """DETR's names and shapes after a change that no published form has."""
    shapes = official_shapes("detr", "coco")
    if change == "deeper":
        block = {name: shape for name, shape in shapes.items() if ".layer3.5." in name}
        return shapes | {name.replace(".5.", ".6."): shape for name, shape in block.items()}
    if change == "classes":
        return shapes | {"class_embed.weight": [4, 256], "class_embed.bias": [4]}
    return shapes | {"query_embed.weight": [50, 256]}


@pytest.mark.parametrize(("change", "words"), [
    ("deeper", "nearest is coco: its backbone is deeper than ResNet-50; unexpected: backbone.body.layer3.6.bn1.bias"),
    ("classes", "nearest is coco: its class head has 4 rows, COCO's 92; wrong shape: decoder.class_head"),
    ("queries", r"wrong shape: decoder.query_embed.weight \(50, 256\) instead of \(100, 256\)"),
])
def test_a_form_that_nobody_published_is_refused_with_what_differs(change: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as error:
        recognise_form(Official(empty_state(changed_shapes(change)), {}, None), "x.pth")
    assert "x.pth is a checkpoint of detr and fits none of its published forms (coco, coco-dc5)" in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(("file", "words"), [
    ("up_detr", "x.pth is a checkpoint of up_detr, which is not here: there are detr, conditional"),
    ("dn_detr", "x.pth is a checkpoint of dn_detr, which is not here"),
    ("h_detr", "x.pth is a checkpoint of deformable and fits none of its published forms"),
    ("anchor_detr-mha", "x.pth is a checkpoint of anchor and fits none of its published forms"),
])
def test_other_systems_are_refused(file: str, words: str) -> None:
    shapes = json.loads((GOLDEN / f"{file}.keys.json").read_text())["keys"]
    with pytest.raises(CheckpointError, match=words):
        recognise_form(Official(empty_state(shapes), {}, None), "x.pth")
    with pytest.raises(CheckpointError, match="x.pth is of no detector that is known here"):
        recognise_form(Official({"conv.weight": torch.zeros(1)}, {}, None), "x.pth")


def test_training_options_that_no_form_has_are_named_and_can_be_overruled() -> None:
    state = empty_state(official_shapes("smca", "coco"))
    with pytest.raises(CheckpointError, match="trained with dilation=True, in which no published form agrees with it; "
                       "its tensors fit coco: choose with --preset"):
        recognise_form(Official(state, {"dilation": True}, None), "x.pth")
    assert recognise_form(Official(state, {"dilation": True}, None), "x.pth", "coco")[1] == "coco"
    with pytest.raises(ValueError, match="smca has no published form 'coco-dc5': choose one of coco, coco-multi"):
        recognise_form(Official(state, {}, None), "x.pth", "coco-dc5")
    state = empty_state(official_shapes("deformable", "coco-two-stage"))
    with pytest.raises(CheckpointError, match="does not fit deformable's coco: .*; it fits coco-two-stage"):
        recognise_form(Official(state, {}, None), "x.pth", "coco")


# --- from the file to the figures


@pytest.mark.parametrize(("system", "preset"), EVERY_FORM)
def test_every_form_detects_and_is_evaluated_in_one_command(shrunk: Path, capsys, system: str, preset: str) -> None:
    """The file in the authors' format gives what the detector itself gives, and says what it should give on COCO."""
    form, model = published(system)[preset], random_model(system, preset)
    path = saved(model, preset, shrunk / "checkpoint.pth", args=options_of(form), epoch=form.epochs - 1,
                 optimizer={"state": {}, "param_groups": [{"lr": 1e-4}]}, lr_scheduler={"_last_lr": [1e-5]})
    photo = TINY_COCO / "val2017" / "000000000802.jpg"
    said = run(capsys, "detect", photo, "--weights", path, "--threshold", 0)
    assert f"checkpoint.pth: {system}, published form {preset} (" in said
    wanted = detect(model, read_image(photo), build_transform(SMALL_DATA, train=False))
    found = json.loads((shrunk / "detections" / "000000000802.json").read_text())
    assert [thing["label"] for thing in found] == wanted["labels"].tolist()
    assert [thing["box_xyxy"] for thing in found] == [[pytest.approx(x, abs=0.11) for x in box] for box in
                                                      wanted["boxes"].tolist()]
    names = coco_classes()
    assert all(thing["class"] == (names[thing["label"]] or f"class {thing['label']}") for thing in found)

    said = run(capsys, "evaluate", "--weights", path, "--data", TINY_COCO, "--json", "ap.json")
    assert f"should give AP {form.ap / 100:.3f} on COCO val2017 after {form.epochs} epochs ({form.source})\n" in said
    assert f"published is {form.ap} on COCO val2017's 5,000 images; these are others, or fewer" in said
    figures = json.loads(Path("ap.json").read_text())
    assert figures["published_ap"] == form.ap / 100 and 0 <= figures["ap"] <= 1 and figures["images"] == 4
    assert set(figures["per_class"]) <= {"stop sign", "sports ball", "kite", "apple", "clock", "toothbrush"}


def test_batch_and_number_of_detections_are_the_authors(shrunk: Path, capsys, monkeypatch) -> None:
    seen = {}

    def judged(model, data, recipe, batch, **options):
        seen.update(options, batch=batch, data=data)
        raise ValueError("enough")

    monkeypatch.setattr("detr_mini.evaluation.evaluate", judged)
    path = saved(random_model("dab", "coco"), "coco", shrunk / "dab.pth")
    assert error_of(capsys, "evaluate", "--weights", path, "--data", TINY_COCO) == "error: enough"
    assert (seen["batch"], seen["top_k"]) == (1, 300)
    assert seen["data"].label_to_category == {i: i for i in (13, 37, 38, 53, 85, 90)}  # COCO's own ids
    error_of(capsys, "evaluate", "--weights", path, "--data", TINY_COCO, "--batch", 3)
    assert seen["batch"] == 3


def test_epochs_other_than_the_published_ones_are_said(shrunk: Path) -> None:
    path = saved(random_model("smca", "coco"), "coco", shrunk / "smca.pth", epoch=107)
    assert open_weights(path).said[1].endswith("; the file says it was trained for 108, so expect another figure")


def test_train_starts_from_an_official_checkpoint(shrunk: Path, capsys) -> None:
    path = saved(random_model("detr", "coco"), "coco", shrunk / "detr.pth")
    said = run(capsys, "train", "--data", TINY_COCO, "--val-split", "train", "--weights", path, "--steps", 1,
               "--size", 64, "--backbone", "resnet50", "--to", shrunk / "run")
    assert "class head, taken over by name: stop sign" in said


# --- from an address


def test_an_address_is_fetched_once_and_kept_in_the_cache(shrunk: Path, server: Server, capsys) -> None:
    photo, path = TINY_COCO / "val2017" / "000000000802.jpg", shrunk / "x.pth"
    server.body = saved(random_model("conditional", "coco-dc5"), "coco-dc5", path).read_bytes()
    server.cuts = [1_000_000]  # the connection breaks off once
    digest = hashlib.sha256(server.body).hexdigest()
    url = server.url.replace("data.zip", f"conditional-dc5-{digest[:8]}.pth?download=1")
    for _ in range(2):
        said = run(capsys, "detect", photo, "--weights", url)
        assert f"conditional-dc5-{digest[:8]}.pth: conditional, published form coco-dc5" in said
    assert [request.get("Range") for request in server.requests] == [None, "bytes=1000000-"]
    kept = local_file(url)
    assert kept.is_relative_to(shrunk / "cache" / "weights") and kept.read_bytes() == server.body
    assert main(["evaluate", "--weights", url, "--data", str(TINY_COCO)]) == 0


def test_our_own_weights_come_from_an_address_too(shrunk: Path, server: Server, capsys) -> None:
    model = zoo.build("detr")
    classes = ["kite", *[None] * (model.recipe.classes - 1)]
    save_weights(model, shrunk / "a.safetensors", classes=classes, data={"eval_size": 64, "max_size": 64})
    server.body = (shrunk / "a.safetensors").read_bytes()
    photo = TINY_COCO / "val2017" / "000000000802.jpg"
    assert "found ->" in run(capsys, "detect", photo, "--weights", server.url.replace("data.zip", "a.safetensors"))


@pytest.mark.parametrize(("body", "name", "words"), [
    (b"<!DOCTYPE html><html>Sign in</html>", "x.pth", "x.pth is a web page, not weights: open the address"),
    (b"\n <html>", "x.safetensors", "x.safetensors is a web page, not weights"),
    (b"version https://git-lfs.github.com/spec/v1", "x.pth", "is a pointer of Git LFS, not the file"),
    (b"PK\x03\x04", "x-0123456789abcdef.pth", "its SHA-256 sum should start with 0123456789abcdef"),
    (b"{}", "x.pth", "expected weights"),
])
def test_what_is_no_weights_is_not_kept(
    shrunk: Path, server: Server, capsys, body: bytes, name: str, words: str
) -> None:
    server.body = body
    url = server.url.replace("data.zip", name)
    said = error_of(capsys, "detect", "photo.jpg", "--weights", url)
    assert words in said and url in said
    left = [path.name for path in (shrunk / "cache").rglob("*") if path.is_file()]
    assert left == [".download.lock"]


def test_a_download_that_stays_cut_is_continued_by_the_next_command(shrunk: Path, server: Server) -> None:
    server.body = saved(random_model("detr", "coco"), "coco", shrunk / "x.pth").read_bytes()
    server.cuts, url = [5000], server.url.replace("data.zip", "x.pth")
    server.ranges = True
    assert local_file(url).read_bytes() == server.body
    server.length, server.cuts = False, [5000]  # without a length nobody can tell that it was cut
    other = url.replace("x.pth", "y.pth")
    with pytest.raises(CheckpointError, match=r"y.pth cannot be read.*it came from http.*: delete .*y.pth to fetch it"):
        open_weights(other)


def test_addresses_that_cannot_be_had_are_said_in_one_line(shrunk: Path, server: Server, capsys) -> None:
    server.status = 404
    url = server.url.replace("data.zip", "gone.pth")
    assert f"{url} answered 404 Not Found" in error_of(capsys, "evaluate", "--weights", url)
    said = error_of(capsys, "detect", "photo.jpg", "--weights", "ftp://x.org/detr.pth")
    assert "ftp://x.org/detr.pth: only http and https are fetched" in said
    with pytest.raises(DownloadError, match="no connection to http://127.0.0.1:9/x.pth"):
        local_file("http://127.0.0.1:9/x.pth")


# --- files that are something else


class Evil:
    def __reduce__(self):
        return (open, ("never", "w"))


@pytest.mark.parametrize("where", ["model", "args", "optimizer"])
def test_a_pickle_that_would_run_code_is_refused_on_the_command_line(shrunk: Path, capsys, where: str) -> None:
    path = shrunk / "evil.pth"
    torch.save({"model": {"a": torch.zeros(1)}, where: Evil()}, path)
    for command in (["detect", "photo.jpg"], ["evaluate"], ["train", "--data", TINY_COCO, "--val-split", "train"]):
        said = error_of(capsys, *command, "--weights", path)
        assert "evil.pth cannot be read as a checkpoint of tensors (it wants to call" in said and "open" in said
        assert "was not called" in said and "weights_only" not in said
    assert not (shrunk / "never").exists()


def half(path: Path) -> bytes:
    """The first half of a file."""
    return path.read_bytes()[: path.stat().st_size // 2]


def test_every_other_file_gets_one_line(shrunk: Path, capsys) -> None:
    whole = saved(random_model("detr", "coco"), "coco", shrunk / "whole.pth")
    run_state = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(1)}, "identity": "x", "step": 3}, run_state)
    (shrunk / "folder").mkdir()
    save_weights(zoo.build("detr"), shrunk / "ours.safetensors", classes=["kite", *[None] * 9])
    for name, content, words in (
        ("cut.pth", half(whole), "cut.pth cannot be read as a checkpoint of tensors"),
        ("cut.safetensors", half(shrunk / "ours.safetensors"), "is not a whole safetensors file"),
        ("empty.pth", b"", "empty.pth is empty: expected weights"),
        ("photo.jpg", (TINY_COCO / "val2017" / "000000000802.jpg").read_bytes(), "photo.jpg starts with b'\\xff\\xd8"),
        ("page.pth", b"<HTML><body>", "page.pth is a web page, not weights"),
        ("last.pt", run_state.getvalue(), "last.pt is the state of a run: take final.safetensors"),
        ("other.safetensors", None, "format 'pt', not 'detr_mini 1'"),
    ):
        if content is None:
            save_file({"a": torch.zeros(1)}, shrunk / name, {"format": "pt"})
        else:
            (shrunk / name).write_bytes(content)
        assert words in error_of(capsys, "evaluate", "--weights", shrunk / name), name
    assert "folder is a folder: give a file" in error_of(capsys, "detect", "x.jpg", "--weights", shrunk / "folder")
    assert "no weights at gone.pth" in error_of(capsys, "detect", "x.jpg", "--weights", "gone.pth")
    said = error_of(capsys, "detect", "x.jpg", "--weights", shrunk / "ours.safetensors", "--preset", "coco")
    assert "--preset coco is for checkpoints of a detector's authors" in said
    said = error_of(capsys, "evaluate", "--weights", shrunk / "ours.safetensors")
    assert "does not say how images are prepared" in said
    said = error_of(capsys, "evaluate", "--weights", whole)
    assert "add --data coco" in said
    assert "no published form 'x'" in error_of(capsys, "evaluate", "--weights", whole, "--preset", "x")


def test_devices_data_and_numbers_that_are_not_there(shrunk: Path, capsys) -> None:
    path = saved(random_model("detr", "coco"), "coco", shrunk / "detr.pth")
    said = error_of(capsys, "evaluate", "--weights", path, "--data", "coco")
    assert "no data at data/coco: fetch it with `python -m detr_mini.data.download NAME` (coco-val, coco-train)" in said
    said = error_of(capsys, "evaluate", "--weights", path, "--data", TINY_COCO, "--device", "tpu9")
    assert "--device tpu9 cannot be used on this machine" in said
    said = error_of(capsys, "evaluate", "--weights", path, "--data", TINY_COCO, "--batch", -1)
    assert "--batch is -1" in said
    (shrunk / "data").mkdir()
    (shrunk / "data" / "coco").symlink_to(TINY_COCO)
    assert "should give AP 0.420" in run(capsys, "evaluate", "--weights", path, "--data", "coco", "--limit", 2)


# --- the labels of other data


class Drawn:
    """Three images' worth of categories, without images."""

    def __init__(self, classes: list[str | None], ids: list[int]) -> None:
        self.classes, self.num_classes = classes, len(classes)
        self.label_to_category = dict(enumerate(ids))

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[None, dict]:
        return None, {"labels": torch.tensor([0, 2, 0])}

    def coco_ground_truth(self) -> dict:
        return {"categories": list(self.label_to_category.values())}


def test_classes_are_matched_by_name_and_categories_stay(caplog) -> None:
    data = Drawn(["Dog", "unicorn", "cat"], [7, 8, 9])
    with caplog.at_level(logging.WARNING, "detr_mini"):
        seen = labelled_as(data, coco_classes())
    assert seen.label_to_category == {18: 7, 17: 9, 91: 8} and seen.classes[91] == "unicorn"
    assert "never find: unicorn" in caplog.text
    assert seen[0][1]["labels"].tolist() == [18, 17, 18] and len(seen) == 3 and seen.num_classes == 92
    assert seen.coco_ground_truth() == data.coco_ground_truth()
    assert labelled_as(data, data.classes) is data and labelled_as(data, []) is data
    with pytest.raises(ValueError, match="no class of the data is one of the weights': the data has Dog, unicorn, cat"):
        labelled_as(data, ["RBC", "WBC"])


def test_the_real_coco_keeps_its_ids() -> None:
    """Eighty names on category ids with gaps: label and category id are the same number."""
    names = {row: name for row, name in enumerate(coco_classes()) if name}
    seen = labelled_as(Drawn(list(names.values()), list(names)), coco_classes())
    assert seen.label_to_category == {row: row for row in names} and len(names) == 80 and seen.num_classes == 91
    tiny = labelled_as(CocoFolder.open(TINY_COCO, "val"), coco_classes())
    assert tiny.label_to_category == CocoFolder.open(TINY_COCO, "val", keep_category_ids=True).label_to_category

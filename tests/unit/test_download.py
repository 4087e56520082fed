"""Downloads from a server on this machine: resume, checks, hostile archives, full disks, BCCD."""

import ast
import errno
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from detr_mini.data import archives, bccd, download
from detr_mini.data.archives import DownloadError
from detr_mini.data.coco import CocoFolder

PACKAGE = Path(__file__).parents[2] / "detr_mini"


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` at every address, and misbehaves on request.

    cuts: bytes after which each of the next responses breaks off. ranges: answer Range requests. length: send
    a Content-Length. status: answer this instead. requests: what was asked.
    """

    def __init__(self, body: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag = body, '"one"'
        self.cuts, self.ranges, self.length, self.status, self.wrong_start = [], True, True, None, False
        self.requests: list[dict] = []

    @property
    def url(self) -> str:
        """Address of the file."""
        return f"http://127.0.0.1:{self.server_port}/data.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    """GET with Range and If-Range."""

    def do_GET(self):
        """Answer as the server's switches say."""
        server = self.server
        server.requests.append(dict(self.headers))
        if server.status:
            return self.send_error(server.status)
        start = self.range_start()
        if start is not None and start >= len(server.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.body)}")
            return self.end_headers()
        self.send_response(200 if start is None else 206)
        if server.length:
            self.send_header("Content-Length", str(len(server.body) - (start or 0)))
        if start is not None:
            shown = start + 1 if server.wrong_start else start
            self.send_header("Content-Range", f"bytes {shown}-{len(server.body) - 1}/{len(server.body)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        body = server.body[start or 0:]
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def range_start(self) -> int | None:
        """First byte asked for; None for the whole file."""
        asked = self.headers.get("Range")
        changed = self.headers.get("If-Range") not in (None, self.server.etag)
        return None if asked is None or changed or not self.server.ranges else int(asked[6:-1])

    def log_message(self, *arguments):
        """Say nothing."""


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip file in memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return buffer.getvalue()


FILES = {"val2017/1.jpg": os.urandom(300_000), "val2017/2.jpg": b"two", "other/skipped.txt": b"no"}


@pytest.fixture
def server() -> Iterator[Server]:
    """A server with an archive of FILES."""
    running = Server(zipped(FILES))
    thread = threading.Thread(target=partial(running.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


def archive_of(server: Server, **changes) -> download.Archive:
    """The archive the server has now, with its true size and digest."""
    digest = f"md5:{hashlib.md5(server.body).hexdigest()}"
    unpack = partial(archives.unpack_matching, patterns=("val2017/*",))
    made = download.Archive(server.url, "data.zip", len(server.body), digest, unpack, 300_003)
    return replace(made, **changes)


def get(archive: download.Archive, folder: Path) -> Path:
    """Fetch without a bar or pauses."""
    return download.fetch(archive, folder, progress=False, pause=0)


def source_of(*found: download.Archive) -> download.Source:
    """A source of the given archives."""
    return download.Source("Test data", "no terms", Path("nowhere"), found)


def ranges(server: Server) -> list[str | None]:
    """The Range header of every request so far."""
    return [request.get("Range") for request in server.requests]


# --- whole, cut, resumed

def test_fetch_gives_the_file_and_leaves_nothing_else(server, tmp_path):
    path = get(archive_of(server), tmp_path)
    assert path == tmp_path / "data.zip" and path.read_bytes() == server.body
    assert [file.name for file in tmp_path.iterdir()] == ["data.zip"]


def test_cut_connections_are_resumed_in_the_same_run(server, tmp_path):
    server.cuts = [100_000, 50_000, 1]
    assert get(archive_of(server), tmp_path).read_bytes() == server.body
    assert ranges(server) == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]
    assert [request.get("If-Range") for request in server.requests] == [None] + ['"one"'] * 3


def test_a_stopped_download_is_resumed_by_the_next_run(server, tmp_path):
    server.cuts = [100_000] + [0] * download.TRIES
    with pytest.raises(DownloadError, match="no connection to .*100 kB are here already: run"):
        get(archive_of(server), tmp_path)
    assert (tmp_path / "data.zip.part").stat().st_size == 100_000 and not (tmp_path / "data.zip").exists()
    server.cuts, server.requests = [], []
    assert get(archive_of(server), tmp_path).read_bytes() == server.body
    assert ranges(server) == ["bytes=100000-"]


def test_server_that_ignores_ranges_starts_over(server, tmp_path):
    server.ranges, server.cuts = False, [100_000]
    assert get(archive_of(server), tmp_path).read_bytes() == server.body
    assert ranges(server) == [None, "bytes=100000-"]


def test_changed_file_is_not_joined_to_the_old_part(server, tmp_path):
    server.cuts = [100_000] + [0] * download.TRIES
    with pytest.raises(DownloadError):
        get(archive_of(server), tmp_path)
    server.body, server.etag, server.cuts = zipped({"val2017/1.jpg": os.urandom(200_000)}), '"two"', []
    assert get(archive_of(server), tmp_path).read_bytes() == server.body


def test_range_that_starts_elsewhere_is_not_appended(server, tmp_path):
    server.cuts, server.wrong_start = [100_000], True
    with pytest.raises(DownloadError, match=r"was sent 'bytes 100001-"):
        get(archive_of(server), tmp_path)
    assert (tmp_path / "data.zip.part").read_bytes() == server.body[:100_000]


def test_whole_part_needs_no_more_bytes_and_a_longer_one_is_thrown_away(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(server.body)
    assert get(archive_of(server), tmp_path).read_bytes() == server.body
    (tmp_path / "data.zip").unlink()
    (tmp_path / "data.zip.part").write_bytes(server.body + b"more")
    assert get(archive_of(server), tmp_path).read_bytes() == server.body


def test_server_without_a_length_or_mark(server, tmp_path):
    server.length, server.etag = False, None
    assert get(archive_of(server), tmp_path).read_bytes() == server.body


def test_cut_without_a_length_is_found_by_its_size(server, tmp_path):
    server.length, server.cuts = False, [100_000]
    with pytest.raises(DownloadError, match="data.zip.part has 100,000 bytes, published is"):
        get(archive_of(server), tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_network_is_one_clear_line(tmp_path):
    lost = download.Archive("http://127.0.0.1:9/x.zip", "x.zip", 5, None, archives.unpack_matching, 5)
    with pytest.raises(DownloadError) as error:
        get(lost, tmp_path)
    assert "no connection to http://127.0.0.1:9/x.zip" in str(error.value) and "\n" not in str(error.value)
    assert f"put it at {tmp_path / 'x.zip'} and run this again" in str(error.value)


@pytest.mark.parametrize(("status", "advice"), [(404, "may have moved"), (503, "try again later")])
def test_refusals_are_named(server, tmp_path, status, advice):
    server.status = status
    with pytest.raises(DownloadError, match=f"answered {status} .*{advice}"):
        get(archive_of(server), tmp_path)
    assert len(server.requests) == 1


# --- checks

def test_wrong_digest_is_refused_and_the_next_run_starts_afresh(server, tmp_path):
    right = archive_of(server)
    with pytest.raises(DownloadError, match="data.zip.part has .*, published is 0000; delete .* or accept"):
        get(replace(right, digest="sha256:0000"), tmp_path)
    assert not list(tmp_path.iterdir())
    assert get(right, tmp_path).read_bytes() == server.body


def test_wrong_length_is_refused_before_the_download(server, tmp_path):
    with pytest.raises(DownloadError, match="published are 19,000,000,000"):
        get(archive_of(server, size=19_000_000_000), tmp_path)
    assert not list(tmp_path.iterdir())


def test_file_that_is_there_is_checked_not_fetched(server, tmp_path):
    (tmp_path / "data.zip").write_bytes(server.body)
    assert get(archive_of(server), tmp_path).read_bytes() == server.body and not server.requests
    (tmp_path / "data.zip").write_bytes(server.body[:-1] + b"?")
    with pytest.raises(DownloadError, match="data.zip has .*, published is .*; delete"):
        get(archive_of(server), tmp_path)
    assert (tmp_path / "data.zip").exists()  # somebody put it there; it is theirs to delete


def test_without_a_published_digest_the_first_one_is_kept(server, tmp_path):
    unknown = archive_of(server, digest=None, size=1)
    get(unknown, tmp_path).unlink()
    record = tmp_path / "data.zip.sha256"
    assert record.read_text() == f"{hashlib.sha256(server.body).hexdigest()}  data.zip\n"
    get(unknown, tmp_path).unlink()
    server.body = zipped({"val2017/1.jpg": b"other"})
    with pytest.raises(DownloadError, match=f"an earlier download had .*; delete {record} if you trust"):
        get(unknown, tmp_path)
    record.unlink()
    assert get(unknown, tmp_path).read_bytes() == server.body


def test_two_downloads_into_one_folder_do_not_mix(tmp_path):
    with download.only_one(tmp_path), pytest.raises(DownloadError, match="another download into"):
        with download.only_one(tmp_path):
            pass
    with download.only_one(tmp_path):  # free again
        assert (tmp_path / ".download.lock").exists()


# --- hostile and damaged archives

def link() -> zipfile.ZipInfo:
    """A symbolic link out of the folder, as zip files store it."""
    member = zipfile.ZipInfo("val2017/link")
    member.create_system, member.external_attr = 3, 0o120777 << 16
    return member


def squeezed() -> zipfile.ZipInfo:
    """A member in a compression that no official archive has."""
    member = zipfile.ZipInfo("val2017/3.jpg")
    member.compress_type = zipfile.ZIP_LZMA
    return member


HOSTILE = [
    "../escape.txt", "val2017/../../escape.txt", "/tmp/escape.txt", "C:/escape.txt", "..\\escape.txt",
    link(), squeezed(),
]


@pytest.mark.parametrize("name", HOSTILE, ids=str)
def test_names_that_leave_the_folder_stop_everything(tmp_path, name):
    folder = tmp_path / "inside"
    folder.mkdir()
    with zipfile.ZipFile(folder / "data.zip", "w") as bundle:
        bundle.writestr("val2017/1.jpg", b"good")
        bundle.writestr(name, b"../../outside")
    archive = download.Archive("", "data.zip", 0, None, archives.unpack_matching, 0)
    with pytest.raises(DownloadError, match="nothing was unpacked"):
        download.unpack(folder / "data.zip", archive, folder)
    assert [file.name for file in tmp_path.rglob("*")] == ["inside", "data.zip"]


def test_link_inside_the_folder_is_not_followed_out(tmp_path):
    folder, outside = tmp_path / "inside", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "val2017").symlink_to(outside)
    (folder / "data.zip").write_bytes(zipped(FILES))
    archive = download.Archive("", "data.zip", 0, None, archives.unpack_matching, 0)
    with pytest.raises(DownloadError, match="through a link"):
        download.unpack(folder / "data.zip", archive, folder)
    assert not list(outside.iterdir())


def test_damaged_member_is_found_by_its_checksum(tmp_path):
    body = bytearray(zipped({"val2017/1.jpg": os.urandom(5000), "val2017/2.jpg": b"two"}))
    body[2000] ^= 1
    (tmp_path / "data.zip").write_bytes(body)
    archive = download.Archive("", "data.zip", 0, None, archives.unpack_matching, 0)
    with pytest.raises(DownloadError, match="data.zip is damaged .*delete it and run this again"):
        download.unpack(tmp_path / "data.zip", archive, tmp_path)
    assert not (tmp_path / "val2017" / "1.jpg").exists() and not download.is_complete(archive, tmp_path)


@pytest.mark.parametrize("body", [b"", b"<html>sorry</html>", zipped(FILES)[:-30]])
def test_what_is_no_zip_file_is_named(tmp_path, body):
    (tmp_path / "data.zip").write_bytes(body)
    archive = download.Archive("", "data.zip", 0, None, archives.unpack_matching, 0)
    with pytest.raises(DownloadError, match="data.zip is damaged"):
        download.unpack(tmp_path / "data.zip", archive, tmp_path)


# --- the command

def test_run_fetches_unpacks_and_then_knows_that_it_did(server, tmp_path, capsys):
    source, folder = source_of(archive_of(server)), tmp_path / "deep" / "folder"
    download.run(source, folder, yes=True)
    assert (folder / "val2017" / "1.jpg").read_bytes() == FILES["val2017/1.jpg"]
    assert not (folder / "other").exists() and not (folder / "data.zip").exists()
    shown = capsys.readouterr().out
    assert server.url in shown and str(folder) in shown and "300 kB to download, 300 kB unpacked" in shown
    assert "600 kB at most" in shown and "free" in shown
    download.run(source, folder, yes=True)
    assert "is complete in" in capsys.readouterr().out and len(server.requests) == 1
    (folder / "val2017" / "2.jpg").unlink()
    download.run(source, folder, yes=True, keep=True)
    assert (folder / "val2017" / "2.jpg").read_bytes() == b"two" and (folder / "data.zip").exists()


def test_files_that_are_there_are_not_written_again(server, tmp_path):
    source = source_of(archive_of(server))
    download.run(source, tmp_path, yes=True)
    good, bad = tmp_path / "val2017" / "1.jpg", tmp_path / "val2017" / "2.jpg"
    os.utime(good, (1, 1))
    bad.write_bytes(b"owt")  # same size, other content
    (tmp_path / ".data.zip.contents").unlink()
    download.run(source, tmp_path, yes=True)
    assert good.stat().st_mtime == 1 and bad.read_bytes() == b"two"


def test_disk_too_small_is_refused_before_anything_happens(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=500_000))
    with pytest.raises(DownloadError, match="not enough space: 600 kB needed, 500 kB free .*--to"):
        download.run(source_of(archive_of(server)), tmp_path, yes=True)
    assert not server.requests and not list(tmp_path.iterdir())


def test_archive_that_unpacks_larger_than_announced_is_stopped(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    server.body = zipped({"val2017/1.jpg": bytes(5_000_000)})  # a few kB of zip
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(DownloadError, match="not enough space: 5 MB needed"):
        download.run(source_of(archive_of(server)), tmp_path, yes=True)
    assert not (tmp_path / "val2017").exists()


def test_space_at_its_peak(tmp_path):
    one = download.Archive("", "one.zip", 100, None, archives.unpack_matching, 10)
    two = download.Archive("", "two.zip", 60, None, archives.unpack_matching, 300)
    assert download.space_needed([one, two], tmp_path, keep=False) == 10 + 60 + 300
    assert download.space_needed([one, two], tmp_path, keep=True) == 100 + 10 + 60 + 300
    (tmp_path / "two.zip.part").write_bytes(bytes(40))
    assert download.space_needed([one, two], tmp_path, keep=False) == 10 + 20 + 300


def call(monkeypatch, server: Server, *arguments: str) -> int:
    """The command line with a data set called "bccd" that is on this machine."""
    monkeypatch.setattr(download, "SOURCES", {"bccd": source_of(archive_of(server))})
    return download.main(["bccd", *arguments])


def test_command_asks_first(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert call(monkeypatch, server, "--to", str(tmp_path)) == 1
    assert capsys.readouterr().err == "error: nobody to ask whether to go on; add --yes\n"
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for answer, expected in (("n", False), ("", False), ("yes", True)):
        monkeypatch.setattr("builtins.input", lambda prompt, answer=answer: answer)
        assert call(monkeypatch, server, "--to", str(tmp_path)) == 0
        assert (tmp_path / "val2017").exists() == expected


def test_command_reports_errors_in_one_line(server, tmp_path, monkeypatch, capsys):
    server.status = 500
    assert call(monkeypatch, server, "--yes", "--to", str(tmp_path)) == 1
    assert capsys.readouterr().err.count("\n") == 1
    file = tmp_path / "file"
    file.write_text("in the way")
    assert call(monkeypatch, server, "--yes", "--to", str(file)) == 1
    assert capsys.readouterr().err.startswith("error: ")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    server.status = None
    monkeypatch.setattr(download, "_append", full)
    assert call(monkeypatch, server, "--yes", "--to", str(tmp_path)) == 1
    assert capsys.readouterr().err.startswith("error: the disk is full; make room and run the same")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_append", interrupt)
    assert call(monkeypatch, server, "--yes", "--to", str(tmp_path)) == 130
    assert "to continue" in capsys.readouterr().err


def test_trust_accepts_another_archive_and_records_it(server, tmp_path, monkeypatch, capsys):
    published = replace(archive_of(server), digest="sha256:0000", size=7)
    monkeypatch.setattr(download, "SOURCES", {"bccd": source_of(published)})
    assert download.main(["bccd", "--yes", "--to", str(tmp_path)]) == 1
    assert "--trust" in capsys.readouterr().err
    assert download.main(["bccd", "--yes", "--trust", "--to", str(tmp_path)]) == 0
    assert (tmp_path / "val2017" / "2.jpg").exists() and (tmp_path / "data.zip.sha256").exists()


def test_help_needs_no_torch():
    code = "import sys, detr_mini.data.download as d; d.parser().format_help(); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.stdout == "False\n", result.stderr


def test_command_line_help_lists_the_data_sets():
    command = [sys.executable, "-m", "detr_mini.data.download", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent)
    assert shown.returncode == 0 and "{coco-val,coco-train,bccd}" in shown.stdout and not shown.stderr


def test_what_is_offered_is_complete_and_pinned():
    assert set(download.SOURCES) == {"coco-val", "coco-train", "bccd"}
    for source in download.SOURCES.values():
        for archive in source.archives:
            algorithm, digest = archive.digest.split(":")
            assert len(digest) == hashlib.new(algorithm).digest_size * 2 and int(digest, 16)
            assert archive.url.endswith(".zip") and archive.unpacked > 0.9 * archive.size
        assert source.terms and source.title


@pytest.mark.parametrize("name", ["download", "archives", "bccd"])
def test_only_light_modules_are_imported(name):
    tree = ast.parse((PACKAGE / "data" / f"{name}.py").read_text())
    roots = {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots |= {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import)
              for alias in node.names}
    assert not roots - set(sys.stdlib_module_names) - {"tqdm", "detr_mini"}


# --- BCCD

def voc(width: int, height: int, objects: list[tuple]) -> bytes:
    """A VOC annotation file; objects are (name, xmin, ymin, xmax, ymax)."""
    things = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        "</bndbox></object>" for name, x0, y0, x1, y1 in objects)
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{things}</annotation>".encode()


def bccd_zip(images: dict[str, tuple[str, bytes, bytes]]) -> bytes:
    """An archive in BCCD's layout from name -> (split, JPEG, XML)."""
    root = "BCCD_Dataset-1.0/BCCD/"
    files = {"BCCD_Dataset-1.0/LICENSE": b"MIT", "BCCD_Dataset-1.0/README.md": b"read me"}
    for split in ("train", "val", "test"):
        names = [name for name, (where, _, _) in images.items() if where == split]
        files[f"{root}ImageSets/Main/{split}.txt"] = "".join(f"{name}\n" for name in names).encode()
    for name, (_, jpeg, xml) in images.items():
        files |= {f"{root}JPEGImages/{name}.jpg": jpeg, f"{root}Annotations/{name}.xml": xml}
    return zipped(files)


def fetch_bccd(server: Server, body: bytes, folder: Path) -> None:
    """Download and convert an archive in BCCD's layout."""
    server.body = body
    download.run(source_of(archive_of(server, unpack=bccd.unpack_bccd)), folder, yes=True)


JPEG = (PACKAGE.parent / "data" / "tiny_coco" / "val2017" / "000000001000.jpg").read_bytes()  # 120 x 120


def test_bccd_becomes_coco_format(server, tmp_path):
    cells = [("WBC", 1, 1, 120, 60), ("RBC", 11, 21, 11, 21), ("Platelets", 5, 6, 14, 25)]
    fetch_bccd(server, bccd_zip({
        "BloodImage_00007": ("train", JPEG, voc(120, 120, cells)),
        "BloodImage_00010": ("val", JPEG, voc(120, 120, cells[:1])),
        "BloodImage_00011": ("test", JPEG, voc(120, 120, cells)),
    }), tmp_path)
    content = json.loads((tmp_path / "instances_train.json").read_text())
    assert content["images"] == [{"id": 7, "file_name": "BloodImage_00007.jpg", "width": 120, "height": 120}]
    assert content["annotations"] == [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [0, 0, 120, 60], "area": 7200, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": [10, 20, 1, 1], "area": 1, "iscrowd": 0},
        {"id": 3, "image_id": 7, "category_id": 1, "bbox": [4, 5, 10, 20], "area": 200, "iscrowd": 0},
    ]
    assert [category["name"] for category in content["categories"]] == ["Platelets", "RBC", "WBC"]
    assert sorted(file.name for file in (tmp_path / "images").iterdir()) == \
        ["BloodImage_00007.jpg", "BloodImage_00010.jpg"]
    assert (tmp_path / "LICENSE").read_bytes() == b"MIT"
    data = CocoFolder.open(tmp_path, "train")
    assert data[0][1]["labels"].tolist() == [2, 1, 0]  # the 1 x 1 box is an object
    assert download.is_complete(archive_of(server), tmp_path)


@pytest.mark.parametrize(("images", "words"), [
    ({"../escape_1": ("train", JPEG, voc(120, 120, []))}, "nothing was unpacked"),
    ({"Blood-1": ("train", JPEG, voc(120, 120, []))}, "lists an image 'Blood-1'"),
    ({"Blood_1": ("train", JPEG, b"<annotation>")}, r"Blood_1\.xml is no VOC annotation"),
    ({"Blood_1": ("train", JPEG, b"<annotation/>")}, r"Blood_1\.xml is no VOC annotation"),
    ({"Blood_1": ("train", JPEG, voc(9, 9, [("cat", 1, 1, 2, 2)]))}, "an object is called 'cat'"),
    ({"Blood_1": ("train", JPEG, voc(9, 9, [("RBC", "", 1, 2, 2)]))}, r"Blood_1\.xml is no VOC annotation"),
])
def test_bccd_archive_with_a_fault_is_refused(server, tmp_path, images, words):
    with pytest.raises(DownloadError, match=words):
        fetch_bccd(server, bccd_zip(images), tmp_path)
    assert not (tmp_path / "instances_train.json").exists()


def test_archive_that_is_not_bccd_is_refused(server, tmp_path):
    with pytest.raises(DownloadError, match="holds no BCCD data set"):
        fetch_bccd(server, zipped(FILES), tmp_path)


def test_bccd_conversion_gives_the_copy_the_course_uses(server, tmp_path):
    """VOC files rebuilt from the course's copy, downloaded and converted, give that copy back."""
    if not os.environ.get("DETR_MINI_BCCD"):
        pytest.skip("DETR_MINI_BCCD does not name the BCCD folder (python -m detr_mini.data.download bccd)")
    known, images = Path(os.environ["DETR_MINI_BCCD"]), {}
    for split in ("train", "val"):
        content = json.loads((known / f"instances_{split}.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        for image in content["images"]:
            boxes = [(names[a["category_id"]], a["bbox"]) for a in content["annotations"]
                     if a["image_id"] == image["id"]]
            objects = [(name, x + 1, y + 1, x + w, y + h) for name, (x, y, w, h) in boxes]
            jpeg = (known / "images" / image["file_name"]).read_bytes()
            xml = voc(image["width"], image["height"], objects)
            images[image["file_name"].removesuffix(".jpg")] = (split, jpeg, xml)
    fetch_bccd(server, bccd_zip(images), tmp_path)
    for split in ("train", "val"):
        name = f"instances_{split}.json"
        old, new = (json.loads((place / name).read_text()) for place in (known, tmp_path))
        assert all(old[part] == new[part] for part in ("images", "annotations", "categories"))
    assert len(list((tmp_path / "images").iterdir())) == 292

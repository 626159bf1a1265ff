"""Manifests and roots: counts from tar headers, harmless names, and transfers that fail."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shlex
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import webdataset
from pydantic import ValidationError

from trichord.core.errors import Cause, SampleError, UserError
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.manifest import Manifest, ShardEntry, index_shards, scan_shards
from trichord.shards.reading.root import allow_typed, check_shard_name, parse_root
from trichord.shards.reading.transfer import TransferPolicy

HASTY = TransferPolicy(attempts=2, first_wait_s=0.0, stall_s=5.0)


def write_set(folder: Path, counts: list[int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    key = 0
    for number, count in enumerate(counts):
        with webdataset.TarWriter(str(folder / f"{number:05d}.tar")) as writer:
            for _ in range(count):
                writer.write({"__key__": f"{key:09d}", "mp4": b"v" * (key + 1), "txt": f"caption {key}"})
                key += 1
    return folder


class Server:
    """A web server of a folder whose first responses may fail, be truncated or stall."""

    def __init__(self, folder: Path) -> None:
        self.failures: list[str] = []
        self.requests: list[str] = []
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                failure = outer.failures.pop(0) if outer.failures else ""
                if failure == "refuse":
                    self.send_error(404)
                elif failure == "cut":
                    content = (folder / self.path.lstrip("/")).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2])
                else:
                    super().do_GET()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def shard_set(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", [3, 0, 5])


@pytest.fixture
def server(shard_set: Path) -> Iterator[Server]:
    server = Server(shard_set)
    yield server
    server.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_is_indexed_saved_and_loaded(shard_set: Path, workers: int) -> None:
    manifest = index_shards(shard_set, workers=workers)
    assert [(entry.name, entry.samples) for entry in manifest.shards] == [
        ("00000.tar", 3),
        ("00001.tar", 0),
        ("00002.tar", 5),
    ]
    assert [entry.bytes for entry in manifest.shards] == [(shard_set / e.name).stat().st_size for e in manifest.shards]
    assert manifest.samples == 8
    manifest.save(shard_set)
    assert Manifest.load(shard_set) == Manifest.load(shard_set / "manifest.json") == manifest
    assert sorted(path.name for path in shard_set.iterdir()) == ["00000.tar", "00001.tar", "00002.tar", "manifest.json"]


def test_digest_depends_on_the_contents(shard_set: Path) -> None:
    manifest = index_shards(shard_set)
    signed = Manifest(
        shards=tuple(entry.model_copy(update={"sha256": "0" * 64}) for entry in manifest.shards), name="other"
    )
    assert signed.digest() == manifest.digest()
    fewer = Manifest(shards=manifest.shards[:2])
    assert fewer.digest() != manifest.digest()


def test_indexing_reports_errors_and_continues(shard_set: Path) -> None:
    content = (shard_set / "00002.tar").read_bytes()
    (shard_set / "00002.tar").write_bytes(content[: len(content) // 2])
    (shard_set / "00003.tar").write_bytes(b"nonsense" * 200)
    reports = list(scan_shards(shard_set))
    assert [report.entry.samples for report in reports][:2] == [3, 0]
    assert 0 < reports[2].entry.samples < 5
    assert reports[3].entry.samples == 0
    assert [cause for report in reports for _, cause, _ in report.problems] == [
        Cause.SHARD_TRUNCATED,
        Cause.SHARD_UNREADABLE,
    ]


HARMFUL = [
    "../x.tar",
    "a/../../x.tar",
    "/etc/x.tar",
    "pipe:rm -rf x.tar",
    "http://host/x.tar",
    "file:x.tar",
    "-o.tar",
    "a/-o.tar",
    "x;y.tar",
    "$(x).tar",
    "`x`.tar",
    "x|y.tar",
    "x\ny.tar",
    "x\\y.tar",
    "",
    ".",
    "a//b.tar",
    "~",
    "{x}.tar",
]


@pytest.mark.parametrize("name", HARMFUL)
def test_a_manifest_with_a_harmful_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError):
        ShardEntry(name=name, samples=1, bytes=1)
    document = {"version": 1, "shards": [{"name": name, "samples": 1, "bytes": 1}]}
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="not a plain relative name"):
        Manifest.load(tmp_path)


def test_only_names_without_shell_syntax_are_inserted_into_commands(tmp_path: Path) -> None:
    assert check_shard_name("set 1/00 0.tar") == "set 1/00 0.tar"
    allow_typed(["pipe:cat x/{name}"])
    assert parse_root("pipe:cat x/{name}").address("a/0-0.tar") == "pipe:cat x/a/0-0.tar"
    assert parse_root("https://host/set/").address("0 0.tar") == "https://host/set/0%200.tar"
    assert parse_root("https://host/{name}?key=1").address("0.tar") == "https://host/0.tar?key=1"
    with pytest.raises(UserError, match="characters that a shell"):
        parse_root("pipe:cat x/{name}").address("0 0.tar")
    with pytest.raises(ValueError, match="not a plain relative name"):
        parse_root(tmp_path).address("../x.tar")


def test_unreadable_root_is_an_error_with_a_remedy() -> None:
    allow_typed(["pipe:cat x.tar"])
    with pytest.raises(UserError, match=r"Write \{name\}"):
        parse_root("pipe:cat x.tar")
    with pytest.raises(UserError, match=r"pipe:aws s3 cp s3://bucket/set/\{name\} -"):
        parse_root("s3://bucket/set/")
    with pytest.raises(UserError, match="--names"):
        index_shards("http://127.0.0.1:9/set")


def test_missing_manifest_is_an_error_with_a_command(tmp_path: Path, shard_set: Path) -> None:
    with pytest.raises(UserError, match=f"3 shards and no manifest.json. Create it: trichord shards index {shard_set}"):
        Manifest.load(shard_set)
    index_shards(shard_set).save(shard_set)
    with pytest.raises(UserError, match=f"these folders in it do: {shard_set}"):
        Manifest.load(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        Manifest.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no shards.*do: set"):
        index_shards(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"version": 2, "shards": []}', "version"),
        ('{"version": 1', "Invalid JSON"),
        ('{"version": 1, "shards": [], "more": 1}', "more"),
        ('{"version": 1, "shards": [{"name": "a.tar", "samples": -1, "bytes": 1}]}', "samples"),
        (
            '{"version": 1, "shards": [{"name": "a.tar", "samples": 1, "bytes": 1},'
            ' {"name": "a.tar", "samples": 1, "bytes": 1}]}',
            "twice",
        ),
    ],
)
def test_damaged_manifest_is_an_error_with_the_position(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=f"(?s){found}.*trichord shards index"):
        Manifest.load(tmp_path)


def test_shards_over_http_are_indexed_with_checksums(shard_set: Path, server: Server) -> None:
    manifest = index_shards(server.address, names=["{00000..00002}.tar"])
    local = index_shards(shard_set)
    assert manifest.digest() == local.digest()
    expected = [hashlib.sha256((shard_set / entry.name).read_bytes()).hexdigest() for entry in local.shards]
    assert [entry.sha256 for entry in manifest.shards] == expected
    with pytest.raises(UserError, match=r"00009.tar.*Check the address"):
        index_shards(server.address, names=["00009.tar"], policy=HASTY)
    local.save(shard_set)
    assert Manifest.load(server.address) == local
    with pytest.raises(UserError, match=r"no manifest\.json could be read"):
        Manifest.load(server.address + "/nowhere")


def test_pipe_is_read_like_the_file(shard_set: Path, tmp_path: Path) -> None:
    index_shards(shard_set).save(shard_set)
    command = f"pipe:cat {shlex.quote(str(shard_set))}/{{name}}"
    allow_typed([command])
    root = parse_root(command)
    assert Manifest.load(root.text) == Manifest.load(shard_set)
    direct = open_archive(parse_root(shard_set), "00002.tar")
    for cache_dir in (None, tmp_path / "cache"):
        piped = open_archive(root, "00002.tar", cache_dir=cache_dir)
        assert [piped.read(i).members for i in range(5)] == [direct.read(i).members for i in range(5)]


def test_failed_transfer_is_retried(shard_set: Path, server: Server) -> None:
    server.failures = ["cut", "refuse"]
    patient = TransferPolicy(attempts=3, first_wait_s=0.0)
    archive = open_archive(parse_root(server.address), "00002.tar", policy=patient)
    assert len(archive) == 5
    assert server.requests == ["/00002.tar"] * 3


def test_a_transfer_that_keeps_failing_makes_the_shard_unreadable(server: Server) -> None:
    server.failures = ["refuse", "cut"]
    with pytest.raises(SampleError, match="tried 2 times") as error:
        open_archive(parse_root(server.address), "00002.tar", policy=HASTY)
    assert error.value.cause is Cause.SHARD_UNREADABLE


def test_silent_command_times_out(tmp_path: Path) -> None:
    impatient = TransferPolicy(attempts=1, stall_s=0.2)
    allow_typed(["pipe:sleep 5; cat {name}"])
    with pytest.raises(SampleError, match="no data received for"):
        open_archive(parse_root("pipe:sleep 5; cat {name}"), "a.tar", policy=impatient)


def test_cache_holds_only_complete_shards(shard_set: Path, server: Server, tmp_path: Path) -> None:
    entry = index_shards(shard_set).shards[2]
    root, cache = parse_root(server.address), tmp_path / "cache"
    for _ in range(3):
        assert len(open_archive(root, entry.name, cache_dir=cache, size=entry.bytes)) == 5
    assert server.requests == ["/00002.tar"]
    (cached,) = (path for path in cache.rglob("*") if path.is_file())
    cached.write_bytes(b"damaged")  # of another size: fetched again
    assert len(open_archive(root, entry.name, cache_dir=cache, size=entry.bytes)) == 5
    server.failures = ["cut"] * 2
    with pytest.raises(SampleError):
        open_archive(root, "00000.tar", cache_dir=cache, policy=HASTY)
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["00002.tar"]


def test_transfer_is_checked_against_the_manifest(server: Server) -> None:
    root = parse_root(server.address)
    with pytest.raises(SampleError, match="the manifest says 17"):
        open_archive(root, "00002.tar", size=17, policy=HASTY)
    with pytest.raises(SampleError, match="checksum differs"):
        open_archive(root, "00002.tar", sha256="0" * 64, policy=HASTY)


SHARD = {"name": "a.tar", "samples": 1, "bytes": 2}


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"shards": []' + "," * 9,
        json.dumps({"shards": [{**SHARD, "samples": 10**300}]}),
        json.dumps({"shards": [{**SHARD, "samples": 1 << 40}]}),  # their order would not fit into memory
        json.dumps({"shards": [{**SHARD, "bytes": -1}]}),
        json.dumps({"shards": [{**SHARD, "samples": "many"}]}),
        json.dumps({"shards": [{**SHARD, "samples": float("nan")}]}),
        json.dumps({"shards": [{**SHARD, "name": "a\0.tar"}]}),
        json.dumps({"shards": [SHARD], "classes": ["\ud800"]}),
        json.dumps([SHARD]),
        "\xff\xfe",
    ],
)
def test_manifest_of_another_form_is_refused_with_its_set(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=f"the manifest of {tmp_path} is not valid") as caught:
        Manifest.load(tmp_path)
    assert len(str(caught.value)) < 1000


def test_manifest_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(UserError, match="cannot be read as a shard set: it is a pipe"):
        Manifest.load(tmp_path)
    with pytest.raises(UserError, match="it holds a NUL character"):
        Manifest.load("a\0b")

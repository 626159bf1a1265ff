"""Files are written atomically, with the permissions of the umask, even by concurrent writers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from trichord.core.files import temporary_path, whole_file, write_whole


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_permissions_follow_the_umask(umask: int, tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "text")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_text_and_bytes_replace_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "a longer text with an é\r\n")
    assert path.read_bytes() == "a longer text with an é\r\n".encode()
    write_whole(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["file"]


def test_failure_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")

    def fail() -> None:
        with whole_file(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_file_has_its_name_only_once_complete(tmp_path: Path) -> None:
    with whole_file(tmp_path / "00000.tar") as file:
        file.write(b"half")
        file.flush()
        assert not (tmp_path / "00000.tar").exists()
        assert not list(tmp_path.glob("*.tar"))
    assert (tmp_path / "00000.tar").read_bytes() == b"half"


def test_concurrent_writers_of_one_file_do_not_interfere(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [f"{number}" * 100_000 for number in range(4)]

    def write(content: str) -> None:
        for _ in range(20):
            write_whole(path, content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    script = f"""
from pathlib import Path
from trichord.core.files import write_whole
for _ in range(40):
    write_whole(Path({str(path)!r}), "0" * 100_000)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2]) as other:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert other.returncode == 0
    assert path.read_text() in contents
    assert os.listdir(tmp_path) == ["file"]
    assert temporary_path(path) != temporary_path(path)


def test_what_a_killed_process_left_is_deleted_by_the_next_writer(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with whole_file(tmp_path / "file") as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = tmp_path.iterdir()
    machine = left.name.split(".")[2].split("-")[0]
    alive = tmp_path / f".other.{machine}-{os.getpid()}-{os.getpid()}-0.partial"
    elsewhere = tmp_path / ".file.0123456789ab-7-7-0.partial"
    foreign = tmp_path / ".notes.partial"
    for path in (alive, elsewhere, foreign):
        path.touch()
    old = tmp_path / ".file.0123456789ab-7-7-1.partial"
    old.touch()
    os.utime(old, (0, 0))
    write_whole(tmp_path / "file", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"file", alive.name, elsewhere.name, foreign.name}

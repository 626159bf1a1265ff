"""Reading shards: the same samples as webdataset and tarfile, and no harm from a hostile archive."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import resource
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.handlers import reraise_exception

from trichord.core.errors import Cause, SampleError
from trichord.shards.reading.archive import Archive, open_archive
from trichord.shards.reading.root import Root, parse_root
from trichord.shards.record import RawSample

Members = list[tuple[str, bytes]]


def write_tar(path: Path, members: Members, format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def clips(count: int, size: int = 3000) -> Members:
    """Samples with the names of video2dataset, whose contents include their key."""
    return [
        (f"{i:09d}.{extension}", f"{i}{extension}".encode() * (size if extension == "mp4" else 3))
        for i in range(count)
        for extension in ("mp4", "txt", "json")
    ]


def opened(path: Path, max_bytes: int | None = None) -> Archive:
    return open_archive(parse_root(path.parent), path.name, max_bytes=max_bytes)


def samples(archive: Archive) -> list[RawSample]:
    return [archive.read(i) for i in range(len(archive))]


def plain(path: Path) -> list[tuple[str, Mapping[str, bytes]]]:
    """The samples of the shard by plain webdataset."""
    dataset = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
    return [(s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")}) for s in dataset]


def ours(archive: Archive) -> list[tuple[str, Mapping[str, bytes]]]:
    return [(sample.key, sample.members) for sample in samples(archive)]


def cause_of(archive: Archive, position: int) -> Cause:
    with pytest.raises(SampleError) as error:
        archive.read(position)
    return error.value.cause


def test_shards_of_shardwriter_are_read_like_webdataset_does(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "%05d.tar"), maxcount=7, verbose=0) as writer:
        for i in range(17):
            writer.write(
                {"__key__": f"{i:09d}", "mp4": os.urandom(70_000 * (i % 2)) + b"x", "txt": f"t{i}", "json": {"n": i}}
            )
    lengths = []
    for name in ("00000.tar", "00001.tar", "00002.tar"):
        archive = opened(tmp_path / name)
        assert ours(archive) == plain(tmp_path / name)
        assert not archive.problems
        lengths.append(len(archive))
    assert lengths == [7, 7, 3]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text("abäλ/_-", min_size=1, max_size=200).filter(lambda name: not name.startswith(("/", "__"))),
            st.sampled_from(["txt", "mp4", "tar.txt", "JSON"]),
            st.binary(min_size=1, max_size=1500),
        ),
        max_size=12,
        unique_by=lambda member: member[0],
    ),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_any_names_in_any_format_are_read_like_tarfile_does(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, str, bytes]], format: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.tar"
    members = [(f"{stem}.{extension}", content) for stem, extension, content in parts]
    if format == tarfile.USTAR_FORMAT:  # this format cannot hold longer ones
        members = [member for member in members if len(member[0].encode()) < 100]
    write_tar(path, members, format)
    assert ours(opened(path)) == plain(path)


def test_long_names_and_pax_times(tmp_path: Path) -> None:
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / "long.tar"
        with tarfile.open(path, "w", format=format) as tar:
            for stem in ("x" * 150, "ü" * 120, "folder/" * 40 + "end"):
                info = tarfile.TarInfo(f"{stem}.mp4")
                info.size, info.mtime = 5, 1.5  # a fraction requires a pax record too
                tar.addfile(info, io.BytesIO(b"12345"))
        archive = opened(path)
        assert list(archive.keys) == ["x" * 150, "ü" * 120, "folder/" * 40 + "end"]
        assert archive.read(2).members == {"mp4": b"12345"}


def test_a_size_beyond_octal_is_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("big.mp4")
    info.size = 9 * 2**30
    path = tmp_path / "big.tar"
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(512 + info.size)  # a hole
        small = tarfile.TarInfo("after.txt")
        small.size = 3
        file.write(small.tobuf() + b"abc".ljust(512, b"\0") + bytes(1024))
    archive = opened(path, max_bytes=2**20)
    assert cause_of(archive, 0) is Cause.TOO_MANY_BYTES  # from the header, without reading the member
    assert archive.read(1).members == {"txt": b"abc"}


def test_reading_by_position_is_independent_of_order_and_of_a_rest(tmp_path: Path) -> None:
    archive = opened(write_tar(tmp_path / "a.tar", clips(6)))
    forward = samples(archive)
    archive.rest()
    assert [archive.read(i) for i in (5, 0, 3)] == [forward[5], forward[0], forward[3]]


def test_truncated_shard_yields_the_samples_before_the_cut(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", clips(10))
    expected = ours(opened(whole))
    content = whole.read_bytes()
    for cut in (len(content) // 2, len(content) // 2 + 300, 513, 700):
        path = tmp_path / "cut.tar"
        path.write_bytes(content[:cut])
        archive = opened(path)
        assert len(archive) < 10
        assert ours(archive) == expected[: len(archive)]
        assert [problem.cause for problem in archive.problems] == [Cause.SHARD_TRUNCATED]
        assert {cause_of(archive, i) for i in range(len(archive), 10)} == {Cause.SHARD_TRUNCATED}
    assert len(opened(path)) == 0  # the last cut is inside the first clip


def test_shard_with_fewer_samples_than_its_manifest_reports_them_missing(tmp_path: Path) -> None:
    archive = opened(write_tar(tmp_path / "a.tar", clips(2)))
    assert cause_of(archive, 2) is Cause.MISSING


def test_damaged_header_ends_the_listing_before_its_sample(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", clips(6))
    with tarfile.open(path) as tar:
        third = tar.getmember("000000003.txt").offset
    content = bytearray(path.read_bytes())
    content[third + 5] ^= 0x55
    path.write_bytes(bytes(content))
    archive = opened(path)
    assert list(archive.keys) == ["000000000", "000000001", "000000002"]
    assert cause_of(archive, 3) is Cause.SHARD_UNREADABLE


@pytest.mark.parametrize("content", [b"", b"not a tar at all " * 100, bytes(range(256)) * 8])
def test_file_that_is_not_a_tar_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    archive = opened(path)
    assert len(archive) == 0
    assert archive.problems[0].cause in (Cause.SHARD_TRUNCATED, Cause.SHARD_UNREADABLE)


def test_compressed_shards_read_like_plain_ones(tmp_path: Path) -> None:
    expected = ours(opened(write_tar(tmp_path / "a.tar", clips(5))))
    for suffix in ("gz", "bz2", "xz"):
        path = tmp_path / f"a.tar.{suffix}"
        with tarfile.open(path, f"w:{suffix}") as tar:
            for name, content in clips(5):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        assert ours(opened(path)) == expected


def test_concatenated_compressed_streams_are_one_shard(tmp_path: Path) -> None:
    content = write_tar(tmp_path / "a.tar", clips(5)).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(content[:4000]) + gzip.compress(content[4000:]))
    assert ours(opened(tmp_path / "b.tar.gz")) == ours(opened(tmp_path / "a.tar"))


def test_truncated_compressed_shard_yields_its_first_samples(tmp_path: Path) -> None:
    members = [(f"{i:04d}.mp4", os.urandom(20_000)) for i in range(10)]
    content = gzip.compress(write_tar(tmp_path / "a.tar", members).read_bytes())
    (tmp_path / "half.tar.gz").write_bytes(content[: len(content) // 2])
    archive = opened(tmp_path / "half.tar.gz")
    assert 3 <= len(archive) <= 5
    assert archive.read(0).members["mp4"] == members[0][1]
    assert cause_of(archive, 9) is Cause.SHARD_TRUNCATED


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(bytes(40 << 20)))
    with pytest.raises(SampleError, match="unpacks to more than") as error:
        opened(tmp_path / "bomb.tar.gz")
    assert error.value.cause is Cause.SHARD_UNREADABLE


def test_unsafe_names_pickles_and_duplicates_are_skipped_and_named(tmp_path: Path) -> None:
    members: Members = [
        ("../evil.mp4", b"1"),
        ("/etc/evil.mp4", b"1"),
        ("a/../../evil.mp4", b"1"),
        ("li\nne.mp4", b"1"),
        ("good.mp4", b"2"),
        ("good.pkl", b"3"),
        ("good.feature.NPY", b"3"),
        ("good.pth.gz", b"3"),
        ("good.pt.txt", b"portuguese"),
        ("good.mp4", b"again"),
        ("other.mp4", b"4"),
        ("good.mp4", b"later"),
        ("good.json", b"later"),
        ("last.mp4", b"5"),
    ]
    archive = opened(write_tar(tmp_path / "a.tar", members))
    assert ours(archive) == [
        ("good", {"mp4": b"2", "pt.txt": b"portuguese"}),
        ("other", {"mp4": b"4"}),
        ("last", {"mp4": b"5"}),
    ]
    assert archive.listing.counts == {Cause.UNSAFE_NAME: 4, Cause.PICKLE_MEMBER: 3, Cause.DUPLICATE_KEY: 2}
    named = {(problem.name, problem.cause) for problem in archive.problems}
    assert ("../evil.mp4", Cause.UNSAFE_NAME) in named
    assert ("good.pkl", Cause.PICKLE_MEMBER) in named


def test_links_folders_and_devices_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for kind, name in (
            (tarfile.SYMTYPE, "s.mp4"),
            (tarfile.LNKTYPE, "h.mp4"),
            (tarfile.CHRTYPE, "c.mp4"),
            (tarfile.FIFOTYPE, "f.mp4"),
            (tarfile.DIRTYPE, "d.mp4"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("clip.mp4")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    archive = opened(path)
    assert ours(archive) == [("clip", {"mp4": b"abc"})]
    assert archive.listing.ignored == 5


def test_meta_names_and_names_without_suffix_are_skipped_like_webdataset_does(tmp_path: Path) -> None:
    members: Members = [
        ("__meta__", b"1"),
        ("__index__/x.json", b"1"),
        ("README", b"1"),
        ("a.mp4", b"2"),
        ("__x__", b""),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    assert ours(opened(path)) == plain(path) == [("a", {"mp4": b"2"})]


def test_name_that_is_not_utf8_is_escaped_and_its_sample_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("café.mp4")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"ok"))
    assert ours(opened(path)) == [("caf\\xe9", {"mp4": b"ok"})]


def test_empty_and_oversized_samples(tmp_path: Path) -> None:
    members: Members = [("a.mp4", b""), ("a.txt", b"text"), ("b.mp4", b"x" * 900), ("c.mp4", b"fine"), ("c.txt", b"")]
    archive = opened(write_tar(tmp_path / "a.tar", members), max_bytes=800)
    assert cause_of(archive, 0) is Cause.EMPTY
    assert cause_of(archive, 1) is Cause.TOO_MANY_BYTES
    assert archive.read(2).members == {"mp4": b"fine", "txt": b""}  # an empty caption is valid


def test_an_extended_header_of_absurd_size_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**33
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    archive = opened(tmp_path / "a.tar")
    assert archive.problems[0].cause is Cause.SHARD_UNREADABLE


def test_webdataset_handler_may_make_reading_strict(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("a.mp4", b"1"), ("a.pkl", b"2")])
    with pytest.raises(SampleError, match="pickle_member"):
        open_archive(Root(str(tmp_path), tmp_path), "a.tar", handler=reraise_exception)


def test_missing_shard_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SampleError) as error:
        opened(tmp_path / "none.tar")
    assert error.value.cause is Cause.SHARD_UNREADABLE


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damage_never_makes_the_reader_crash_or_hang(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = write_tar(tmp_path_factory.mktemp("damage") / "a.tar", clips(3, size=20), tarfile.PAX_FORMAT)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    archive = opened(path)
    for position in range(5):
        try:
            archive.read(position)
        except SampleError as error:
            assert error.detail


def test_shard_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "loop.tar").symlink_to("loop.tar")
    for name in ("pipe.tar", "folder.tar", "loop.tar", "n" * 300 + ".tar", "/dev/zero"):
        with pytest.raises(SampleError) as error:
            open_archive(Root("set", tmp_path), name)
        assert error.value.cause is Cause.SHARD_UNREADABLE


def test_dictionary_of_gigabytes_is_refused(tmp_path: Path) -> None:
    packed = bytearray(lzma.compress(b"x" * 10_000, format=lzma.FORMAT_XZ))
    block = 12  # after the stream header: size, flags, filter, size of its properties, dictionary size
    packed[block + 4] = 40  # 4 GiB
    packed[block + 8 : block + 12] = zlib.crc32(packed[block : block + 8]).to_bytes(4, "little")
    (tmp_path / "a.tar.xz").write_bytes(packed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    archive = open_archive(Root("set", tmp_path), "a.tar.xz")
    assert [problem.cause for problem in archive.problems] == [Cause.SHARD_TRUNCATED]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 19


def test_name_beyond_every_path_is_left_out(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("n" * 5000 + ".txt", b"x"), ("b.txt", b"y")], tarfile.PAX_FORMAT)
    archive = opened(path)
    assert list(archive.keys) == ["b"]
    assert [problem.cause for problem in archive.problems] == [Cause.UNSAFE_NAME]

"""The HTTP interface of the page: answers equal those of evaluations and of the index, and errors are reported."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.finetune import small_head
from tests.finetune.page.stage import CPU, MOST_BYTES, ask, clips_of
from tests.fuzzing.requests import Requests
from tests.shards import media
from trichord.core.errors import SampleError
from trichord.finetune import commands
from trichord.finetune.evaluation.evaluate import evaluate
from trichord.finetune.loading import load_objective
from trichord.finetune.page.inference import LimitsOfClient, VideoInference
from trichord.finetune.page.predictions import Facts, windows_of
from trichord.finetune.page.requests import Client, QueueIsFull, WorkQueue
from trichord.finetune.page.serving import ServeOptions, _reachable, _ready, _token_of
from trichord.finetune.recipe import load_tested
from trichord.finetune.retrieval.embedder import Embedder
from trichord.finetune.retrieval.index import Index
from trichord.finetune.tasks.classification.scoring import score
from trichord.launch import cli
from trichord.pretrain.engine.distributed import join_world
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.decoding.video import open_video
from trichord.shards.record import RawSample


@pytest.fixture(scope="module")
def index(top: Path) -> Index:
    return Index.open(top / "vectors/index", Embedder.load(top / "found", CPU))


def test_actions_and_windows_equal_those_of_an_evaluation(top: Path, page: str) -> None:
    config = load_tested(top / "actions", [str(top / "clips")], [])
    objective, _ = load_objective(config, top / "actions", CPU)
    tested = {video.key: video for video in score(config, objective, join_world()).videos}  # type: ignore[arg-type]
    for key, data in clips_of(top / "clips", 3).items():
        (content,) = ask(f"{page}/api/look", data).content["actions"]
        scores_K = tested[key].scores(config.objective)  # type: ignore[arg-type]
        assert content["scale"] == "sigmoid"
        shown = {each["label"]: each["score"] for each in content["top"]}
        assert shown == pytest.approx(dict(zip(small_head.CLASSES, scores_K.tolist(), strict=True)))
        assert list(shown.values()) == sorted(shown.values(), reverse=True)
        assert content["timeline"]["windows"] == [list(each) for each in tested[key].clips_s]
        scores_WK = tested[key].clip_scores(config.objective)  # type: ignore[arg-type]
        for one, in_time in zip(content["top"], content["timeline"]["scores"], strict=True):
            assert in_time == pytest.approx(scores_WK[:, small_head.CLASSES.index(one["label"])].tolist())


def test_caption_equals_that_of_an_evaluation(top: Path, page: str) -> None:
    evaluate(
        top / "captioner", [str(top / "captioned")], [], "all", batch_size=1
    )  # the number that the page computes at a time
    (path,) = (top / "captioner/evaluations").glob("all*.captions.jsonl")
    captions = {row["key"]: row["caption"] for row in map(json.loads, path.read_text().splitlines())}
    for key, data in clips_of(top / "captioned", 2).items():
        (content,) = ask(f"{page}/api/look", data).content["captions"]
        assert content["run"] == "captioner"
        assert content["caption"] == captions[key]


def test_video_search_equals_the_index_and_shows_the_frames_used(top: Path, page: str, index: Index) -> None:
    clips = clips_of(top / "texts", 16)
    (top / "asked.mp4").write_bytes(clips["clip003"])
    found = ask(f"{page}/api/look", clips["clip003"]).content
    assert [hit["key"] for hit in found["nearest"]] == [hit.key for hit in index.search(video=top / "asked.mp4", k=6)]
    for hit in found["nearest"]:
        assert ask(page + hit["clip"]).body == clips[hit["key"]]
    assert found["map"]["kind"] == "attention"
    assert len(found["map"]["frames"]) == small_head.BACKBONE["frames"]
    assert all(each["places"].startswith("data:image/jpeg;base64,") for each in found["map"]["frames"])


@pytest.mark.parametrize(
    "question",
    [{"text": "a red star spins"}, {"like": "clip002", "k": 3}, {"text": "blue", "where": {"shard": "00000.tar"}}],
)
def test_text_search_equals_the_index(page: str, index: Index, question: dict[str, Any]) -> None:
    hits = ask(f"{page}/api/search", question).content["hits"]
    expected = index.search(**question)
    assert [(hit["key"], hit["caption"]) for hit in hits] == [(hit.key, hit.caption) for hit in expected]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_vector_search(top: Path, page: str, index: Index) -> None:
    vector_1D = Embedder.load(top / "found", CPU).embed_texts(["a red star"])
    hits = ask(f"{page}/api/search", {"vector": vector_1D[0].tolist(), "k": 3}).content["hits"]
    assert [(hit["key"], hit["start_s"]) for hit in hits] == [
        (hit.key, hit.start_s) for hit in index.nearest(vector_1D, 3)[0]
    ]


def test_concurrent_requests_get_their_own_answers(top: Path, page: str) -> None:
    clips = list(clips_of(top / "clips", 4).values())
    alone = [ask(f"{page}/api/look", data).content for data in clips]
    assert len({json.dumps(each) for each in alone}) == len(clips)
    with ThreadPoolExecutor(4) as people:
        assert list(people.map(lambda data: ask(f"{page}/api/look", data).content, clips)) == alone


def test_page_describes_itself(top: Path, page: str) -> None:
    about = ask(f"{page}/api/about").content
    assert [run["name"] for run in about["runs"]] == ["actions", "captioner", "found"]
    assert about["runs"][0]["classes"] == list(small_head.CLASSES)
    catalogue = Index.open(top / "vectors/index").catalogue
    assert about["index"] == {"rows": catalogue.count, "features": catalogue.dim, "texts": True}
    assert about["limits"] == {"megabytes": MOST_BYTES / 1e6, "seconds": 5.0}
    sample = ask(f"{page}/api/samples/1")
    assert sample.headers["Content-Type"] == "video/mp4"
    for asked, status, part in (
        ("bytes=5-9", 206, slice(5, 10)),
        ("bytes=7-", 206, slice(7, None)),
        ("bytes=9-5", 416, None),
    ):
        found = ask(f"{page}/api/samples/1", headers={"Range": asked})
        assert (found.status, found.body) == (status, b"" if part is None else sample.body[part])
    assert ask(f"{page}/api/look?sample=1", b"").content == ask(f"{page}/api/look", sample.body).content


def long_video() -> bytes:
    return media.encode(media.moving_picture(60, 32, 32), None, fps=10)


MISTAKES: dict[str, tuple[int, str, str]] = {
    "broken": (422, "cannot be read as a video", "mp4 or webm"),
    "playlist": (422, "cannot be read as a video", "mp4 or webm"),
    "long": (413, "too long", "--max-seconds"),
    "large": (413, "larger than 0.4 MB", "--max-megabytes"),
    "large, unannounced": (413, "larger than 0.4 MB", "--max-megabytes"),
    "empty": (400, "no video", "sample"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_invalid_and_oversized_uploads_are_errors(
    page: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    body: Any = {
        "broken": b"\x00\x01\x02" * 5000,
        "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        "long": long_video(),
        "large": bytes(MOST_BYTES + 1),
        "large, unannounced": iter([bytes(100_000)] * 5),
        "empty": b"",
    }[name]
    found = ask(f"{page}/api/look", body)
    status, error, hint = MISTAKES[name]
    assert found.status == status
    assert error in found.content["error"]
    assert hint in found.content["hint"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/look?sample=99", b"", 404),
        ("/api/look?ticket=../x", b"abc", 400),
        ("/api/samples/99", None, 404),
        ("/api/samples/..%2f..%2fconfig.yaml", None, 404),
        ("/..%2fapp.py", None, 404),
        ("/app.py", None, 404),
        ("/api/hits/0/999999", None, 404),
        ("/api/hits/7/0", None, 404),
        ("/api/search", {"text": "a", "like": "b"}, 400),
        ("/api/search", {"vector": [1.0, 2.0]}, 400),
        ("/api/search", {"like": "nobody"}, 400),
        ("/api/search", {"words": "a"}, 400),
        ("/api/search", b"[" * 100, 400),
        ("/api/search", b" " * 2_000_000, 413),
        ("/api/look", None, 405),
    ],
)
def test_errors_include_a_hint(page: str, path: str, body: Any, status: int) -> None:
    found = ask(page + path, body)
    assert found.status == status
    assert found.content["error"]
    assert found.content["hint"]


def test_forged_requests_are_answered_or_refused(top: Path) -> None:
    """A fixed slice of the mutants of requests; `make fuzz` runs them by the thousand."""
    subject = Requests()
    subject.start(top)
    with subject.page:
        outcomes = {subject.run(0, number) for number in range(130)}
    assert {"200", "400", "404", "405", "408", "hung up"} <= outcomes


def waiting_client() -> Client:
    return Client(asyncio.Event().wait)  # type: ignore[arg-type]  # hears nothing


def test_queue_has_positions_and_a_limit() -> None:
    async def wait_in_line() -> tuple[list[int | None], list[str]]:
        line, go_on = WorkQueue("test", longest=2), threading.Event()
        first = asyncio.create_task(line.do(lambda: go_on.wait(10) and "one", waiting_client(), "a"))
        second = asyncio.create_task(line.do(lambda: "two", waiting_client(), "b"))
        await asyncio.sleep(0)
        places = [line.ahead_of(ticket) for ticket in ("a", "b", "c", "")]
        with pytest.raises(QueueIsFull):
            await line.do(lambda: "three", waiting_client(), "c")
        go_on.set()
        answers = [str(await first), await second]
        line.close()
        return [*places, line.ahead_of("b")], answers

    assert asyncio.run(wait_in_line()) == ([0, 1, None, None, None], ["one", "two"])


def test_decoding_and_prediction_stop_when_the_client_is_gone(top: Path) -> None:
    (data,) = clips_of(top / "clips", 1).values()
    asked = []

    def is_gone() -> bool:
        asked.append(True)
        return len(asked) > 40

    video = open_video(data, LimitsOfClient(is_gone=is_gone))
    with pytest.raises(SampleError, match="its client is gone"):
        for _ in range(20):
            video.frames(list(range(len(video))))
    inference = VideoInference([top / "captioner"], None, DecodeLimits(), CPU)
    assert inference.predict(RawSample("a", "upload", {"mp4": data}))["captions"]
    with pytest.raises(SampleError, match="its client is gone"):
        inference.predict(RawSample("a", "upload", {"mp4": data}), lambda: True)


def test_windows_are_as_long_as_the_clips_of_a_recipe_and_limited_in_number() -> None:
    spec = small_head.small_config(Path("none")).objective
    facts = Facts(16.0, 400, 25.0, 64, 64, False)
    assert windows_of(spec, facts).clip_seconds == 2.0  # type: ignore[arg-type]  # an eighth of a clip of all of it
    dense = {"kind": "window", "frames": 2, "stride_frames": 25, "placement": "uniform"}
    spec = small_head.small_config(Path("none"), objective__test_clips=dense).objective
    found = windows_of(spec, facts)  # type: ignore[arg-type]
    assert (found.clip_seconds, found.stride_seconds) == (2.0, 1.0)
    found = windows_of(spec, facts._replace(seconds=1200.0))  # type: ignore[arg-type]
    assert (found.clip_seconds, found.stride_seconds) == (2.0, 20.0)


def test_command_serves_those_who_know_the_token_until_ctrl_c(
    top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        assert cli.main(["serve", str(top / "actions"), "--port", str(port)]) == 2
        assert "Next: another --port" in capsys.readouterr().err

    def stop_when_it_answers() -> None:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        for headers in ({}, {"Authorization": "Bearer 0123456789abcdef"}):
            asked.append(ask(f"http://localhost:{port}/api/about", headers=headers).status)
        os.kill(os.getpid(), signal.SIGINT)

    asked: list[int] = []
    person = threading.Thread(target=stop_when_it_answers)
    person.start()
    assert cli.main(["serve", str(top / "actions"), "--port", str(port), "--token-file", str(token)]) == 0
    person.join()
    assert asked == [401, 200]
    printed = capsys.readouterr().err
    assert f"ready: http://127.0.0.1:{port}/?token=TOKEN, with the token of {token}" in printed
    assert "0123456789abcdef" not in printed and "warning" not in printed
    assert printed.endswith("stopped\n")


def test_printed_address_contains_a_new_token_and_an_open_page_is_a_warning(tmp_path: Path) -> None:
    options = ServeOptions([], None, None, "0.0.0.0", 0, DecodeLimits(), token=True, token_file=None)
    token = _token_of(options)
    assert token is not None and len(token) >= 32 and token != _token_of(options)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert _ready(options, token, listening).startswith(
            f"ready: http://127.0.0.1:{listening.getsockname()[1]}/?token={token} "
        )
    assert _reachable(options, token, is_private=False) == []
    options = replace(options, token=False)
    assert _token_of(options) is None
    assert _reachable(options, None, is_private=True) == []
    (warning,) = _reachable(options, None, is_private=False)
    assert "--token" in warning
    path = tmp_path / "token"
    path.touch(0o644)
    (warning,) = _reachable(replace(options, token_file=path), "known", is_private=True)
    assert f"chmod 600 {path}" in warning


def test_missing_extra_or_run_is_an_error_with_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve"]) == 2
    assert "name a RUN" in capsys.readouterr().err
    assert cli.main(["serve", "nowhere", "--token", "--token-file", "x"]) == 2
    assert "not allowed with" in capsys.readouterr().err
    assert cli.main(["serve", "nowhere", "--port", "0", "--token-file", "x"]) == 2
    assert "openssl rand" in capsys.readouterr().err
    assert cli.main(["serve", "nowhere", "--port", "0"]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    assert cli.main(["serve", "runs/any"]) == 2
    assert "pip install 'trichord[page]'" in capsys.readouterr().err

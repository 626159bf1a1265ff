"""SLURM is asked once, for all jobs together, and is not waited for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.launch.fake_slurm import FORGOTTEN, SACCT, SQUEUE, FakeSlurm
from trichord.launch import slurm
from trichord.launch.slurm import JobState, NoAnswer


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "bin", monkeypatch)


def test_the_queue_tells_of_live_jobs_and_accounting_of_the_others(fake: FakeSlurm) -> None:
    fake.answers("squeue", SQUEUE)
    fake.answers("sacct", SACCT)
    found = slurm.states(["62", "64", "66", "61", "67", "69", "99", "62"])
    assert found == {
        "62": JobState("62", "RUNNING", nodes="n[1-2]"),
        "64": JobState("64", "PENDING", "PartitionNodeLimit"),
        "66": JobState("66", "CANCELLED", "JobHeldUser"),
        "61": JobState("61", "COMPLETED", nodes="n1"),
        "67": JobState("67", "CANCELLED"),
        "69": JobState("69", "NODE_FAIL", nodes="n[1-2]"),
        "99": None,
    }
    (asked,) = fake.asked("squeue")
    assert "-j 62,64,66,61,67,69,99 " in asked
    (asked,) = fake.asked("sacct")
    assert asked.endswith("-j 61,67,69,99")


def test_elements_of_an_array_are_found_whether_or_not_they_have_started(fake: FakeSlurm) -> None:
    fake.answers("squeue", "70_1|RUNNING|None|n1\n")
    fake.answers("sacct", SACCT)
    found = slurm.states(["70_0", "70_1", "70_2", "70_3", "70_4", "70_5", "70_9"])
    assert {job_id: state and state.state for job_id, state in found.items()} == {
        "70_0": "COMPLETED",
        "70_1": "RUNNING",
        "70_2": "PENDING",
        "70_3": "PENDING",
        "70_4": None,
        "70_5": "PENDING",
        "70_9": "PENDING",
    }
    assert fake.asked("sacct")[0].endswith("-j 70")  # sacct is silent on an element that has not started


def test_who_is_not_asked_about_anything_asks_nothing(fake: FakeSlurm) -> None:
    assert slurm.states([]) == {}
    assert fake.asked("squeue") == []


def test_a_job_that_the_controller_forgot_is_no_failure(fake: FakeSlurm) -> None:
    fake.answers("squeue", error=FORGOTTEN, status=1)
    assert slurm.states(["99"]) == {"99": None}


def test_without_accounting_it_warns_and_goes_on(fake: FakeSlurm) -> None:
    fake.answers("squeue", SQUEUE)
    fake.answers("sacct", error="Slurm accounting storage is disabled", status=1)
    warnings: list[str] = []
    assert slurm.states(["62", "61"], warnings.append) == {"62": JobState("62", "RUNNING", nodes="n[1-2]"), "61": None}
    (warning,) = warnings
    assert "Slurm accounting storage is disabled" in warning


def test_one_that_does_not_answer_is_not_waited_for(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "PATIENCE_S", 0.2)
    fake.hangs("squeue")
    began_s = time.monotonic()
    with pytest.raises(NoAnswer, match="squeue did not answer"):
        slurm.states(["62"])
    assert time.monotonic() - began_s < 5


def test_a_refusal_is_told_in_slurm_s_words(fake: FakeSlurm) -> None:
    fake.answers("squeue", error="squeue: error: Unable to contact slurm controller (connect failure)", status=1)
    with pytest.raises(NoAnswer, match="Unable to contact slurm controller"):
        slurm.states(["62"])


def test_without_slurm_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoAnswer, match="squeue is not on PATH"):
        slurm.states(["62"])


def test_what_people_set_for_their_own_eyes_hides_no_job(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    fake._write("squeue", 'test -z "$SQUEUE_STATES" && echo "62|RUNNING|None|n1"')
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    assert slurm.states(["62"])["62"] == JobState("62", "RUNNING", nodes="n1")


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("9:28", 568), ("1:59:59", 7199), ("1-02:03:04", 93784), ("UNLIMITED", None), ("INVALID", None), ("0:00", 0)],
)
def test_the_time_left(fake: FakeSlurm, told: str, seconds: float | None) -> None:
    fake.answers("squeue", told + "\n")
    assert slurm.seconds_left("62") == seconds


def test_all_that_the_controller_tells_of_a_job(fake: FakeSlurm) -> None:
    line = "JobId=60 ArrayJobId=53 JobName=a b=c Requeue=1 Restarts=2 AllocNode:Sid=n:1 TRES=cpu=1,mem=5M"
    fake.answers("scontrol", line + " \n")
    found = slurm.show("53_1")
    assert (found["JobId"], found["Requeue"], found["Restarts"], found["TRES"]) == ("60", "1", "2", "cpu=1,mem=5M")
    assert fake.asked("scontrol") == ["show job -o 53_1"]

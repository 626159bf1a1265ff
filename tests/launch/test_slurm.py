"""SLURM is queried once for all jobs, with a timeout."""

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


def test_live_jobs_come_from_squeue_and_the_others_from_sacct(fake: FakeSlurm) -> None:
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


def test_array_elements_are_found_before_and_after_they_start(fake: FakeSlurm) -> None:
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
    assert fake.asked("sacct")[0].endswith("-j 70")  # sacct does not list an element that has not started


def test_no_jobs_means_no_query(fake: FakeSlurm) -> None:
    assert slurm.states([]) == {}
    assert fake.asked("squeue") == []


def test_job_that_the_controller_forgot_is_not_an_error(fake: FakeSlurm) -> None:
    fake.answers("squeue", error=FORGOTTEN, status=1)
    assert slurm.states(["99"]) == {"99": None}


def test_missing_accounting_is_a_warning(fake: FakeSlurm) -> None:
    fake.answers("squeue", SQUEUE)
    fake.answers("sacct", error="Slurm accounting storage is disabled", status=1)
    warnings: list[str] = []
    assert slurm.states(["62", "61"], warnings.append) == {"62": JobState("62", "RUNNING", nodes="n[1-2]"), "61": None}
    (warning,) = warnings
    assert "Slurm accounting storage is disabled" in warning


def test_query_times_out(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "PATIENCE_S", 0.2)
    fake.hangs("squeue")
    began_s = time.monotonic()
    with pytest.raises(NoAnswer, match="squeue did not answer"):
        slurm.states(["62"])
    assert time.monotonic() - began_s < 5


def test_refusal_includes_the_message_of_slurm(fake: FakeSlurm) -> None:
    fake.answers("squeue", error="squeue: error: Unable to contact slurm controller (connect failure)", status=1)
    with pytest.raises(NoAnswer, match="Unable to contact slurm controller"):
        slurm.states(["62"])


def test_missing_slurm_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoAnswer, match="squeue is not on PATH"):
        slurm.states(["62"])


def test_display_settings_of_the_user_hide_no_job(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    fake._write("squeue", 'test -z "$SQUEUE_STATES" && echo "62|RUNNING|None|n1"')
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    assert slurm.states(["62"])["62"] == JobState("62", "RUNNING", nodes="n1")


@pytest.mark.parametrize(
    ("printed", "seconds"),
    [("9:28", 568), ("1:59:59", 7199), ("1-02:03:04", 93784), ("UNLIMITED", None), ("INVALID", None), ("0:00", 0)],
)
def test_time_left(fake: FakeSlurm, printed: str, seconds: float | None) -> None:
    fake.answers("squeue", printed + "\n")
    assert slurm.seconds_left("62") == seconds


def test_details_of_a_job_from_the_controller(fake: FakeSlurm) -> None:
    line = "JobId=60 ArrayJobId=53 JobName=a b=c Requeue=1 Restarts=2 AllocNode:Sid=n:1 TRES=cpu=1,mem=5M"
    fake.answers("scontrol", line + " \n")
    found = slurm.show("53_1")
    assert (found["JobId"], found["Requeue"], found["Restarts"], found["TRES"]) == ("60", "1", "2", "cpu=1,mem=5M")
    assert fake.asked("scontrol") == ["show job -o 53_1"]

"""The history of a run is read completely and in order, despite torn lines and wrong clocks."""

from __future__ import annotations

from pathlib import Path

from trichord.core.run_folder import RunFolder
from trichord.launch.history import Ended, Started, Submitted, read_history, write_event


def submitted(job_id: str, time_s: float) -> Submitted:
    return Submitted(
        time_s=time_s, job_id=job_id, cluster="slurm", host="login", snapshot="001", words=("x",), nodes=1, ranks=1
    )


def started(job_id: str, time_s: float, restarts: int = 0) -> Started:
    return Started(time_s=time_s, job_id=job_id, restarts=restarts, why="submitted", nodes="n1", pid=9)


def ended(job_id: str, time_s: float, restarts: int = 0) -> Ended:
    return Ended(time_s=time_s, job_id=job_id, restarts=restarts, how="finished")


def test_torn_line_is_skipped(tmp_path: Path) -> None:
    write_event(tmp_path, submitted("7", 1))
    whole = RunFolder(tmp_path).history.read_bytes()
    RunFolder(tmp_path).history.write_bytes(whole + whole[:20])  # the disk was full, or the writer was killed
    write_event(tmp_path, started("7", 2))
    assert read_history(tmp_path) == [submitted("7", 1), started("7", 2)]


def test_order_does_not_depend_on_the_clocks_of_nodes(tmp_path: Path) -> None:
    """The login node is a minute ahead of n1, and n2 is behind both."""
    events = [submitted("7", 100), started("7", 41), ended("7", 52), submitted("8", 120), started("8", 9)]
    for event in events:
        write_event(tmp_path, event)
    assert read_history(tmp_path) == events


def test_submission_comes_before_the_events_of_its_job(tmp_path: Path) -> None:
    """The job started before the login node had recorded its submission."""
    for event in (submitted("7", 1), ended("7", 2), started("8", 4), ended("8", 5), submitted("8", 3)):
        write_event(tmp_path, event)
    assert [event.job_id for event in read_history(tmp_path)] == ["7", "7", "8", "8", "8"]
    assert isinstance(read_history(tmp_path)[2], Submitted)


def test_late_events_of_an_earlier_start_come_before_the_later_start(tmp_path: Path) -> None:
    """Its node was disconnected: it noticed only after the later start had begun, or had ended."""
    events = [submitted("7", 1), started("7", 2), ended("7", 3), started("7", 4, 1), ended("7", 5, 1)]
    again = [submitted("7", 6), started("7", 7), ended("7", 8)]  # job ids are reused
    for number in (0, 1, 3, 2, 4, 5, 6, 7):
        write_event(tmp_path, [*events, *again][number])
    assert read_history(tmp_path) == [*events, *again]
    RunFolder(tmp_path).history.unlink()
    for number in (0, 3, 4, 1, 2, 5, 6, 7):
        write_event(tmp_path, [*events, *again][number])
    assert read_history(tmp_path) == [*events, *again]

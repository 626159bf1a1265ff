"""The history of a run is told whole and in order, whatever tore it and whosever clock is wrong."""

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


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    write_event(tmp_path, submitted("7", 1))
    whole = RunFolder(tmp_path).history.read_bytes()
    RunFolder(tmp_path).history.write_bytes(whole + whole[:20])  # the disk was full, or the writer killed
    write_event(tmp_path, started("7", 2))
    assert read_history(tmp_path) == [submitted("7", 1), started("7", 2)]


def test_clocks_of_nodes_do_not_order_it(tmp_path: Path) -> None:
    """The login node is a minute ahead of n1, and n2 behind both."""
    events = [submitted("7", 100), started("7", 41), ended("7", 52), submitted("8", 120), started("8", 9)]
    for event in events:
        write_event(tmp_path, event)
    assert read_history(tmp_path) == events


def test_a_submission_goes_before_what_its_job_told(tmp_path: Path) -> None:
    """The job began before the login node had written that there is one."""
    for event in (submitted("7", 1), ended("7", 2), started("8", 4), ended("8", 5), submitted("8", 3)):
        write_event(tmp_path, event)
    assert [event.job_id for event in read_history(tmp_path)] == ["7", "7", "8", "8", "8"]
    assert isinstance(read_history(tmp_path)[2], Submitted)


def test_what_an_earlier_start_tells_late_goes_before_the_later_one(tmp_path: Path) -> None:
    """Its node lost touch, and it found out that the job runs elsewhere after that start had begun, or had ended."""
    events = [submitted("7", 1), started("7", 2), ended("7", 3), started("7", 4, 1), ended("7", 5, 1)]
    again = [submitted("7", 6), started("7", 7), ended("7", 8)]  # numbers of jobs come round again
    for number in (0, 1, 3, 2, 4, 5, 6, 7):
        write_event(tmp_path, [*events, *again][number])
    assert read_history(tmp_path) == [*events, *again]
    RunFolder(tmp_path).history.unlink()
    for number in (0, 3, 4, 1, 2, 5, 6, 7):
        write_event(tmp_path, [*events, *again][number])
    assert read_history(tmp_path) == [*events, *again]

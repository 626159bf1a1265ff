"""A program that is forked from a warm process behaves like one that is started from a shell."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import warm

PROGRAM = """
import os, sys
print(sys.argv[1:], os.getcwd(), os.environ["WORD"], __name__)
print("aside", file=sys.stderr)
{then}
"""


def _write(folder: Path, then: str) -> None:
    (folder / "some_program.py").write_text(PROGRAM.format(then=then))


@pytest.mark.parametrize(("then", "code"), [("", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", -9), ("1 / 0", 1)])
def test_arguments_streams_and_exit_status_are_its_own(then: str, code: int, tmp_path: Path) -> None:
    _write(tmp_path, f"sys.stdout.flush(); sys.stderr.flush(); {then}")
    done = warm.run(["some_program", "a", "b c"], tmp_path, WORD="heard", PYTHONPATH=str(tmp_path))
    assert done.returncode == code
    assert done.stdout == f"['a', 'b c'] {tmp_path} heard __main__\n"
    assert done.stderr.startswith("aside\n") and ("ZeroDivisionError" in done.stderr) == (code == 1)


def test_program_can_be_signalled_and_is_killed_after_the_time_out(tmp_path: Path) -> None:
    _write(tmp_path, "import time; time.sleep(60)")
    environment = {**os.environ, "WORD": "", "PYTHONPATH": str(tmp_path)}
    program = warm.Program(["some_program"], tmp_path, environment)
    program.send_signal(signal.SIGTERM)
    assert program.wait() == -signal.SIGTERM
    late = warm.Program(["some_program"], tmp_path, environment)
    began_s = time.monotonic()
    with pytest.raises(AssertionError, match="still running after"):
        late.communicate(0.3)
    assert time.monotonic() - began_s < 10


def test_shell_runs_it_as_a_command(tmp_path: Path) -> None:
    _write(tmp_path, "print(sys.stdin.read().upper()); sys.exit(4)")
    (tmp_path / "command").write_text(warm.command_of("some_program"))
    (tmp_path / "command").chmod(0o755)
    script = 'echo told | WORD=w PYTHONPATH=$PWD ./command "x y"; exit $?'
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (4, f"['x y'] {tmp_path} w __main__\nTOLD\n\n")

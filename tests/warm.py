"""Programs for tests, forked from a process that has already made the imports, which take seconds.

The processes of one test run share a server, which ends with the process that started it. A program has its arguments,
environment, folder and streams as with `python -m MODULE …` or `python -c …`, but warm imports.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
HANGS_AFTER_S = 600.0  # so long that only a hanging program takes longer, even on a busy machine
# The socket of the server, for the processes of a test run and for commands made by `command_of`.
SOCKET = "TRICHORD_TESTS_WARM"
LONGEST = 1 << 20
_SERVERS: list[subprocess.Popen[bytes]] = []  # kept, because the end of its standard input would end it


class Program:
    """A running or ended program; its output is kept in files, so that it need not be read meanwhile."""

    def __init__(self, words: Sequence[str], cwd: Path = ROOT, environment: Mapping[str, str] = os.environ) -> None:
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self.returncode: int | None = None
        self._connection = _connect(start_server())
        with open(os.devnull, "rb") as nothing:
            streams = [nothing.fileno(), self._out.fileno(), self._err.fileno()]
            self.pid = _ask(self._connection, words, cwd, environment, streams)

    def communicate(self, timeout: float = HANGS_AFTER_S) -> tuple[str, str]:
        """Wait for its end and return its output; kill it after the timeout."""
        self.wait(timeout)
        return _read(self._out), _read(self._err)

    def wait(self, timeout: float = HANGS_AFTER_S) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = _end_of(self._connection)
            except TimeoutError:
                self.kill()
                self._connection.settimeout(None)
                self.returncode = _end_of(self._connection)
                raise AssertionError(f"still running after {timeout} s: {_read(self._err)}") from None
            finally:
                self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    words: Sequence[str], cwd: Path = ROOT, timeout: float = HANGS_AFTER_S, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a program with `more` added to its environment, and wait for its end."""
    program = Program(words, cwd, {**os.environ, **more})
    out, err = program.communicate(timeout)
    return subprocess.CompletedProcess(list(words), program.wait(), out, err)


def command_of(words: str) -> str:
    """Return a shell script that behaves like `python -m WORDS` followed by its own arguments."""
    return f'#!/bin/sh\nexec env {SOCKET}="{start_server()}" "{sys.executable}" -I -S "{Path(__file__)}" {words} "$@"\n'


def start_server() -> str:
    """Start the server of this test run, unless it has one, and return its socket; it answers once it is warm."""
    if SOCKET not in os.environ:
        path = Path(tempfile.mkdtemp(prefix="warm-", dir="/tmp")) / "socket"
        # OpenMP reads its variables once: with more threads, waiting ones sleep, as in a run.
        openmp = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", **openmp}
        command = [sys.executable, "-m", "tests.warm", "--serve", str(path)]
        # It ends with its standard input, which is closed when this process ends in any way.
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert server.stdout is not None and server.stdout.readline() == b"listening\n"
        _SERVERS.append(server)
        os.environ[SOCKET] = str(path)
    return os.environ[SOCKET]


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def _ask(
    connection: socket.socket, words: Sequence[str], cwd: Path, environment: Mapping[str, str], streams: list[int]
) -> int:
    """Start a program; return its process id."""
    request = json.dumps({"words": list(words), "cwd": str(cwd), "environment": dict(environment)}).encode()
    socket.send_fds(connection, [len(request).to_bytes(4, "big")], streams)
    connection.sendall(request)
    return int(connection.recv(16))


def _end_of(connection: socket.socket) -> int:
    return int(connection.recv(16))


def _read(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode()
    return text


def _serve(path: str) -> None:
    """Fork for each request, until standard input ends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1024)
    print("listening", flush=True)
    _warm_up()
    with selectors.DefaultSelector() as waiting:
        waiting.register(0, selectors.EVENT_READ)
        waiting.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fd == 0:
                    return
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    process = _begin(connection, listener)
                    waiting.register(os.pidfd_open(process), selectors.EVENT_READ, (process, connection))
                else:
                    process, connection = key.data
                    waiting.unregister(key.fd)
                    os.close(key.fd)
                    status = os.waitpid(process, 0)[1]
                    with suppress(OSError):  # the client may be gone
                        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
                    connection.close()


def _warm_up() -> None:
    """Import what most programs import."""
    import torch

    from trichord.pretrain.engine import training

    for name in ("trichord.launch.cli", "trichord.pretrain.engine.run", "matplotlib.pyplot", "rich.progress"):
        importlib.import_module(name)
    if torch.version.cuda is None:  # a GPU build must not initialise CUDA before a fork
        training.import_deepspeed("cpu")


def _begin(connection: socket.socket, listener: socket.socket) -> int:
    head, streams, _, _ = socket.recv_fds(connection, 4, 3)
    request = b""
    while len(request) < int.from_bytes(head, "big"):
        request += connection.recv(LONGEST)
    process = os.fork()
    if not process:
        listener.close()
        connection.close()
        _become(json.loads(request), streams)
    for stream in streams:
        os.close(stream)
    connection.sendall(str(process).encode())
    return process


def _become(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """Run the program in this forked process, to its end."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.path[:0] = filter(None, request["environment"].get("PYTHONPATH", "").split(os.pathsep))
    warnings.simplefilter("ignore")
    module, *arguments = request["words"]
    sys.argv = [module, *arguments]
    code: object = 0
    try:
        if module == "-c":
            sys.argv.pop(1)
            exec(arguments[0], vars(sys.modules["__main__"]))
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _pass_on(words: Sequence[str]) -> int:
    """Start a program with the streams of this process, and exit with its status."""
    connection = _connect(os.environ.pop(SOCKET))
    process = _ask(connection, words, Path.cwd(), os.environ, [0, 1, 2])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(process, number))
    return _end_of(connection)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        try:
            _serve(sys.argv[2])
        finally:
            shutil.rmtree(Path(sys.argv[2]).parent)
    else:
        sys.exit(_pass_on(sys.argv[1:]))

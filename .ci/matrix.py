"""Runs the test suite as other machines would run it, one variant after another, and prints a table of what came out.

    python3 .ci/matrix.py [--variants "avx2 user"] [--work DIR] [--torch auto|cpu|cuda] [PYTEST ARGUMENTS …]

A variant that this machine cannot run is listed with the reason. Logs and the table are kept in the work folder, and
so are environments that a variant needs of its own; they are made anew where the project's requirements changed.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
USER = "nobody"
TOOLS = ("ffmpeg", "ffprobe", "chromium", "chromedriver", "google-chrome", "java", "node")
SLURM = ("sbatch", "srun", "squeue", "sacct", "scancel", "scontrol", "sinfo")
DAEMONS = ("slurmctld", "slurmd", "slurmdbd", "munged")
LIBRARIES = "*/libav*.so.*"  # below /usr/lib, which torchcodec loads
# Names of numpy's groups of instructions beyond x86-64-v2 and -v3.
V3, V4 = ("X86_V3",), ("X86_V4", "AVX512_ICL", "AVX512_SPR")


class NotHere(Exception):
    """Why this machine cannot run a variant."""


@dataclass(frozen=True)
class Variant:
    """One way to run the suite; what is not said is as in `make test`."""

    name: str
    what: str
    environment: dict[str, str] = field(default_factory=dict)
    no_numpy: tuple[str, ...] = ()  # instructions that numpy does without
    needs: str = ""  # of the processor, by its name in /proc/cpuinfo
    python: str = ""  # a version, with an environment of its own
    user: bool = False  # an ordinary one, in a folder with a hard name and an environment of its own
    tmp: str = ""  # on another disk
    bare: bool = False  # without FFmpeg, SLURM, a browser, Java, node and network
    load: int = 0  # busy processes beside it
    shuffled: bool = False
    times: int = 1


def kernels(level: str, openblas: str, mkl: str) -> dict[str, str]:
    """Return what holds ATen, oneDNN, faiss, OpenBLAS and, on Intel's processors, MKL to a set of instructions."""
    onednn = {"default": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE_BF16"}[level]
    faiss = {"default": "generic", "avx2": "avx2", "avx512": "avx512"}[level]
    own = {"ATEN_CPU_CAPABILITY": level, "ONEDNN_MAX_CPU_ISA": onednn, "FAISS_OPT_LEVEL": faiss}
    return own | {"OPENBLAS_CORETYPE": openblas, "MKL_ENABLE_INSTRUCTIONS": mkl}


VARIANTS = (
    Variant(
        "x86-64",
        "no AVX, 1 thread",
        kernels("default", "Nehalem", "SSE4_2") | {"OMP_NUM_THREADS": "1", "MKL_CBWR": "COMPATIBLE"},
        V3 + V4,
        "sse4_2",
    ),
    Variant("avx2", "AVX2, 2 threads", kernels("avx2", "Haswell", "AVX2") | {"OMP_NUM_THREADS": "2"}, V4, "avx2"),
    Variant(
        "avx512",
        "AVX-512, 4 threads, twice in a row",
        kernels("avx512", "", "AVX512") | {"OMP_NUM_THREADS": "4"},
        needs="avx512_bf16",
        times=2,
    ),
    Variant("load", "beside 8 busy processes, in random order", load=8, shuffled=True),
    Variant("user", "an ordinary user, in a path with a space and non-ASCII letters", user=True),
    Variant("bare", "TMPDIR on another disk; no FFmpeg, SLURM, browser, Java or network", tmp="/dev/shm", bare=True),
    Variant("python3.12", "Python 3.12, in random order", python="3.12", shuffled=True),
    Variant("python3.13", "Python 3.13", python="3.13"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--variants", default="", help=f"of {' '.join(each.name for each in VARIANTS)} (default: all)")
    parser.add_argument(
        "--work", type=Path, default=Path("/var/tmp/trichord-matrix"), help="where environments are kept"
    )
    parser.add_argument(
        "--torch", default="auto", help="for environments of their own: auto, cpu, cuda or requirements"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random order")
    choices, pytest_arguments = parser.parse_known_args()
    wanted = choices.variants.split() or [each.name for each in VARIANTS]
    if unknown := set(wanted) - {each.name for each in VARIANTS}:
        parser.error(f"unknown variants: {', '.join(sorted(unknown))}")
    choices.work.mkdir(parents=True, exist_ok=True)
    choices.work.chmod(0o755)
    rows: list[list[str]] = []
    for variant in (each for each in VARIANTS if each.name in wanted):
        for turn in range(variant.times):
            name = variant.name if variant.times == 1 else f"{variant.name} {turn + 1}"
            print(f"== {name}: {variant.what}", flush=True)
            try:
                outcome = run(variant, name, choices, pytest_arguments)
            except NotHere as reason:
                outcome = ["not run", str(reason)]
            rows.append([name, variant.what, *outcome])
            print(f"   {' | '.join(outcome)}", flush=True)
    table = ["| variant | what is different | result | |", "|---|---|---|---|"]
    table += [f"| {' | '.join(row)} |" for row in rows]
    (choices.work / "table.md").write_text("\n".join(table) + "\n")
    print("\n" + "\n".join(table))
    return 1 if any("failed" in row[2] for row in rows) else 0


def run(variant: Variant, name: str, choices: argparse.Namespace, pytest_arguments: Sequence[str]) -> list[str]:
    """Run the suite one time; return its counts, and how long it took or what failed."""
    if variant.needs and variant.needs not in Path("/proc/cpuinfo").read_text().split():
        raise NotHere(f"this processor has no {variant.needs}")
    if (variant.user or variant.bare) and os.getuid():
        raise NotHere("only root can change user, or hide tools and the network")
    place = choices.work / variant.name
    checkout = own_checkout(variant, place, choices.torch) if variant.python or variant.user else ROOT
    report, log = choices.work / f"{name}.xml".replace(" ", "-"), choices.work / f"{name}.log".replace(" ", "-")
    report.unlink(missing_ok=True)
    temporary = Path(variant.tmp or choices.work, "tmp föld er" if variant.user else f"trichord-tmp-{variant.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    words = [str(checkout / ".venv/bin/python"), "-m", "pytest", "-n", str((os.cpu_count() or 1) + 2)]
    words += ["--dist", "loadfile", "--no-loadscope-reorder", "-v", "-p", "no:cacheprovider"]
    words += ["-o", "faulthandler_timeout=900"]  # a test that hangs shows where
    words += ["--random-order", str(choices.seed)] if variant.shuffled else []
    words += ["--junitxml", str(temporary / "report.xml"), *pytest_arguments]
    if variant.user:
        give_away(temporary)
        words = ["setpriv", "--reuid", USER, "--regid", str(pwd.getpwnam(USER).pw_gid), "--clear-groups", *words]
    if variant.bare:
        words = without_tools_and_network(words)
    began_s = time.monotonic()
    with log.open("w") as out, busy_processes(variant.load):
        environment = environment_of(variant, temporary, checkout)
        subprocess.run(words, cwd=checkout, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    seconds = f"{time.monotonic() - began_s:.0f} s"
    if not (temporary / "report.xml").exists():
        return ["failed", f"no report after {seconds}: {log}"]
    shutil.copy(temporary / "report.xml", report)
    shutil.rmtree(temporary, ignore_errors=True)
    counts, failed = outcome_of(report)
    return [counts, "; ".join([seconds, *failed])]


def environment_of(variant: Variant, temporary: Path, checkout: Path) -> dict[str, str]:
    """Return the variables of a run; an empty value takes one away."""
    found = {**os.environ, "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "", **variant.environment}
    if variant.no_numpy:
        show = "import json, numpy; print(json.dumps(numpy.show_config('dicts')['SIMD Extensions'].get('found', [])))"
        python = [str(checkout / ".venv/bin/python"), "-c", show]
        has = json.loads(subprocess.run(python, capture_output=True, text=True, check=True).stdout)
        found["NPY_DISABLE_CPU_FEATURES"] = " ".join(each for each in variant.no_numpy if each in has)
    if variant.user:
        found |= {"HOME": str(temporary), "USER": USER, "LOGNAME": USER, "PATH": "/usr/local/bin:/usr/bin:/bin"}
    return {name: value for name, value in found.items() if value}


def own_checkout(variant: Variant, place: Path, torch: str) -> Path:
    """Clone what is committed into a folder of the variant's own, and install it there."""
    python = find_python(variant)
    checkout = place / "a föld er" / "trichord" if variant.user else place / "trichord"
    if not checkout.exists():
        subprocess.run(["git", "clone", "-q", str(ROOT), str(checkout)], check=True)
    git = ["git", "-c", "safe.directory=*", "-C", str(checkout)]
    subprocess.run([*git, "fetch", "-q", str(ROOT), "HEAD"], check=True)
    subprocess.run([*git, "reset", "-q", "--hard", "FETCH_HEAD"], check=True)
    install = [python, ".ci/install.py", "--torch", torch, "--extras", "dev,bench"]
    done = subprocess.run(install, cwd=checkout, capture_output=True, text=True)
    if done.returncode:
        raise NotHere(f"it could not be installed: {done.stderr.strip().splitlines()[0]}")
    if variant.user:
        give_away(place)
    return checkout


def find_python(variant: Variant) -> str:
    """Return an interpreter that the variant's user can run."""
    if variant.user:
        system = Path("/usr/bin/python3")  # what lies in root's home is not for others
        return str(system) if system.exists() else sys.executable
    name = f"python{variant.python}"
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{variant.python}.*/bin/{name}"))
    found = next((path for path in (*map(str, pyenv), shutil.which(name)) if path), None)
    if found is None:
        raise NotHere(f"no {name} on this machine")
    return found


def give_away(folder: Path) -> None:
    """Make a folder the ordinary user's."""
    user = pwd.getpwnam(USER)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def without_tools_and_network(words: Sequence[str]) -> list[str]:
    """Run a command where these programs and libraries are no files that work, and only loopback answers."""
    paths = [path for name in (*TOOLS, *SLURM, *DAEMONS) if (path := shutil.which(name))]
    paths += [str(path) for path in Path("/usr/lib").glob(LIBRARIES)]
    real = sorted({os.path.realpath(path) for path in paths})
    script = (
        'ip link set lo up; n=$1; shift; while [ "$n" -gt 0 ]; do mount --bind /dev/null "$1"; shift; n=$((n-1)); done'
    )
    return ["unshare", "--mount", "--net", "sh", "-ec", f'{script}; exec "$@"', "sh", str(len(real)), *real, *words]


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep so many processes busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def outcome_of(report: Path) -> tuple[str, list[str]]:
    """Read the counts, and which tests failed."""
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    skipped = int(suite.get("skipped", 0))
    counts = f"{int(suite.get('tests', 0)) - bad - skipped} passed, {bad} failed, {skipped} skipped"
    names = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return counts if bad else counts.replace(", 0 failed", ""), names


if __name__ == "__main__":
    sys.exit(main())

"""Makes the virtual environment that every make target runs in, and never lets a CUDA build of torch slip into it.

    python3 .ci/install.py [--torch auto|cpu|cuda|"REQUIREMENTS"] [--torch-index URL] [--extras dev,bench]

The versions of everything but torch come from constraints.txt beside this file. A stamp in the environment makes the
second run return at once; it changes with the files and the choices that decide what is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"
ENVIRONMENT = ROOT / ".venv"
# Named together, because torchvision alone brings whichever torch it was built for.
TESTED_TORCH = "torch==2.13.0 torchvision==0.28.0 torchaudio==2.11.0"
CUDA_ONLY_PACKAGES = ("nvidia-", "cuda-", "triton")


class InstallError(Exception):
    """What stands in the way, and what to do about it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--torch", default="auto", help="auto, cpu, cuda, or requirements such as 'torch==2.13.0 …'")
    parser.add_argument("--torch-index", default="", help="a package index that holds the wanted build of torch")
    parser.add_argument("--extras", default="dev", help="extras of pyproject.toml to install, separated by commas")
    choices = parser.parse_args()
    stamp_file = ENVIRONMENT / ".installed"
    stamp = fingerprint(choices.torch, choices.torch_index)
    wanted = {extra for extra in choices.extras.split(",") if extra}
    installed = extras_installed(stamp_file, stamp)
    if installed is not None and wanted <= installed:
        return 0
    try:
        install(choices.torch, choices.torch_index, sorted(wanted | (installed or set())))
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"error: {error.cmd[0]} ended with status {error.returncode}; its reason stands above", file=sys.stderr)
        return 1
    stamp_file.write_text(json.dumps({"stamp": stamp, "extras": sorted(wanted | (installed or set()))}))
    return 0


def fingerprint(torch: str, torch_index: str) -> str:
    parts = [(ROOT / "pyproject.toml").read_bytes(), CONSTRAINTS.read_bytes(), Path(__file__).read_bytes()]
    parts += [torch.encode(), torch_index.encode(), sys.version.encode(), str(ROOT).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def extras_installed(stamp_file: Path, stamp: str) -> set[str] | None:
    """Give the extras of a finished installation made from the same choices, or None."""
    if not stamp_file.exists():
        return None
    written = json.loads(stamp_file.read_text())
    return set(written["extras"]) if written["stamp"] == stamp else None


def install(torch: str, torch_index: str, extras: list[str]) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036, this runs under whatever Python the person has
        raise InstallError(f"found Python {sys.version.split()[0]}, expected 3.11 or newer: make PYTHON=python3.11 …")
    torch_requirements = (TESTED_TORCH if torch in ("auto", "cpu", "cuda") else torch).split()
    index = ["--extra-index-url", torch_index] if torch_index else []
    python = make_environment()
    if torch == "cpu" or (torch == "auto" and not nvidia_device_present()):
        refuse_cuda(planned_packages(python, [*index, *torch_requirements]))
    chosen = " ".join(torch_requirements)
    print(f"installing trichord with {chosen} into {ENVIRONMENT.name}; the first time takes minutes", flush=True)
    target = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    pip(python, "install", "-qq", *index, "-c", str(CONSTRAINTS), *torch_requirements, "-e", target)


def make_environment() -> Path:
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        if subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)]).returncode:
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
            raise InstallError("python -m venv failed; on Debian and Ubuntu: apt-get install python3-venv python3-dev")
    return python


def nvidia_device_present() -> bool:
    """Ask the driver: a CUDA toolkit without a device (a build machine, a login node) does not count."""
    if Path("/dev/nvidia0").exists():
        return True
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def planned_packages(python: Path, requirements: list[str]) -> list[str]:
    """Let pip resolve without installing, and give the names it would install."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "plan.json")
        pip(python, "install", "-qq", "--dry-run", "--ignore-installed", "--report", str(report), *requirements)
        plan = json.loads(report.read_text())
    return [entry["metadata"]["name"] for entry in plan["install"]]


def refuse_cuda(names: list[str]) -> None:
    unwanted = sorted(name for name in names if name.lower().replace("_", "-").startswith(CUDA_ONLY_PACKAGES))
    if unwanted:
        raise InstallError(
            "this would install a CUDA build of torch, several GB, where no NVIDIA device was found\n"
            f"  pip's plan holds {', '.join(unwanted[:4])}{f' and {len(unwanted) - 4} more' * (len(unwanted) > 4)}\n"
            "  for a CPU build, name an index that has one:  make TORCH_INDEX=<index of CPU wheels> …\n"
            "  or point pip at a wheel you have:             PIP_FIND_LINKS=<folder> make …\n"
            "  if you do want CUDA here (a login node):      make TORCH=cuda …"
        )


def pip(python: Path, *arguments: str) -> None:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run([str(python), "-m", "pip", *arguments], check=True, env=environment)


if __name__ == "__main__":
    sys.exit(main())

"""Make `.venv` with the pinned versions; standard library only, run by the system's Python.

`TORCH_INDEX` names another package index for torch (for example one with CPU builds): on Linux
the default index's torch brings several GB of CUDA packages along.
"""

import os
import platform
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".installed"
TORCH = "torch==2.13.0"


def refuse(message):
    """End with one line that says what is wrong and what to do."""
    sys.exit("install: " + message)


def check_platform():
    """Refuse what the pinned versions do not exist for, by name."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        refuse(
            f"{system} {machine} runs the command line only: "
            "`pip install .` and `quarterdeck login URL`; the platform needs Linux x86-64"
        )
    if sys.version_info[:2] != (3, 11):
        version = platform.python_version()
        refuse(
            f"this is Python {version} ({sys.executable}); Quarterdeck needs Python 3.11: "
            "`make install PYTHON=python3.11`"
        )


def check_index(url):
    """See that TORCH_INDEX answers for torch before anything is downloaded."""
    page = url.rstrip("/") + "/torch/"
    try:
        with urllib.request.urlopen(page, timeout=20) as answer:
            if answer.status == 200:
                return
            reason = f"HTTP {answer.status}"
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = str(error)
    refuse(f"TORCH_INDEX={url}: {page} does not answer ({reason}); correct or unset TORCH_INDEX")


def run(*command):
    """Run a command, and end with its status when it fails."""
    result = subprocess.run(command, cwd=str(ROOT), check=False)
    if result.returncode:
        refuse(f"`{' '.join(command)}` failed with status {result.returncode}")


def has_gpu():
    """Whether the kernel shows an NVIDIA device."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def check_no_cuda(pip):
    """A machine without a GPU must not end with gigabytes of CUDA packages."""
    names = subprocess.run(
        [*pip, "list", "--format", "freeze"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    cuda = [name for name in names if name.startswith("nvidia-")]
    if cuda and not has_gpu():
        refuse(
            f"this machine has no GPU, yet {len(cuda)} CUDA packages arrived ({cuda[0]}, ...): "
            "set TORCH_INDEX to an index with CPU builds, `make clean`, and try again"
        )


def main():
    check_platform()
    index = os.environ.get("TORCH_INDEX", "")
    if index:
        check_index(index)
    subprocess.run([sys.executable, str(ROOT / "tools" / "preflight.py"), "--install"], check=True)
    if not (VENV / "bin" / "python").exists():
        print("install: making .venv", flush=True)
        run(sys.executable, "-m", "venv", str(VENV))
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    print("install: torch", flush=True)
    run(*pip, "install", "-q", "-c", "constraints.txt", TORCH, *(["-i", index] if index else []))
    print("install: everything else", flush=True)
    extras = "workers,tracing,demo,dev"
    run(*pip, "install", "-q", "-c", "constraints.txt", "-e", f".[{extras}]")
    check_no_cuda(pip)
    STAMP.touch()
    print("install: done", flush=True)


if __name__ == "__main__":
    main()

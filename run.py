"""Make the environment in .venv, then run one thing in it. Needs Python 3.11 or later and nothing else.

python3 run.py demo [options]     the main job: attack, purify, listen (see `audiopure demo --help`)
python3 run.py test [options]     lint, types and all tests (options go to pytest)
python3 run.py shell COMMAND ...  any command inside the environment
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
# The version the results were made with. On a machine with a GPU, install the build that fits it into .venv.
TORCH = "torch==2.13.0"
MOST = 4  # processes of tests: each takes a gigabyte or two
# On Linux the package index serves a CUDA build of gigabytes; PyTorch's own index has one without.
CPU_TORCH = [f"{TORCH}+cpu", "--extra-index-url", "https://download.pytorch.org/whl/cpu"]


def tool(name: str) -> str:
    """Path of a program of the environment."""
    return str(VENV / ("Scripts" if os.name == "nt" else "bin") / name)


def works() -> bool:
    """Whether the environment can install: it breaks when its Python is removed or its making was cut off."""
    try:
        command = [tool("python"), "-m", "pip", "--version"]
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def install_torch(pip: list[str]) -> None:
    """The small build where there is one, else whatever the configured index or mirror has."""
    if sys.platform == "linux":
        # no retries: behind a firewall the extra index must cost seconds, not minutes
        attempt = [*pip, "--retries", "0", "--timeout", "5", *CPU_TORCH]
        if subprocess.run(attempt, capture_output=True).returncode == 0:
            return
    subprocess.check_call([*pip, TORCH])


def prepare(extras: str) -> None:
    """Create or bring up to date the environment; a stamp saves the time when nothing has changed."""
    if not works():
        print(f"making {VENV}", file=sys.stderr)
        subprocess.check_call([sys.executable, "-m", "venv", "--clear", str(VENV)])
    stamp = VENV / f"ready{extras or '-base'}"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + TORCH.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    pip = [tool("python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    print(
        "installing PyTorch and audiopure (the download may take a few minutes)",
        file=sys.stderr,
    )
    if subprocess.call([tool("python"), "-c", "import torch"], stderr=subprocess.DEVNULL) != 0:
        install_torch(pip)
    subprocess.check_call([*pip, "--editable", f"{ROOT}{extras}"])
    stamp.write_text(wanted)


def cores() -> int:
    """Those this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check(options: list[str]) -> int:
    """Lint, types, tests; the first failure ends it. Files of tests run side by side, each on one core."""
    commands = [
        [tool("ruff"), "check", "."],
        [tool("ruff"), "format", "--check", "."],
        [tool("pyright"), "--pythonpath", tool("python")],
        [tool("python"), "-m", "pytest", "-n", str(min(cores(), MOST)), "--dist", "loadfile", *options],
    ]
    settings = {"OMP_NUM_THREADS": "1"} | os.environ
    for command in commands:
        print(
            "$", " ".join(Path(part).name if part.startswith("/") else part for part in command), flush=True
        )
        status = subprocess.call(command, cwd=ROOT, env=settings)
        if status != 0:
            return status
    return 0


def main() -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 - for whoever starts it with an older Python
        print("audiopure needs Python 3.11 or later", file=sys.stderr)
        return 2
    if len(sys.argv) < 2 or sys.argv[1] not in ("demo", "test", "shell"):
        print(__doc__, file=sys.stderr)
        return 2
    what, options = sys.argv[1], sys.argv[2:]
    if what == "shell" and not options:
        print("run.py shell needs a command, such as: run.py shell audiopure info", file=sys.stderr)
        return 2
    try:
        prepare("[test,lint]" if what == "test" else "")
    except subprocess.CalledProcessError as error:
        command = " ".join(error.cmd)
        print(
            f"{VENV} could not be prepared: '{command}' ended with status {error.returncode}", file=sys.stderr
        )
        return 1
    if what == "test":
        return check(options)
    name, *arguments = ["audiopure", "demo", *options] if what == "demo" else options
    program = shutil.which(name, path=str(Path(tool(name)).parent))
    if program is None:
        print(f"there is no command '{name}' in {VENV}", file=sys.stderr)
        return 2
    return subprocess.call([program, *arguments])


if __name__ == "__main__":
    sys.exit(main())

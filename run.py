"""Make the environment in .venv, then run one thing in it. Needs Python 3.11 or later and nothing else.

python3 run.py demo [options]     the main job: attack, purify, listen (see `audiopure demo --help`)
python3 run.py test [options]     lint, types and all tests (options go to pytest)
python3 run.py shell COMMAND ...  any command inside the environment
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
# The version the results were made with. On a machine with a GPU, install the build that fits it into .venv.
TORCH = "torch==2.13.0"


def tool(name: str) -> str:
    """Path of a program of the environment."""
    return str(VENV / ("Scripts" if os.name == "nt" else "bin") / name)


def prepare(extras: str) -> None:
    """Create or bring up to date the environment; a stamp saves the time when nothing has changed."""
    stamp = VENV / f"ready{extras or '-base'}"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + TORCH.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    if not VENV.is_dir():
        print(f"making {VENV}", file=sys.stderr)
        subprocess.check_call([sys.executable, "-m", "venv", str(VENV)])
    pip = [tool("python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    print("installing PyTorch and audiopure (about a minute the first time)", file=sys.stderr)
    if subprocess.call([tool("python"), "-c", "import torch"], stderr=subprocess.DEVNULL) != 0:
        subprocess.check_call([*pip, TORCH])
    subprocess.check_call([*pip, "--editable", f"{ROOT}{extras}"])
    stamp.write_text(wanted)


def check(options: list[str]) -> int:
    """Lint, types, tests; the first failure ends it."""
    commands = [
        [tool("ruff"), "check", "."],
        [tool("ruff"), "format", "--check", "."],
        [tool("pyright"), "--pythonpath", tool("python")],
        [tool("python"), "-m", "pytest", *options],
    ]
    for command in commands:
        print(
            "$", " ".join(Path(part).name if part.startswith("/") else part for part in command), flush=True
        )
        status = subprocess.call(command, cwd=ROOT)
        if status != 0:
            return status
    return 0


def main() -> int:
    if sys.version_info < (3, 11):
        print("audiopure needs Python 3.11 or later", file=sys.stderr)
        return 2
    if len(sys.argv) < 2 or sys.argv[1] not in ("demo", "test", "shell"):
        print(__doc__, file=sys.stderr)
        return 2
    what, options = sys.argv[1], sys.argv[2:]
    prepare("[test,lint]" if what == "test" else "")
    if what == "test":
        return check(options)
    command = [tool("audiopure"), "demo", *options] if what == "demo" else [tool(options[0]), *options[1:]]
    return subprocess.call(command)


if __name__ == "__main__":
    sys.exit(main())

"""`audiopure evaluate`: reports, mistakes, shards, and processes that are stopped without warning."""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from evaluation_helpers import CLIPS, assert_alike, measured, register

import audiopure
from audiopure.cli.console import Lines
from audiopure.cli.main import main
from audiopure.evaluation.card import Card
from audiopure.evaluation.engine import EvaluationConfig

COMMAND = ["evaluate", "--system", "m5", "--limit", "2"]


def run_cli(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    code = ended.value.code
    return code if isinstance(code, int) else 0


def test_the_command_writes_a_report_and_fails_under(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "report"
    common = [*COMMAND, "-o", str(folder), "--workers", "1", "--threads", "1"]
    assert run_cli(*common) == 0
    said = capsys.readouterr()
    assert "about" in said.err and "index.html" in said.out.replace("\n", "")
    card = Card.model_validate_json((folder / "report.json").read_bytes())
    assert card.command.startswith("audiopure evaluate --system m5")
    assert (folder / "report.md").is_file() and (folder / "index.html").is_file()
    assert not list(folder.glob("*.part*"))
    assert run_cli(*common, "--fail-under", "linf=0") == 0
    assert run_cli(*common, "--fail-under", "101") == 1
    assert "fewer than 101 %" in capsys.readouterr().err
    assert run_cli(*common, "--fail-under", "gain=5") == 2
    assert "no column gain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--protocol", "fast"], "there is no protocol 'fast'"),
        (["--shard", "3/2"], "write i/n"),
        (["--fail-under", "many"], "write a number"),
        (["--fail-under", "nan"], "write a number"),
        (["--fail-under", "l3=5"], "no column l3"),
        (["--protocol", "grid", "--fail-under", "5"], "no attack that counts"),
        (["--knowledge", "all"], "there is no setting 'all'"),
        (["--device", "abacus"], "'abacus' cannot be used"),
        (["--merge", "nowhere"], "holds no evaluation"),
        (["--system", "nobody+m5"], "no weights at 'nobody'"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_sentence(
    extra: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*COMMAND, "-o", str(tmp_path / "r"), *extra) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "Traceback" not in error and len(error.splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_the_command_can_be_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "my clips"
    config = EvaluationConfig(system="small+m5", data=folder, knowledge="DW_both", device="cuda")
    words = shlex.split(config.command)
    assert words[words.index("--data") + 1] == str(folder)
    assert words[-4:] == ["--knowledge", "DW_both", "--device", "cuda"]


def test_progress_without_a_terminal_is_a_line_now_and_then() -> None:
    now, said = [0.0], []
    lines = Lines("Attacking", 100.0, every=30, clock=lambda: now[0], say=said.append)
    for _ in range(10):
        now[0] += 12
        lines.advance(10)
    assert said == [
        "Attacking: 30 %, about 1 min 24 s left.",
        "Attacking: 60 %, about 48 s left.",
        "Attacking: 90 %, about 12 s left.",
    ]


# stands in for the command, with the tiny protocol and slowly, so that it can be stopped on any machine; its
# worker processes import it as well
DRIVER = """
import sys
import time
import pytest
from audiopure.evaluation.ledger import Ledger
from evaluation_helpers import register
register(pytest.MonkeyPatch())
append = Ledger.append
def slowly(ledger, outcomes):
    append(ledger, outcomes)
    time.sleep(0.15)
Ledger.append = slowly
if __name__ == "__main__":
    from audiopure.cli.main import main
    main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def whole(data: Path) -> Iterator[Card]:
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        yield audiopure.evaluate("evaluation_helpers:system", data, protocol="tiny", limit=CLIPS)


def start(data: Path, output: Path, *extra: str) -> subprocess.Popen[str]:
    driver = output.parent / "driver.py"
    driver.write_text(DRIVER)
    command = [sys.executable, str(driver), "evaluate", "--system", "evaluation_helpers:system"]
    command += ["--data", str(data), "--protocol", "tiny", "--limit", str(CLIPS), "-o", str(output)]
    command += ["--threads", "1", *extra]
    paths = [str(Path(__file__).parent), str(Path(audiopure.__file__).parents[1])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell that starts the tests in the background makes them, and so their children, ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_progress(process: subprocess.Popen[str], output: Path, chance: random.Random) -> None:
    """Until something new has been measured, and a random moment longer."""
    ledger, before = output / "outcomes.jsonl", None
    while process.poll() is None:
        size = ledger.stat().st_size if ledger.is_file() else 0
        before = size if before is None else before
        if size > before:
            break
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.2))


def group_is_gone(group: int) -> bool:
    """Whether no process of a group is left that runs."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return False
    return True


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processes are found in /proc")
def test_a_run_that_is_stopped_in_any_way_ends_with_the_same_numbers(
    data: Path, whole: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real processes, each stopped at a random moment; the next goes on where it was."""
    output, chance = tmp_path / "report", random.Random()
    ways = [
        ("2", lambda p: p.kill(), -signal.SIGKILL),  # the parent only
        ("2", lambda p: os.killpg(p.pid, signal.SIGINT), 130),  # Ctrl-C reaches all
        ("1", lambda p: p.terminate(), 143),
        ("1", lambda p: os.killpg(p.pid, signal.SIGKILL), -signal.SIGKILL),
    ]
    for workers, stop, status in ways:
        process = start(data, output, "--workers", workers)
        wait_for_progress(process, output, chance)
        stop(process)
        _, said = process.communicate(timeout=60)
        assert process.returncode == status and "Traceback" not in said, said
        assert status < 0 or "goes on from" in said
        limit = time.monotonic() + 60
        while not group_is_gone(process.pid):
            assert time.monotonic() < limit, "a worker outlived its parent"
            time.sleep(0.02)
    register(monkeypatch)
    card = audiopure.evaluate("evaluation_helpers:system", data, protocol="tiny", limit=CLIPS, output=output)
    assert measured(card) == measured(whole)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processes are found in /proc")
def test_a_worker_that_dies_ends_the_run(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "report"
    process = start(data, output, "--workers", "2")
    wait_for_progress(process, output, random.Random())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [c for c in children if "resource_tracker" not in Path(f"/proc/{c}/cmdline").read_text()]
    os.kill(int(workers[0]), signal.SIGKILL)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 2 and "SIGKILL" in said.splitlines()[-1] and "Traceback" not in said


def test_shards_and_merge_by_command(
    data: Path, whole: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    common = ["evaluate", "--system", "evaluation_helpers:system", "--data", str(data), "--protocol", "tiny"]
    common += ["--limit", str(CLIPS), "--workers", "1", "--threads", "1", "-o"]
    for number in (1, 2):
        assert run_cli(*common, str(tmp_path / str(number)), "--shard", f"{number}/2") == 0
    merged = ["--merge", str(tmp_path / "1"), "--merge", str(tmp_path / "2"), "-o", str(tmp_path / "all")]
    assert run_cli("evaluate", *merged) == 0
    card = Card.model_validate_json((tmp_path / "all" / "report.json").read_bytes())
    assert_alike(measured(card), measured(whole))
    assert "--shard" not in card.command
    assert all((tmp_path / "all" / example.audio).is_file() for example in card.examples)

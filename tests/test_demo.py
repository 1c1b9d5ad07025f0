"""The demo: its files agree with each other, its page stands alone, its numbers are repeatable."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile
import torch

from audiopure import audio, metrics
from audiopure.cli.main import main
from audiopure.evaluation.clips import batches, item_of, load_clips
from audiopure.evaluation.demo.experiment import Demo, DemoConfig
from audiopure.evaluation.demo.page import choose_examples
from audiopure.evaluation.demo.results import COLUMNS, DemoResults, cell
from audiopure.evaluation.pages.plots import spectrogram_uri, wav_uri, waveform_path

TINY = ["--clips", "6", "--steps", "2", "--eot", "1", "--passes", "2", "--examples", "3"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(["demo", *arguments])
    return int(leaving.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo") / "out"
    assert run("--output", str(output), *TINY) == 0
    return output


@pytest.fixture(scope="module")
def results(folder: Path) -> DemoResults:
    return DemoResults.model_validate_json((folder / "results.json").read_text())


class Resources(HTMLParser):
    """Everything that a page would load, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.loaded: list[str] = []
        self.text: list[str] = []
        self.sounds = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loaded += [v for k, v in attrs if k in ("src", "srcset", "poster", "data") and v]
        self.loaded += [values["href"] or ""] if tag == "link" and "href" in values else []
        self.sounds += tag == "audio"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_files(folder: Path, results: DemoResults) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "results.json", "table.md"]
    raw = json.loads((folder / "results.json").read_text())
    assert raw["schema"] == "audiopure-demo-1"
    assert raw["command"].startswith("audiopure demo --clips 6 --steps 2 --eot 1 --passes 2 --seed 0")
    assert [row["key"] for row in raw["rows"]] == ["none", "noise", "purified"]
    assert raw["data"]["clips"] == len(raw["clips"]) == 6
    assert "chosen because the recogniser hears them" in raw["data"]["note"]


def test_the_table_is_the_clips(results: DemoResults) -> None:
    for row in results.rows:
        for column in COLUMNS:
            counts = [clip.right[row.key][column] for clip in results.clips]
            assert row.cells[column].average.value == pytest.approx(sum(counts) / (6 * row.passes))
            assert row.cells[column].worst.value == sum(c == row.passes for c in counts) / 6
    assert results.rows[0].cells["clean"].average.value == 1.0


def test_markdown_and_page_print_the_numbers_of_the_results(folder: Path, results: DemoResults) -> None:
    lines = [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("| ")][1:]
    html = (folder / "index.html").read_text()
    values = re.findall(r'class="value">(\d+) %</span><span class="interval">\[(\d+)–(\d+)\]', html)
    printed = []
    for row, line in zip(results.rows, lines, strict=True):
        for column, text in zip(COLUMNS, line.strip("| ").split(" | ")[1:], strict=True):
            average, worst = row.cells[column].average, row.cells[column].worst
            numbers = [
                int(n) for n in re.findall(r"(\d+)(?= %|–|\])", text.replace(f"all {row.passes}: ", ""))
            ]
            expected = [average.value, average.low, average.high]
            expected += [worst.value, worst.low, worst.high] if row.passes > 1 else []
            assert numbers == [round(100 * v) for v in expected]
            printed.append(tuple(str(round(100 * v)) for v in expected[:3]))
    assert values == printed
    assert str(results.data.note) in html and str(results.data.note) in (folder / "table.md").read_text()


def test_the_page_loads_nothing(folder: Path, results: DemoResults) -> None:
    html = (folder / "index.html").read_text()
    page = Resources(html)
    assert page.loaded and all(source.startswith("data:") for source in page.loaded)
    assert page.sounds == 3 * 8
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", html)
    text = " ".join(page.text)
    assert results.command in text and results.versions["torch"] in text


def test_the_page_plays_what_was_attacked(folder: Path, results: DemoResults) -> None:
    """The sounds are decoded from the page: the budgets hold for what a listener plays."""
    sources = re.findall(
        r'<audio[^>]*src="data:audio/wav;base64,([^"]+)"', (folder / "index.html").read_text()
    )
    decoded = [soundfile.read(io.BytesIO(base64.b64decode(s)), dtype="float32") for s in sources]
    assert all(rate == 16_000 for _, rate in decoded)
    sounds = [torch.from_numpy(samples) for samples, _ in decoded]
    for example in range(3):
        clean, linf, l2, through_linf, through_l2 = sounds[8 * example : 8 * example + 5]
        for attacked in (linf, through_linf):
            assert 0 < float(metrics.linf(attacked, clean)) <= 0.002
        for attacked in (l2, through_l2):
            assert 0 < float(metrics.l2(attacked, clean)) <= 0.253


def test_a_run_repeats_and_a_clip_does_not_depend_on_the_others(results: DemoResults) -> None:
    names = {clip.id: clip for clip in results.clips}
    config = DemoConfig(clips=3, steps=2, eot=1, passes=2, examples=0)
    demo = Demo.prepare(config)
    again = demo.run()
    assert len(again.clips) == 3
    for clip in again.clips:
        assert clip.snr["none"] == pytest.approx(names[clip.id].snr["none"], abs=0.05)
        assert clip.right["none"] == names[clip.id].right["none"]
    audio_, answer = demo.purified("linf", 0)
    heard = demo.heard["purified", "linf", 0]
    assert audio_.shape == heard.audio.shape
    with torch.no_grad():
        logits = demo.recogniser(audio_[None])
    torch.testing.assert_close(logits.softmax(-1)[0], answer, rtol=1e-2, atol=1e-3)


def test_the_plan_counts_every_row() -> None:
    plan = Demo.prepare(DemoConfig(clips=2, steps=1, eot=1, passes=1)).plan()
    assert list(plan) == ["none", "noise", "purified"]
    assert all(seconds > 0 for seconds in plan.values())


def test_intervals_count_clips_not_passes() -> None:
    found = cell([10, 10, 5, 0], 10)
    assert found.average.value == 25 / 40
    assert found.average.low == metrics.clopper_pearson(2, 4)[0]
    assert found.average.high == metrics.clopper_pearson(3, 4)[1]
    assert found.worst.value == 0.5
    assert (found.worst.low, found.worst.high) == metrics.clopper_pearson(2, 4)


def test_batches_keep_clips_apart_that_hear_each_others_padding(tmp_path: Path) -> None:
    for name, seconds in {"a": 0.5, "b": 1.0, "c": 1.25, "d": 1.25, "e": 0.3}.items():
        tone = 0.1 * torch.sin(torch.arange(round(16_000 * seconds)) / 10)
        (tmp_path / "one").mkdir(exist_ok=True)
        audio.write(tmp_path / "one" / f"{name}.wav", tone, 16_000)
    clips = load_clips(tmp_path, Demo.prepare(DemoConfig(clips=1)).recogniser, 10, 0)
    shapes = sorted((len(b.index), b.waveform.shape[1]) for b in batches(clips, 16, at_least=16_000))
    assert shapes == [(2, 20_000), (3, 16_000)]
    split = sorted(len(b.index) for b in batches(clips, 2, at_least=16_000))
    assert split == [1, 2, 2]
    items = [i for b in batches(clips, 2, at_least=16_000) for i in b.items]
    assert sorted(items) == sorted(item_of(f"one/{n}.wav") for n in "abcde")


def test_examples_begin_with_the_worst(results: DemoResults) -> None:
    def fails(index: int) -> int:
        return sum(results.clips[index].right["purified"][norm] for norm in ("linf", "l2"))

    chosen = choose_examples(results, 4)
    assert len(set(chosen)) == 4
    assert [fails(i) for i in chosen] == sorted(fails(i) for i in chosen)
    assert fails(chosen[0]) == min(fails(i) for i in range(6))
    assert sorted(choose_examples(results, 50)) == list(range(6))
    assert choose_examples(results, 0) == []


def test_pictures_and_sounds() -> None:
    tone = torch.sin(2 * torch.pi * 2000 * torch.arange(16_000) / 16_000) * 0.5
    from PIL import Image

    uri = spectrogram_uri(tone, 40.0)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("L")
    assert picture.size == (251, 128)
    column = [picture.getpixel((125, y)) for y in range(128)]
    # 2 kHz is a quarter of the way up
    assert column.index(max(column)) == pytest.approx(128 * 0.75, abs=2)  # type: ignore[type-var]
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(wav_uri(2 * tone, 16_000).partition(",")[2])))
    assert rate == 16_000 and len(samples) == 16_000
    heights = [float(v) for v in re.findall(r"[ML][\d.]+ ([\d.]+)", waveform_path(tone, 1.0))]
    assert min(heights) == pytest.approx(10, abs=0.2) and max(heights) == pytest.approx(30, abs=0.2)


@pytest.mark.parametrize("case", ["missing", "empty", "labels", "output", "recogniser"])
def test_bad_input(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "data"
    arguments = {"missing": ["--data", str(where)], "recogniser": ["--recogniser", "nobody"]}.get(case, [])
    if case in ("empty", "labels"):
        (where / "cat").mkdir(parents=True)
        arguments = ["--data", str(where)]
    if case == "labels":
        audio.write(where / "cat" / "x.wav", torch.full((16_000,), 0.1), 16_000)
    if case == "output":
        (tmp_path / "out").write_text("a file")
    assert run("--output", str(tmp_path / "out"), *arguments, *TINY) == 2
    message = capfd.readouterr().err.strip()
    assert message.startswith("audiopure: ") and "\n" not in message
    expected = {
        "missing": str(where),
        "empty": str(where),
        "labels": "cat",
        "output": "out",
        "recogniser": "nobody",
    }
    assert expected[case] in message


def test_real_recordings(data_root: Path, tmp_path: Path) -> None:
    assert run("--data", str(data_root / "sc09"), "--output", str(tmp_path / "out"), *TINY) == 0
    found = DemoResults.model_validate_json((tmp_path / "out" / "results.json").read_text())
    assert found.data.split == "test" and found.data.note is None
    assert len({clip.label for clip in found.clips}) == 6
    assert "chosen because" not in (tmp_path / "out" / "index.html").read_text()

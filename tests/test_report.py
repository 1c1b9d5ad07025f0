"""The report: every number of a card stands where it belongs, pages stand alone, charts keep their box."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile
import torch
from card_factory import curve, example, full_card, make_card
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from audiopure import audio
from audiopure.evaluation.card import Card, Metrics, Proportion, Protocol
from audiopure.evaluation.pages.charts import Axis, Mark, Series, line_chart
from audiopure.evaluation.report.markdown import escape, headline_table, markdown
from audiopure.evaluation.report.page import render
from audiopure.evaluation.report.terminal import rich_tables
from audiopure.evaluation.report.words import verdict

VOID = {"meta", "img", "br", "link", "input", "hr"}


def whole(share: Proportion) -> str:
    """As every format prints it."""
    return f"{round(100 * share.value)} % [{round(100 * share.low)}–{round(100 * share.high)}]"


def four(metrics: Metrics) -> list[Proportion]:
    return [metrics.average, metrics.one_shot, metrics.worst, metrics.vote]


class Page(HTMLParser):
    """Checks that elements nest, and collects text, tables and what would be loaded."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self.sounds = 0
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loaded += [v for k, v in attrs if k in ("src", "srcset", "poster", "data", "action") and v]
        self.loaded += [v for k, v in attrs if k in ("href", "xlink:href") and v]
        self.ids += [v for k, v in attrs if k == "id" and v]
        self.refers += (values.get("aria-labelledby") or "").split()
        self.sounds += tag == "audio"
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"script", "style"} & set(self.open):
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def card() -> Card:
    return full_card()


@pytest.fixture(scope="module")
def folder(card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "audio").mkdir()
    for number, entry in enumerate(card.examples):
        tone = 0.1 * (number + 1) * torch.sin(torch.arange(8000) / 5)
        audio.write(folder / entry.audio, tone, 16_000)
    return folder


@pytest.fixture(scope="module")
def html(card: Card, folder: Path) -> str:
    return render(card, folder)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def cells(table: str) -> list[list[str]]:
    """Of a Markdown table, without its heading."""
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return [re.split(r" (?<!\\)\| ", line.removeprefix("| ").removesuffix(" |")) for line in lines]


def test_the_headline_shows_every_reading_beside_the_average(card: Card, page: Page) -> None:
    table = cells(headline_table(card))
    assert [row[0] for row in table] == ["small+digits", "no defence", "noise-only"]
    for row, line, shown in zip(card.rows, table, page.tables[0][1:], strict=True):
        conditions = [row.conditions[0], *(c for c in row.conditions if c.counts)]
        for condition, cell, html_cell in zip(conditions, line[1:], shown[1:], strict=True):
            expected = [whole(share) for share in four(condition.attacked)]
            expected = expected if condition.attacked.passes > 1 else expected[:1]
            for text in (cell.replace("**", ""), " ".join(html_cell.split()).replace("%[", "% [")):
                assert re.findall(r"\d+ % \[\d+–\d+\]", text) == expected
                assert "of 30" in text
                assert ("worst of 10" in text) == (condition.attacked.passes > 1)
                assert ("all readings equal" in text) == (condition.attacked.passes == 1)


def test_every_condition_stands_beside_its_own_no_attack_value(card: Card, page: Page) -> None:
    text = markdown(card)
    attacks = (table for table in page.tables if table[0][:2] == ["Attack", "Budget"])
    for row in card.rows:
        section = text[text.index(f"### {row.title} ({row.role})") :]
        found = cells(section[: section.index("\n- ")])
        shown = next(attacks)
        for condition, line, html_line in zip(row.conditions, found, shown[1:], strict=True):
            for cell, html_cell, now, before in zip(
                line[3:7], html_line[3:7], four(condition.attacked), four(condition.clean), strict=True
            ):
                expected = [whole(now)] if condition.attack is None else [whole(now), whole(before)]
                assert re.findall(r"\d+ % \[\d+–\d+\]", cell) == expected
                assert re.findall(r"\d+ % \[\d+–\d+\]", html_cell) == expected
            for numbers in (line, html_line):
                assert numbers[2] == "30"
                if condition.attack is None:
                    assert numbers[7:] == ["—"] * 8
                    continue
                assert condition.success is not None
                assert numbers[7] == f"{whole(condition.success)} of {condition.success.n}"
                if condition.any_iterate is not None:
                    assert numbers[8].startswith(f"{whole(condition.any_iterate)} of 30")
                    before = condition.any_iterate_clean
                    assert ("without" in numbers[8]) == (before is not None)
                    assert before is None or numbers[8].endswith(f"without: {whole(before)}")
                assert numbers[9:] == ["1,234", "31.4", "0.25", "0.002", "-3.5", "0.97"]


def test_every_check_is_shown_with_its_verdict(card: Card, html: str, page: Page) -> None:
    title = "Sanity checks: 0 passed, 1 violated, 1 not run."
    assert title in html and title in markdown(card)
    shown = next(table for table in page.tables if table[0][0] == "What must hold")
    section = markdown(card).split("## Sanity checks")[1].split("## ")[0]
    for check, line, html_line in zip(card.checks, cells(section), shown[1:], strict=True):
        assert line == html_line == [check.name, check.about, check.verdict, check.sentence]


def test_flags_come_first_and_violations_before_notes(card: Card, html: str, page: Page) -> None:
    text = markdown(card)
    violation, note = "Accuracy rises with the budget", "The transfer attack was left out"
    assert text.index(violation) < text.index(note) < text.index("| system |")
    assert page.text.index(violation) < page.text.index(note) < page.text.index("How many clips")
    assert "VIOLATION" in text and '<li class="violation">' in html
    assert verdict(card)[0] == "One check has failed: these numbers cannot be taken at their word."
    calm = card.model_copy(update={"flags": []})
    assert "failed" not in verdict(calm)[0] and ">" not in markdown(calm).splitlines()[2]


def test_the_verdict_says_what_withstands_what(card: Card, page: Page) -> None:
    sentences = verdict(card)
    linf = next(c for c in card.rows[0].conditions if c.key == "pgd/linf")
    (sentence,) = [s for s in sentences if s.startswith("Attacked within L∞ ≤ 0.002")]
    assert f"{whole(linf.attacked.average)} of 30 clips" in sentence
    for share in [*four(linf.attacked), linf.clean.average]:
        assert whole(share) in sentence
    assert any(s.startswith("Compared with “noise-only”, clip by clip, under pgd: clean ") for s in sentences)
    assert all(sentence in page.text for sentence in sentences)


def test_audits_command_versions_and_notes(card: Card, html: str, page: Page, folder: Path) -> None:
    for text in (markdown(card).replace("\\", ""), page.text):
        assert "cosine 0.9998" in text and "independent draws agree by a cosine of 0.123" in text
        assert "BROKEN" in text and "no gradient through quantiser" in text and "Planted." in text
        assert card.command in text and "2.13.0" in text and "0123456789abcdef" in text
        assert "Pgd(norm='linf', eot=5)" in text and "654,321" in text
    note = "The paper's own weaker settings."
    protocol = Protocol(name="paper", passes=10, settings={}, note=note)
    weak = card.model_copy(update={"protocol": protocol})
    assert note in markdown(weak) and note in Page(render(weak, folder)).text


def test_curves_are_printed_point_by_point(card: Card, page: Page) -> None:
    text = markdown(card)
    for entry in card.curves:
        for point in entry.points:
            x = "∞" if math.isinf(point.x) else f"{point.x:g}"
            assert f"| {x} | {whole(point.y)} | {point.y.n} |" in text
            assert any(row[1:] == [x, whole(point.y), "30"] for table in page.tables for row in table)


def test_every_clip_is_listed(card: Card, page: Page) -> None:
    (table,) = [t for t in page.tables if t[0][0] == "Clip"]
    for clip, line in zip(card.clips, table[1:], strict=True):
        shares = [clip.right[row.key][c.key] for row in card.rows for c in row.conditions]
        assert line == [clip.id, clip.label, *(f"{100 * share:.0f}" for share in shares)]


def test_the_page_loads_nothing(html: str, page: Page) -> None:
    assert page.loaded and all(source.startswith("data:") for source in page.loaded)
    assert "http:" not in html and "https:" not in html
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", html)
    assert "default-src 'none'" in html and 'lang="en"' in html and 'name="viewport"' in html
    assert len(set(page.ids)) == len(page.ids) and set(page.refers) <= set(page.ids)


def test_the_page_plays_the_files(card: Card, folder: Path, html: str, page: Page) -> None:
    sources = re.findall(r'<audio[^>]*src="data:audio/wav;base64,([^"]+)"', html)
    assert len(sources) == len(card.examples) == page.sounds
    for source, entry in zip(sources, card.examples, strict=True):
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(source)), dtype="float32")
        expected, _ = audio.read(folder / entry.audio)
        assert rate == 16_000 and torch.equal(torch.from_numpy(samples), expected[0])
    names = re.findall(r'aria-label="Play: ([^"]*)"', html)
    assert names[0] == "no attack" and names[2] == f"{names[1]}, purified"
    assert "right in 10 of 10 passes" in page.text and "SNR 31.4 dB" in page.text


def test_sounds_that_are_not_there(card: Card, folder: Path, tmp_path: Path) -> None:
    inside = tmp_path / "report"
    inside.mkdir()
    outside = folder / card.examples[0].audio
    (inside / "damaged.wav").write_bytes(b"RIFF")
    lost = ["gone.wav", "damaged.wav", f"../{outside.name}", str(outside)]
    audio.write(tmp_path / outside.name, torch.zeros(4000), 16_000)
    examples = [
        example("pgd/linf", 0, "<b>two</b>").model_copy(update={"audio": name, "clip": name}) for name in lost
    ]
    page = Page(render(card.model_copy(update={"examples": examples}), inside))
    assert page.sounds == 0 and page.loaded == []
    assert page.text.count("is not beside the report") == len(lost)
    assert page.text.count("<b>two</b>") == len(lost)


def test_a_small_card_has_no_empty_sections(tmp_path: Path) -> None:
    rows = {"system": {"clean": torch.ones(4, 1).bool().numpy()}}
    small = make_card(rows)
    page = Page(render(small, tmp_path))
    assert "Listen" not in page.text and "Curves" not in page.text
    assert "100 % [40–100]" in markdown(small) and "## Curves" not in markdown(small)
    assert len(verdict(small)) == 1


def test_the_terminal_of_80_columns_keeps_every_number(card: Card) -> None:
    out = io.StringIO()
    for part in rich_tables(card):
        Console(file=out, width=80).print(part)
    printed = out.getvalue()
    assert "…" not in printed and "PGD-20, EOT" in printed
    for row in card.rows:
        assert all(whole(c.attacked.average) in printed for c in row.conditions)


@pytest.mark.parametrize("width", [100, 200])
def test_the_terminal_gets_at_most_100_columns(card: Card, width: int) -> None:
    long = "small,n_star=5,sampler=one-shot+a.module.with.a.long.name:build"
    rows = [row.model_copy(update={"title": long}) for row in card.rows]
    out = io.StringIO()
    for part in rich_tables(card.model_copy(update={"rows": rows})):
        Console(file=out, width=width).print(part)
    lines = out.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100
    plain = out.getvalue()
    for metrics in (entry.attacked for row in card.rows for entry in row.headlines):
        assert all(whole(share) in plain for share in four(metrics))
    assert plain.index("VIOLATION") < plain.index("clean")


def test_markdown_shows_text_as_it_is() -> None:
    assert escape("n*=3 | a_b <x>\ny [1]") == r"n\*=3 \| a\_b \<x\> y \[1\]"


def coordinates(svg: str) -> list[tuple[float, float]]:
    """Every point that is drawn: of paths (M, L, H, v, h), circles and texts."""
    found = [(float(x), float(y)) for x, y in re.findall(r'c?x="([^"]+)" c?y="([^"]+)"', svg)]
    for path in re.findall(r' d="([^"]+)"', svg):
        x = y = math.nan
        for step, numbers in re.findall(r"([MLHhv])([^MLHhvZ]+)", path):
            values = [float(n) for n in numbers.split()]
            x, y = values if step in "ML" else (x, y)
            x = values[0] if step == "H" else x + values[0] if step == "h" else x
            y = y + values[0] if step == "v" else y
            found.append((x, y))
    return found


def check(svg: str) -> None:
    width, height = (float(v) for v in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    points = coordinates(svg)
    assert points and "nan" not in svg and "inf" not in re.sub(r"<(title|desc).*?</\1>", "", svg)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
    for x, text in re.findall(r'<text x="([\d.]+)" y="[\d.]+">([^<]*)</text>', svg):
        assert float(x) + 6 * len(text) <= width


share = st.floats(0, 1, allow_subnormal=False)  # which the tests flush to zero


place = st.one_of(st.sampled_from([0.0, 1.0, math.inf]), st.floats(0.001, 1e6, allow_subnormal=False))
line = st.lists(st.tuples(place, share, share, share), min_size=1, max_size=6)


@given(st.lists(line, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_charts_stay_in_their_box(lines: list[list[tuple[float, float, float, float]]]) -> None:
    series = [
        Series(f"a system with a long name, {k}", tuple(Mark(x, *_sorted(*y)) for x, *y in line))
        for k, line in enumerate(lines)
    ]
    svg = str(line_chart(series, title="A <title>", x_label="x & more", key="k"))
    Page(svg)
    check(svg)


def _sorted(*values: float) -> tuple[float, float, float]:
    low, middle, high = sorted(values)
    return middle, low, high


def test_charts_of_the_page(card: Card, html: str) -> None:
    charts = re.findall(r'<svg class="chart".*?</svg>', html, re.DOTALL)
    assert len(charts) == 4
    for chart in charts:
        check(chart)
    both = next(chart for chart in charts if "∞" in chart and "multiple" in chart)
    assert ">L∞</text>" in both and ">L2</text>" in both
    assert 'class="s0"' in both and 'class="s1"' in both
    spoken = re.findall(r"<desc[^>]*>(.*?)</desc>", both)[0]
    assert "L∞: 93% (78% to 99%) at 0.25" in spoken and "at infinity" in spoken


def test_a_chart_draws_the_numbers() -> None:
    """From the drawn circles back to the shares, on both kinds of axis."""
    marks = tuple(Mark(x, y, max(0, y - 0.1), min(1, y + 0.1)) for x, y in [(1, 0.9), (10, 0.4), (100, 0.1)])
    svg = str(line_chart([Series("one", marks)], title="", x_label="", key="k"))
    ticks = {t: float(y) for y, t in re.findall(r'y="([\d.]+)" text-anchor="end">(\d+)%', svg)}
    zero, full = ticks["0"] - 4, ticks["100"] - 4
    circles = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    for (_, y), mark in zip(circles, marks, strict=True):
        assert (zero - y) / (zero - full) == pytest.approx(mark.y, abs=0.003)
    assert circles[1][0] - circles[0][0] == pytest.approx(circles[2][0] - circles[1][0], abs=0.2)


def test_axes() -> None:
    decades = Axis([1, 10, 100, 1000])
    assert [decades(x) for x in (1, 10, 100, 1000)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    narrow = Axis([1, 2, 3, 5])
    assert [narrow(x) for x in (1, 2, 3, 5)] == pytest.approx([0, 0.25, 0.5, 1])
    whole_axis = Axis([0, 1, 100, math.inf])
    places = [whole_axis(x) for x in (0, 1, 10, 100, math.inf)]
    assert places == sorted(places) and places[0] == 0 and places[-1] == 1
    assert places[2] - places[1] == pytest.approx(places[3] - places[2])
    assert Axis([7])(7) == 0.5 and Axis([math.inf])(math.inf) == 0.5


def test_more_curves_than_styles_make_several_charts(card: Card, folder: Path) -> None:
    curves = [curve("budget", f"column {k}", [(1, k), (2, k + 1)]) for k in range(6)]
    page = render(card.model_copy(update={"curves": curves, "examples": []}), folder)
    assert page.count('<svg class="chart"') == 2
    twice = [curve("steps", column, [(1, 3), (2, 2)]) for column in ("linf", "l2", "linf", "l2")]
    page = render(card.model_copy(update={"curves": twice, "examples": []}), folder)
    assert [chart.count("direct") for chart in re.findall('<svg class="chart".*?</svg>', page)] == [2, 2]


def test_long_curves(card: Card) -> None:
    """Markdown and the axis name round x only; the line has every point."""
    steps = curve("steps", "linf", [(k, 30 - k / 5) for k in range(101)])
    text = markdown(card.model_copy(update={"curves": [steps]}))
    section = text[text.index("## Curves") : text.index("## To repeat it")]
    assert re.findall(r"^\| (\d+) \|", section, re.M) == "0 1 2 5 10 20 50 100".split()
    assert "8 of 101 points" in section
    marks = tuple(Mark(p.x, p.y.value, p.y.low, p.y.high) for p in steps.points)
    svg = str(line_chart([Series("one", marks)], title="", x_label="", key="k"))
    check(svg)
    assert len(re.findall(r'<path class="line" d="([^"]+)"', svg)[0].split("L")) == 101
    assert re.findall(r'text-anchor="middle">(\d+)<', svg) == "100 50 20 10 5 2 1 0".split()


def fields(value: object, path: str = "") -> set[str]:
    """Where in a document there is something, lists and numbers apart."""
    if isinstance(value, dict):
        return {path}.union(*(fields(part, f"{path}.{key}") for key, part in value.items()))
    return {path}.union(*(fields(part, path) for part in value)) if isinstance(value, list) else {path}


def test_the_documented_example_is_a_card(tmp_path: Path) -> None:
    """And its headline is what its clips say."""
    text = (Path(__file__).parents[1] / "docs" / "report.md").read_text(encoding="utf-8")
    example = re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0]
    documented = Card.model_validate_json(example)
    assert fields(json.loads(documented.model_dump_json(by_alias=True))) == fields(json.loads(example))
    (row,) = documented.rows
    shares = [clip.right["system"]["pgd-ce/linf"] for clip in documented.clips]
    assert row.headlines[0].attacked.average.value == sum(shares) / len(shares)
    assert row.headlines[0].attacked.worst.value == sum(value == 1 for value in shares) / len(shares)
    assert "50 % [7–93]" in markdown(documented) and Page(render(documented, tmp_path)).sounds == 0

"""Datasets: manifests, the published layouts, stratified choice, batches."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiopure import audio
from audiopure.data import DATASETS, Clip, Dataset, collate, data_root, load_dataset, read_manifest
from audiopure.data.layouts import COMMANDS35, DIGITS, speech_commands_split
from audiopure.data.manifest import to_int16
from audiopure.data.synthetic import word, write_dataset
from audiopure.errors import InputError

HEADER = "path,label,speaker,split,seconds,sample_rate\n"


def put(path: Path, samples: int = 800, rate: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(samples, np.int16), rate)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("generated") / "sc09", clips_per_label=5, seed=1)


def test_official_hash_rule_gives_the_given_splits(data_root: Path) -> None:
    with (data_root / "sc09" / "manifest.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    wrong = [row["path"] for row in rows if speech_commands_split(row["path"]) != row["split"]]
    assert not wrong


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("zero/0132a06d_nohash_1.wav", "train"),
        ("zero/6b7d5101_nohash_0.wav", "train"),
        ("zero/dc269564_nohash_0.flac", "train"),
        ("zero/099d52ad_nohash_4.wav", "validation"),
        ("five/1942abd7_nohash_0.wav", "validation"),
        ("nine/439c84f4_nohash_2.flac", "validation"),
        ("zero/210f3aa9_nohash_0.wav", "test"),
        ("three/8fe52b97_nohash_0.wav", "test"),
        ("seven/5c8af87a_nohash_2.flac", "test"),
    ],
)
def test_hash_rule_on_names_of_the_published_set(name: str, split: str) -> None:
    assert speech_commands_split(name) == split


@given(st.text("0123456789abcdef", min_size=8, max_size=8), st.integers(0, 99))
def test_hash_rule_keeps_speakers_together(speaker: str, index: int) -> None:
    assert speech_commands_split(f"yes/{speaker}_nohash_{index}.wav") == speech_commands_split(speaker)


def test_given_dataset_loads_as_its_manifest_says(data_root: Path) -> None:
    dataset = load_dataset("sc09", root=data_root, split="test")
    assert dataset.labels == DIGITS
    chosen = dataset.stratified(10, seed=0)
    for clip, waveform in zip(chosen, chosen.load_all(), strict=True):
        assert waveform.dtype == torch.float32 and waveform.abs().max() <= 1
        assert waveform.shape[0] == pytest.approx(clip.seconds * clip.sample_rate, abs=1)
        assert torch.equal(waveform, torch.from_numpy(soundfile.read(clip.path, dtype="float32")[0]))


@pytest.mark.parametrize("threads", [1, 3])
def test_load_all_keeps_order_and_int16_is_exact(generated: Dataset, threads: int) -> None:
    floats = generated.load_all(threads=threads)
    integers = generated.load_all(dtype=torch.int16, threads=threads)
    for clip, waveform, stored in zip(generated, floats, integers, strict=True):
        expected = torch.from_numpy(soundfile.read(clip.path, dtype="int16")[0])
        assert torch.equal(stored, expected) and torch.equal(waveform * 32768, expected.float())


def test_load_averages_channels_and_resamples(tmp_path: Path) -> None:
    time = np.arange(4000) / 8000
    tone = 0.4 * np.sin(2 * np.pi * 500 * time)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, tone / 2], axis=1), 8000, subtype="FLOAT")
    clip = Clip("a.wav", tmp_path / "a.wav", "tone", "", "test", 0.5, 8000)
    waveform = Dataset("tones", tmp_path, [clip]).load(clip, sample_rate=16000)
    expected = 0.3 * np.sin(2 * np.pi * 500 * np.arange(8000) / 16000)
    assert waveform.shape == (8000,)
    assert np.abs(waveform.numpy() - expected)[200:-200].max() < 1e-4


def test_resampled_full_scale_stays_in_range(tmp_path: Path) -> None:
    square = np.sign(np.sin(2 * np.pi * 300 * np.arange(4000) / 8000))
    soundfile.write(tmp_path / "a.wav", square, 8000)
    clip = Clip("a.wav", tmp_path / "a.wav", "square", "", "test", 0.5, 8000)
    overshoot = audio.resample(audio.read(clip.path)[0], 8000, 16000).abs().max()
    assert overshoot > 1.02
    assert Dataset("squares", tmp_path, [clip]).load(clip).abs().max() == 1.0


def unbalanced(counts: dict[str, int], order: int = 0) -> Dataset:
    clips = [
        Clip(f"{label}/{i}.wav", Path(f"{label}/{i}.wav"), label, "", "test", 1.0, 16000)
        for label, count in counts.items()
        for i in range(count)
    ]
    np.random.default_rng(order).shuffle(clips)  # type: ignore[arg-type]
    return Dataset("counted", Path("."), clips, tuple(counts))


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any),
    st.integers(0, 5),
    st.data(),
)
def test_stratified_is_balanced_and_nested(counts: list[int], seed: int, draw: st.DataObject) -> None:
    dataset = unbalanced({f"label{i}": count for i, count in enumerate(counts)})
    n = draw.draw(st.integers(1, len(dataset)))
    chosen = dataset.stratified(n, seed)
    assert len({clip.id for clip in chosen}) == n and chosen.labels == dataset.labels
    taken = Counter(clip.label for clip in chosen)
    most = max(taken.values())
    for label, supply in zip(dataset.labels, counts, strict=True):
        assert taken[label] >= min(supply, most - 1)
    smaller = dataset.stratified(draw.draw(st.integers(1, n)), seed)
    assert set(smaller.clips) <= set(chosen.clips)


def test_stratified_depends_on_seed_and_ids_only() -> None:
    counts = {"a": 30, "b": 30}
    chosen = [clip.id for clip in unbalanced(counts, order=1).stratified(10, 7)]
    assert chosen == [clip.id for clip in unbalanced(counts, order=2).stratified(10, 7)]
    assert set(chosen) != {clip.id for clip in unbalanced(counts).stratified(10, 8)}
    for n in (0, 61):
        with pytest.raises(InputError, match=f"Cannot choose {n} clips"):
            unbalanced(counts).stratified(n, 0)


def test_split_keeps_the_order_of_labels(generated: Dataset) -> None:
    test = generated.split("test")
    assert test.labels == DIGITS and {clip.split for clip in test} == {"test"}
    assert [test.labels[i] for i in test.targets()] == [clip.label for clip in test]
    with pytest.raises(InputError, match="no split 'eval'; it has test, validation, train"):
        generated.split("eval")


def test_manifest_round_trip(generated: Dataset) -> None:
    again = read_manifest(generated.root)
    assert again.labels == generated.labels and len(again) == len(generated) == 50
    for ours, theirs in zip(generated, again, strict=True):
        assert (ours.id, ours.label, ours.speaker, ours.split) == (
            theirs.id, theirs.label, theirs.speaker, theirs.split,
        )  # fmt: skip
        assert theirs.seconds == pytest.approx(ours.seconds, abs=1e-4)


def test_manifest_text_column(tmp_path: Path) -> None:
    row = 'a.flac,s1,s1,test,1.5,16000,"WORDS, WITH A COMMA"\n'
    (tmp_path / "manifest.csv").write_text(HEADER.strip() + ",text\n" + row)
    assert read_manifest(tmp_path)[0].text == "WORDS, WITH A COMMA"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such manifest"),
        ("", "has no path, label"),
        ("path,label,split,seconds\n", "has no speaker, sample_rate column"),
        (HEADER, "lists no clips"),
        (HEADER + "a.wav,x,,test,1.0\n", "line 2 has the wrong number of fields"),
        (HEADER + "a.wav,x,,test,1.0,16000,more\n", "line 2 has the wrong number of fields"),
        (HEADER + "a.wav,,,test,1.0,16000\n", "line 2 needs a path, a label and a split"),
        (HEADER + "a.wav,x,,test,long,16000\n", "line 2 has a duration or sample rate that is no number"),
        (HEADER + "a.wav,x,,test,nan,16000\n", "line 2 needs a positive duration"),
        (HEADER + "a.wav,x,,test,1.0,0\n", "line 2 needs a positive duration and sample rate"),
        (HEADER + "../a.wav,x,,test,1.0,16000\n", r"leaves the dataset's folder"),
        (HEADER + "/etc/a.wav,x,,test,1.0,16000\n", r"leaves the dataset's folder"),
        (HEADER + "a.wav,x,,test,1.0,16000\n" * 2, "lists a.wav twice"),
        ("path\xff", "not a UTF-8 CSV"),
    ],
)
def test_bad_manifest(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "manifest.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b.wav,x,,test,1.0,16000", "b.wav: listed in dataset .* does not exist"),
        ("a.wav,x,,test,1.0,8000", "sample rate is 16000 Hz, the manifest says 8000"),
        ("a.wav,x,,test,2.0,16000", r"lasts 1.0000 s, the manifest says 2.0 s"),
    ],
)
def test_manifest_that_lies_is_found_on_loading(row: str, message: str, tmp_path: Path) -> None:
    put(tmp_path / "a.wav", 16000)
    (tmp_path / "manifest.csv").write_text(HEADER + row + "\n")
    dataset = read_manifest(tmp_path)
    with pytest.raises(InputError, match=message):
        dataset.load_all()


def described(dataset: Dataset) -> dict[str, tuple[str, str, str]]:
    return {clip.id: (clip.label, clip.speaker, clip.split) for clip in dataset}


def test_speech_commands_layout(tmp_path: Path) -> None:
    for name in ("yes/0a_nohash_0.wav", "bed/026290a7_nohash_0.wav", "one/0b_nohash_1.wav"):
        put(tmp_path / name)
    put(tmp_path / "_background_noise_" / "pink.wav")
    every = load_dataset(f"commands35:{tmp_path}")
    assert set(every.labels) == {"yes", "bed", "one"}
    assert described(every)["bed/026290a7_nohash_0.wav"] == ("bed", "026290a7", "validation")
    assert [clip.label for clip in load_dataset(f"sc09:{tmp_path}")] == ["one"]
    assert [clip.label for clip in load_dataset(f"commands10:{tmp_path}")] == ["yes"]
    assert len(COMMANDS35) == len(set(COMMANDS35)) == 35


def test_speech_commands_lists_win_over_the_rule(tmp_path: Path) -> None:
    for name in ("yes/026290a7_nohash_0.wav", "no/bb05582b_nohash_3.wav", "no/5_nohash_0.wav"):
        put(tmp_path / name)
    (tmp_path / "validation_list.txt").write_text("no/5_nohash_0.wav\n")
    (tmp_path / "testing_list.txt").write_text("yes/026290a7_nohash_0.wav\n")
    splits = {
        name: split for name, (_, _, split) in described(load_dataset(f"commands35:{tmp_path}")).items()
    }
    assert splits == {
        "yes/026290a7_nohash_0.wav": "test",
        "no/5_nohash_0.wav": "validation",
        "no/bb05582b_nohash_3.wav": "train",
    }


def test_fsdd_layout(tmp_path: Path) -> None:
    for name in ("7_george_4.wav", "0_mary_ann_5.wav", "notes.wav"):
        put(tmp_path / "recordings" / name, rate=8000)
    dataset = load_dataset(f"fsdd:{tmp_path}")
    assert dataset.labels == DIGITS and dataset[0].sample_rate == 8000
    assert described(dataset) == {
        "recordings/7_george_4.wav": ("seven", "george", "test"),
        "recordings/0_mary_ann_5.wav": ("zero", "mary_ann", "train"),
    }


@pytest.mark.parametrize("inside", [False, True])
def test_librispeech_layout(inside: bool, tmp_path: Path) -> None:
    chapter = tmp_path / "dev-clean" / "84" / "121123"
    put(chapter / "84-121123-0001.flac")
    (chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO\n84-121123-0001 DO YOU HEAR\n")
    dataset = load_dataset(f"librispeech:{tmp_path / 'dev-clean' if inside else tmp_path}")
    assert [(c.label, c.speaker, c.split, c.text) for c in dataset] == [
        ("84", "84", "validation", "DO YOU HEAR")
    ]


def test_qualcomm_layout_keeps_speakers_apart(tmp_path: Path) -> None:
    for speaker in range(12):
        for keyword in ("hey_android", "hi_galaxy"):
            put(tmp_path / keyword / f"speaker{speaker}" / "0.wav", samples=7680 + 100 * speaker)
    dataset = load_dataset(f"qualcomm:{tmp_path}")
    assert dataset.labels == ("hey_android", "hi_galaxy") and len(dataset) == 24
    split_of = {(clip.speaker, clip.split) for clip in dataset}
    assert len(split_of) == 12 and len({split for _, split in split_of}) > 1


def test_any_labelled_folder(tmp_path: Path) -> None:
    put(tmp_path / "cat" / "deep" / "a.wav", samples=123)
    put(tmp_path / "dog" / "b.flac", rate=44100)
    put(tmp_path / "stray.wav")
    assert described(load_dataset(tmp_path)) == {
        "cat/deep/a.wav": ("cat", "", "test"),
        "dog/b.flac": ("dog", "", "test"),
    }


def test_labelled_folder_with_splits(tmp_path: Path) -> None:
    put(tmp_path / "train" / "cat" / "a.wav")
    put(tmp_path / "dev" / "cat" / "b.wav")
    assert described(load_dataset(str(tmp_path))) == {
        "train/cat/a.wav": ("cat", "", "train"),
        "dev/cat/b.wav": ("cat", "", "validation"),
    }


@pytest.mark.parametrize("layout", [name for name in DATASETS if name != "manifest"])
def test_layout_of_an_empty_folder(layout: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no audio files laid out as"):
        load_dataset(f"{layout}:{tmp_path}")


def test_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIOPURE_DATA", str(tmp_path))
    (tmp_path / "other").mkdir()
    assert data_root(None) == tmp_path and data_root(tmp_path / "other") == tmp_path / "other"
    with pytest.raises(InputError, match="does not exist"):
        data_root(tmp_path / "absent")
    monkeypatch.delenv("AUDIOPURE_DATA")
    with pytest.raises(InputError, match="pass one or set the environment variable AUDIOPURE_DATA"):
        data_root(None)


def test_load_dataset_finds_names_and_paths(
    generated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = generated.root.parent
    by_name = load_dataset("sc09", root=root, split="validation")
    assert {clip.split for clip in by_name} == {"validation"}
    assert described(load_dataset(generated.root)) == described(load_dataset(f"manifest:{generated.root}"))
    with pytest.raises(InputError, match=r"No dataset 'sc08' under .* \(it has sc09\)"):
        load_dataset("sc08", root=root)
    with pytest.raises(InputError, match="no such folder"):
        load_dataset(str(tmp_path / "absent"))
    monkeypatch.delenv("AUDIOPURE_DATA", raising=False)
    with pytest.raises(InputError, match="AUDIOPURE_DATA"):
        load_dataset("sc08")
    monkeypatch.chdir(root)
    assert len(load_dataset("sc09")) == 50


def test_generated_dataset(generated: Dataset, tmp_path: Path) -> None:
    assert Counter((c.label, c.split) for c in generated) == Counter(
        {(label, split): n for label in DIGITS for split, n in (("test", 1), ("validation", 1), ("train", 3))}
    )
    speakers = {split: {c.speaker for c in generated.split(split)} for split in generated.splits}
    assert sum(map(len, speakers.values())) == len(set.union(*speakers.values()))
    assert all(0.39 < clip.seconds <= 1.0 for clip in generated)
    again = write_dataset(tmp_path / "sc09", clips_per_label=5, seed=1)
    assert all(map(torch.equal, again.load_all(), generated.load_all()))
    with pytest.raises(InputError, match="at least 3 clips"):
        write_dataset(tmp_path / "small", clips_per_label=2, seed=0)


def test_generated_words_differ_by_label() -> None:
    """Mean log spectra over time thirds: the nearest label mean tells the word far above chance."""

    def features(label: str, seed: int) -> torch.Tensor:
        waveform = word(label, np.random.default_rng(seed))
        thirds = waveform[: len(waveform) // 3 * 3].view(3, -1)
        spectra = torch.stft(thirds, 512, window=torch.hann_window(512), return_complex=True).abs()
        bands = spectra[:, :256].view(3, 64, 4, -1).mean(dim=(2, 3))
        return (bands / bands.sum()).sqrt().flatten()

    means = torch.stack([torch.stack([features(d, s) for s in range(8)]).mean(0) for d in DIGITS])
    right = 0
    for index, label in enumerate(DIGITS):
        for seed in range(100, 104):
            right += int((features(label, seed) - means).norm(dim=1).argmin()) == index
    assert right >= 32
    with pytest.raises(InputError, match="no generated word 'ten'"):
        word("ten", np.random.default_rng(0))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_collate_pads_with_zeros(sizes: list[int]) -> None:
    clips = [torch.arange(1.0, size + 1) for size in sizes]
    batch, lengths = collate(clips)
    assert batch.shape == (len(sizes), max(sizes)) and lengths.tolist() == sizes
    for row, clip in zip(batch, clips, strict=True):
        assert torch.equal(row[: len(clip)], clip) and not row[len(clip) :].any()


@pytest.mark.parametrize(
    "clips", [[], [torch.zeros(0)], [torch.zeros(1, 5)], [torch.zeros(5), torch.tensor(0.0)]]
)
def test_collate_refuses(clips: list[torch.Tensor]) -> None:
    with pytest.raises(InputError):
        collate(clips)


def test_to_int16_limits() -> None:
    assert to_int16(torch.tensor([-1.0, 0.0, 1.0, 32767 / 32768])).tolist() == [-32768, 0, 32767, 32767]


def test_bad_dtype(generated: Dataset) -> None:
    load: Callable[..., object] = generated.load_all
    with pytest.raises(InputError, match="float32 or int16"):
        load(dtype=torch.float64)

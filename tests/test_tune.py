"""`audiopure tune`: its accuracies are those of theory, and it claims only what the data show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.stats import norm
from test_cli import refused, run
from torch import Tensor, nn

from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.errors import InputError
from audiopure.evaluation import tune
from audiopure.evaluation.scoring import proportion
from audiopure.evaluation.tune import Tune, TuneConfig, choose, short_pgd, spec_at
from audiopure.evaluation.tune_results import Level, Tuning, sentences

RATE, LENGTH, CLIPS = 16_000, 800, 12
# noise alone, at the level at which the clip comes: what a linear model makes of it is a normal distribution
SYSTEM = "small,reverse=no,level=fixed+test_tune:tiny"
LEVELS = (2.0, 20.0, 60.0)


class Sign(nn.Module):
    """Hears "up" or "down" by the sign of an inner product."""

    labels, sample_rate = ("up", "down"), RATE

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(LENGTH, generator=torch.Generator().manual_seed(0)) / LENGTH**0.5
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, waveform: Tensor) -> Tensor:
        product = waveform[:, :LENGTH] @ self.weight
        return torch.stack([product, -product], dim=1)


def tiny() -> Sign:
    return Sign()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips with margins of .02 to .24, six for each label, in a validation and a test split."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("validation", "test"):
        for number in range(CLIPS):
            label, sign = (("up", 1), ("down", -1))[number % 2]
            wave = sign * (0.02 + 0.02 * number) * tiny().weight.numpy()
            path = folder / split / label / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.rint(wave * 2**15) / 2**15, RATE, subtype="PCM_16")
    return folder


def config(data: Path, **changes: object) -> TuneConfig:
    settings = {
        "system": SYSTEM,
        "data": str(data),
        "loss": 0.1,
        "levels": LEVELS,
        "passes": 100,
        "clips": None,
    }
    return TuneConfig(**{**settings, **changes})  # type: ignore[arg-type]


def theory(n_star: float) -> float:
    """Mean chance that the sign survives the noise."""
    margins = 0.02 + 0.02 * np.arange(CLIPS)
    return float(norm.cdf(margins / NoiseSchedule.linear().sigma(n_star)).mean())


def test_accuracy_is_that_of_theory_and_the_choice_follows(data: Path) -> None:
    expected = [theory(n) for n in LEVELS]
    assert expected[0] > 0.97 and 0.7 < expected[1] < 0.95 and expected[2] < 0.8
    stated = 1 - (expected[1] + expected[2]) / 2
    found = Tune(config(data, loss=stated)).run()
    for level, accuracy in zip(found.levels, expected, strict=True):
        # 1200 passes
        assert level.clean.value == pytest.approx(accuracy, abs=4 * 0.5 / 1200**0.5)
        assert level.loss == pytest.approx(1 - level.clean.value, abs=1e-9)
        assert level.low <= level.loss <= level.high and level.clean.n == CLIPS
    assert found.undefended.value == 1
    assert found.recommended == LEVELS[1]
    assert found.spec == "small,n_star=20,reverse=no,level=fixed+test_tune:tiny"
    # the level that is written is the one that was measured
    again, first = (Tune(config(data, system=spec, passes=2)).run() for spec in (found.spec, SYSTEM))
    assert again.levels == first.levels


def test_the_validation_split_comes_first(data: Path) -> None:
    assert Tune(config(data)).clips.split == "validation"
    only = Tune(config(data / "test", levels=(1.0,), passes=1)).run()
    assert (only.data.split, only.data.clips, only.data.of) == ("test", CLIPS, CLIPS)


def test_clips_are_named_and_a_seed_replays(data: Path) -> None:
    few = config(data, passes=3, levels=(60.0,))
    assert Tune(few).run().levels == Tune(few).run().levels
    assert Tune(few).run().levels != Tune(config(data, passes=3, levels=(60.0,), seed=1)).run().levels
    assert Tune(config(data, clips=4, passes=1)).run().data.clips == 4


def test_an_attack_lowers_accuracy_and_its_cost_counts(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = short_pgd("l2", 0.05)
    work = Tune(config(data, levels=(2.0, 20.0), passes=20, attack=attack, attack_clips=6))
    ticks: dict[float, float] = {}

    def tick(n_star: float, share: float) -> None:
        ticks[n_star] = ticks.get(n_star, 0.0) + share

    found = work.run(tick)
    assert ticks == pytest.approx({2.0: 1.0, 20.0: 1.0})
    assert found.attack == repr(attack)
    # an optimal attack takes .05 from every margin, .02 to .12 of these 6 clips
    for level in found.levels:
        assert level.attacked is not None and level.attacked.n == 6
        kept = norm.cdf((np.arange(1, 7) * 0.02 - 0.05) / NoiseSchedule.linear().sigma(level.n_star)).mean()
        assert level.attacked.value == pytest.approx(float(kept), abs=0.12)
    plain = Tune(config(data, levels=(2.0, 20.0), passes=20))
    assert set(plain.plan()) == {2.0, 20.0} and min(plain.plan().values()) > 0
    monkeypatch.setattr(tune, "_timed", lambda run: 1.0)  # so that passes are counted
    (batches,) = {seconds / 20 for seconds in plain.plan().values()}
    spent, judged = attack.cost
    part = batches * 6 / len(work.clips.targets)
    assert work.plan()[2.0] == pytest.approx(20 * batches + part * (spent + judged + 20))


def level(n_star: float, loss: float, attacked: float | None = None, margin: float = 0.02) -> Level:
    high = loss + margin
    return Level(
        n_star=n_star,
        spec=spec_at("small+digits", n_star),
        clean=proportion(100 * (1 - loss), 100),
        loss=loss,
        low=loss - margin,
        high=high,
        verdict="yes" if high <= 0.03 else "open",
        attacked=None if attacked is None else proportion(100 * attacked, 100),
    )


def test_the_choice() -> None:
    levels = [level(1, 0.0), level(3, 0.02), level(5, 0.05), level(7, 0.03)]
    assert choose(levels, 0.03) is levels[3]
    assert choose(levels, 0.01) is levels[0]
    assert choose(levels[1:], 0.01) is None
    robust = [level(1, 0.0, 0.4), level(3, 0.02, 0.6), level(5, 0.03, 0.5), level(7, 0.09, 0.9)]
    assert choose(robust, 0.03) is robust[1]


def tuning(levels: list[Level], stated: float) -> Tuning:
    chosen = choose(levels, stated)
    return Tuning(
        schema_="audiopure-tune-1",
        versions={},
        system="small+digits",
        weights={},
        data={"name": "x", "split": None, "clips": 100, "of": 100, "note": None, "shard": None},  # type: ignore[arg-type]
        passes=5,
        stated=stated,
        attack=None if levels[0].attacked is None else "Pgd()",
        undefended=proportion(99, 100),
        levels=levels,
        recommended=None if chosen is None else chosen.n_star,
        spec=None if chosen is None else chosen.spec,
        seconds=1.0,
    )


def test_it_says_what_the_data_cannot_tell() -> None:
    told = " ".join(sentences(tuning([level(3, 0.01)], 0.03)))
    assert "n* = 3: the largest level" in told and "cannot tell" not in told
    assert told.endswith("System: small,n_star=3+digits")
    untold = " ".join(sentences(tuning([level(3, 0.02)], 0.03)))
    assert "cannot tell whether its loss is: it may be up to 4.0 points" in untold
    none = " ".join(sentences(tuning([level(3, 0.2), level(5, 0.3)], 0.03)))
    assert "No level tried keeps the loss within 3 points; n* = 3 loses the least: 20.0" in none
    assert "System:" not in none
    rivals = " ".join(sentences(tuning([level(1, 0.0, 0.55), level(3, 0.0, 0.6), level(5, 0, 0.1)], 0.03)))
    assert "n* = 3: the most robust level" in rivals and "cannot be told from n* = 1." in rivals


@pytest.mark.parametrize("clips", [CLIPS, 4])
def test_few_clips_do_not_show_a_small_loss(data: Path, clips: int) -> None:
    found = Tune(config(data, levels=(0.1,), clips=clips, passes=2, loss=0.05)).run()
    assert found.levels[0].loss == 0 and found.levels[0].verdict == "open"
    assert found.levels[0].high > 0.05


def test_a_large_loss_is_seen(data: Path) -> None:
    found = Tune(config(data, levels=(200.0,), passes=50, loss=0.0)).run()
    assert found.levels[0].verdict == "no" and found.recommended is None and found.spec is None


def test_a_systems_name_at_a_level() -> None:
    assert spec_at("small+digits", 3) == "small,n_star=3+digits"
    assert spec_at("small, n_star=1, sampler=ddim + digits", 2.5) == "small,n_star=2.5,sampler=ddim+digits"
    assert spec_at("small+small,level=fixed+m5", 1) == "small,n_star=1+small,n_star=1,level=fixed+m5"


def test_what_cannot_be_tuned(data: Path) -> None:
    with pytest.raises(InputError, match="has no purifier to tune"):
        Tune(config(data, system="test_tune:tiny"))
    with pytest.raises(InputError, match="n_star must lie between 0 and 200"):
        Tune(config(data, levels=(500.0,)))
    with pytest.raises(InputError, match="no such folder"):
        Tune(config(data / "nothing"))
    for changes in ({"loss": 1.5}, {"levels": ()}, {"levels": (0.0,)}, {"passes": 0}, {"clips": 0}):
        with pytest.raises(InputError):
            config(data, **changes)


def test_the_command(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--system", SYSTEM, "--data", data, "--n-star", "2,60", "--passes", "10")
    assert run("tune", *options, "--loss", "12", "--json", "t.json") == 0
    said = capfd.readouterr()
    assert said.err.startswith("12 clips, 2 noise levels, 10 passes: about ")
    assert "System: small,n_star=2,reverse=no,level=fixed+test_tune:tiny" in said.out
    found = json.loads(Path("t.json").read_text())
    assert found["schema"] == "audiopure-tune-1" and found["recommended"] == 2 and found["stated"] == 0.12
    assert [level["n_star"] for level in found["levels"]] == [2, 60]
    attacked = ("--attacked", "--attack-clips", "2", "--eps", "0.0005")
    assert run("tune", *options, "--loss", "12", *attacked, "--json", "t.json", "--overwrite") == 0
    assert "attacked on up to 2" in capfd.readouterr().err
    assert "eps=0.0005" in json.loads(Path("t.json").read_text())["attack"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--n-star", "1;2"), "--n-star 1;2: write levels as numbers with commas between"),
        (("--n-star", "0,1"), "levels n* are positive"),
        (("--norm", "l1"), "there is no norm 'l1' to attack in"),
        (("--attacked", "--eps", "-1"), "a budget must be positive"),
        (("--json", "nowhere/t.json"), "is not a file in a folder that exists"),
        (("--system", "digits"), "digits has no purifier to tune"),
        (("--system", "small+digits"), "no clip has a label that the recogniser knows"),
    ],
)
def test_the_command_refuses(
    data: Path, capfd: pytest.CaptureFixture[str], options: tuple[str, ...], sentence: str
) -> None:
    system = () if "--system" in options else ("--system", SYSTEM)
    assert sentence in refused(capfd, "tune", "--data", data, "--loss", "2", *system, *options)

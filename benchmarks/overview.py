"""Draw docs/images/overview.png: a shipped clip clean, attacked and purified, with what the recogniser hears.

    python benchmarks/overview.py [CLIP]      CLIP is an id such as seven/af_bella.flac

The attack (L2 0.253, on the undefended recogniser) and the noise are replayed from a seed. The clip is the
first of the shipped ones that the attack breaks; it is an illustration, not a measurement.
"""

import sys
from importlib import resources
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor, nn

import audiopure
from audiopure.attacks import Pgd, predict
from audiopure.data.manifest import read_manifest
from audiopure.noise import SeededNoise

NOISE = SeededNoise(1)
TARGET = Path(__file__).resolve().parents[1] / "docs" / "images" / "overview.png"


def heard(model: nn.Module, labels: tuple[str, ...], wave: Tensor) -> str:
    chances = predict(model, wave, noise=NOISE)[0, 0]
    return f"“{labels[int(chances.argmax())]}” {100 * float(chances.max()):.0f} %"


def draw(panels: dict[str, tuple[Tensor, str]]) -> None:
    figure, axes = plt.subplots(1, len(panels), figsize=(10, 2.9), sharey=True, layout="constrained")
    for axis, (title, (wave, words)) in zip(axes.flat, panels.items(), strict=True):
        sound = wave[0].numpy() + 1e-8 * np.random.default_rng(0).standard_normal(wave.shape[1])  # log of 0
        axis.specgram(sound, NFFT=512, noverlap=384, Fs=16_000, vmin=-140, vmax=-40, cmap="magma")
        axis.set_title(f"{title}: {words}", fontsize=11)
        axis.set_xlabel("seconds")
    axes.flat[0].set_ylabel("Hz")
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(TARGET, dpi=120)


def main() -> None:
    model, purifier = audiopure.load_recogniser(), audiopure.load_purifier()
    clips = read_manifest(Path(str(resources.files("audiopure") / "assets" / "clips")))
    attack = Pgd(norm="l2", eps=0.253, steps=40)
    for clip, target in zip(clips, clips.targets(), strict=True):
        if sys.argv[1:] and clip.id != sys.argv[1]:
            continue
        wave = clips.load(clip)[None]
        adversarial = attack(model, wave, target[None], noise=SeededNoise(0)).adversarial
        purified = purifier(adversarial, noise=NOISE)
        waves = {"clean": wave, "attacked": adversarial, "purified": purified}
        panels = {title: (sound, heard(model, clips.labels, sound)) for title, sound in waves.items()}
        if panels["clean"][1].split()[0] != panels["attacked"][1].split()[0]:
            draw(panels)
            return


if __name__ == "__main__":
    main()

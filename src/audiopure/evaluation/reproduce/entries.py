"""The defences of the paper's tables, and those set beside them."""

from __future__ import annotations

from pathlib import Path
from string import Formatter
from typing import NamedTuple

from audiopure.errors import InputError
from audiopure.evaluation.reproduce.jobs import Job, evaluation
from audiopure.evaluation.reproduce.published import CLASSIFIERS, DENOISERS, JACOBIAN, MAIN, Published
from audiopure.hub import SHIPPED

# weights that do not ship -> what trains them
WEIGHTS = {
    "digits-advtr": "adversarial --config recipes/recogniser-digits-advtr.toml",
    "digits-adversarial": "adversarial --config recipes/recogniser-digits-adversarial.toml",
    "digits-trades": "adversarial --config recipes/recogniser-digits-trades.toml",
    "diffspec-digits": "spectrum --config recipes/diffspec-digits.toml",
    "purifier-small-ssp": "purifier --config recipes/purifier-small-ssp.toml",
    "purifier-small-joint": "purifier --config recipes/purifier-small-joint.toml",
    "tasnet-offline": "enhancer --config recipes/tasnet-digits-offline.toml",
    "tasnet-joint": "purifier --config recipes/tasnet-digits-joint.toml",
    "tasnet-enhancer": "enhancer --config recipes/tasnet-digits-enhancer.toml",
    "wavegan-digits": "wavegan --config recipes/wavegan-digits.toml",
    "digits-noisy": "smoothed --config recipes/recogniser-digits-noisy.toml",
    "digits-denoised": "smoothed --config recipes/recogniser-digits-denoised.toml",
} | {
    f"digits-jacobian-{slope}": f"adversarial --config recipes/recogniser-digits-jacobian-{slope}.toml"
    for slope in JACOBIAN
}
NETWORKS = {
    "M5": "m5",
    "ResNeXt-29-8-64": "resnext29",
    "VGG-19-BN": "vgg19bn",
    "WideResNet-28-10": "wideresnet28",
    "DenseNet-BC-100-12": "densenetbc",
}
WEIGHTS |= {
    name: f"recogniser --config recipes/recogniser-{name}.toml"
    for name in NETWORKS.values()
    if name not in SHIPPED
}


class Entry(NamedTuple):
    """A row of a table.

    Attributes:
        key: of its records, PROTOCOL-KEY.
        title: in the table.
        system: as `--system` takes it, with {NAME} for a file of WEIGHTS.
        published: the paper's row.
    """

    key: str
    title: str
    system: str
    published: Published | None = None

    @property
    def weights(self) -> list[str]:
        """Names in WEIGHTS."""
        return needed(self.system)

    def absent(self, folder: Path) -> list[str]:
        """Those of its weights that are not in a folder."""
        return absent(self.system, folder)

    def job(self, protocol: str, folder: Path, clips: int = 100) -> Job:
        """Raises InputError for a folder whose path cannot stand in a system."""
        return evaluation(f"{protocol}-{self.key}", located(self.system, folder), protocol, clips)


def needed(system: str) -> list[str]:
    """Names in WEIGHTS that a system stands for."""
    return [name for _, name, _, _ in Formatter().parse(system) if name]


def absent(system: str, folder: Path) -> list[str]:
    """Those that are not in a folder."""
    return [name for name in needed(system) if not _file(folder, name).is_file()]


def located(system: str, folder: Path) -> str:
    """The system with files of that folder; InputError for a path that cannot stand in a system."""
    if needed(system) and set("+,") & set(str(folder)):
        raise InputError(f"{folder}: the path of the weights must have neither + nor a comma in it")
    return system.format(**{name: _file(folder, name) for name in needed(system)})


def how_to_train(name: str) -> str:
    """What makes missing weights, and where they go."""
    command = f"audiopure train {WEIGHTS[name]} --data DATA --output runs/{name}"
    return f"Not trained: {name} (`{command}`, its model.safetensors as {name}.safetensors)."


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


NONE = Entry("none", "none", "digits", MAIN["none"])
PURIFIED = Entry("n3", "**AudioPure**, compact, n*=3", "small+digits", MAIN["n3"])
ONE_SHOT = Entry("one-shot", "AudioPure, compact, one-shot", "small,sampler=one-shot+digits")
NOISE_ONLY = Entry("noise-only", "forward noise only, n*=3", "small,reverse=no+digits")
TRANSFORMATIONS = (
    Entry("average", "average smoothing (AS)", "average+digits", MAIN["average"]),
    Entry("median", "median smoothing (MS)", "median+digits", MAIN["median"]),
    Entry("downsample", "down-up sampling (DS)", "downsample+digits", MAIN["downsample"]),
    Entry("low-pass", "low-pass (LPF)", "low-pass+digits", MAIN["low-pass"]),
    Entry("band-pass", "band-pass (BPF)", "band-pass+digits", MAIN["band-pass"]),
    Entry("quantise", "quantisation", "quantise+digits"),
    Entry("white-noise", "white noise, 25 dB", "white-noise+digits"),
    Entry("mp3", "MP3 round trip", "mp3+digits"),
    Entry("opus", "Opus round trip", "opus+digits"),
    Entry("gate", "spectral gating", "gate+digits"),
)
ADVERSARIAL = (
    Entry("advtr", "adversarial training, L∞ (AdvTr)", "{digits-advtr}", MAIN["advtr"]),
    Entry("adversarial", "adversarial training, both norms", "{digits-adversarial}"),
    Entry("trades", "TRADES, both norms", "{digits-trades}"),
    Entry("composed", "AudioPure before adversarial training", "small+{digits-adversarial}"),
)
SPECTRAL = (
    Entry("diffspec", "DiffSpec, small", "{diffspec-digits}+digits", MAIN["diffspec"]),
    Entry("dualpure", "DualPure, small", "small,reverse=no+{diffspec-digits},sampler=one-shot+digits"),
)
TUNED = (
    Entry("ssp", "SSP-tuned AudioPure", "{purifier-small-ssp}+digits", DENOISERS["ssp"]),
    Entry("joint", "AudioPure trained end to end", "{purifier-small-joint},sampler=one-shot+digits"),
)
OTHER_DENOISERS = (
    Entry(
        "defence-gan",
        "Defence-GAN, quarter width",
        "{wavegan-digits},restarts=4,steps=50+digits",
        DENOISERS["defence-gan"],
    ),
    Entry(
        "tasnet-offline",
        "Conv-TasNet, small (CTN Baseline)",
        "{tasnet-offline}+digits",
        DENOISERS["tasnet-offline"],
    ),
    Entry(
        "tasnet-joint",
        "Conv-TasNet, small (CTN Adv-Finetune-Joint-frozen)",
        "{tasnet-joint}+digits",
        DENOISERS["tasnet-joint"],
    ),
    Entry("enhancer", "speech enhancer (Conv-TasNet, small)", "{tasnet-enhancer}+digits"),
)
JACOBIANS = tuple(
    Entry(f"jacobian-{slope}", f"Jacobian regularisation, {slope}", f"{{digits-jacobian-{slope}}}", row)
    for slope, row in JACOBIAN.items()
)


def _classifier(title: str, key: str) -> tuple[Entry, Entry]:
    without, purified = CLASSIFIERS[title]
    system = key if key in SHIPPED else f"{{{key}}}"
    return (
        Entry(f"{key}-none", title, system, without),
        Entry(f"{key}-n3", f"{title}, AudioPure", f"small+{system}", purified),
    )


OTHER_CLASSIFIERS = tuple(row for pair in NETWORKS.items() for row in _classifier(*pair))

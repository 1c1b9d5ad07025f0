"""Rows of the paper's tables: a system, how large an evaluation of it may be, and the weights it needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Formatter

from audiopure.errors import InputError
from audiopure.evaluation.reproduce.jobs import Job, evaluation
from audiopure.evaluation.reproduce.published import JACOBIAN, Published

# Jacobian regularisation beyond the paper's lambda, which fits the slopes of its networks; 0 is the control
STEEPER = ("0", "1e-4", "1e-3", "1e-2")
# weights that do not ship -> what trains them
WEIGHTS = {
    "digits-advtr": "adversarial --config recipes/recogniser-digits-advtr.toml",
    "digits-adversarial": "adversarial --config recipes/recogniser-digits-adversarial.toml",
    "digits-trades": "adversarial --config recipes/recogniser-digits-trades.toml",
    "digits-fast": "adversarial --config recipes/recogniser-digits-fast.toml",
    "digits-free": "adversarial --config recipes/recogniser-digits-free.toml",
    "digits-yopo": "adversarial --config recipes/recogniser-digits-yopo.toml",
    "diffspec-digits": "spectrum --config recipes/diffspec-digits.toml",
    "purifier-small-ssp": "purifier --config recipes/purifier-small-ssp.toml",
    "purifier-small-ssp-adamw": "purifier --config recipes/purifier-small-ssp-adamw.toml",
    "purifier-small-joint": "purifier --config recipes/purifier-small-joint.toml",
    "tasnet-offline": "enhancer --config recipes/tasnet-digits-offline.toml",
    "tasnet-joint": "purifier --config recipes/tasnet-digits-joint.toml",
    "tasnet-enhancer": "enhancer --config recipes/tasnet-digits-enhancer.toml",
    "wavegan-digits": "wavegan --config recipes/wavegan-digits.toml",
    "digits-noisy": "smoothed --config recipes/recogniser-digits-noisy.toml",
    "digits-smoothadv": "smoothed --config recipes/recogniser-digits-smoothadv.toml",
} | {
    f"digits-jacobian-{slope}": f"adversarial --config recipes/recogniser-digits-jacobian-{slope}.toml"
    for slope in (*JACOBIAN, *STEEPER)
}
WEIGHTS |= {
    name: f"recogniser --config recipes/recogniser-{name}.toml"
    for name in ("digits-plain", "wideresnet28-2", "vgg19bn", "resnext29-8-4", "densenetbc", "wakewords")
}
CLIPS = {"black-box": 50}  # of protocols that take half the paper's hundred


@dataclass(frozen=True)
class Entry:
    """A row of a table.

    Attributes:
        key: of its records, PROTOCOL-KEY.
        title: in the table.
        system: as `--system` takes it, with {NAME} for a file of WEIGHTS.
        published: the paper's row.
        note: at what size it runs and why, where that is not the paper's.
        other: the dataset, where it is not the tables' but lies beside it, and the seconds of its clips.
        exact: the protocol of its exact gradients, "quick" where "standard" would take days.
        clips: protocol -> clips, where they are fewer than usual.
        differentiated: whether the paper's attack on it went through its network, so that its numbers
            stand beside “as written”.
        beside: key of the row that it is compared with, clip by clip.
        reference: whether it stands under `quick` too beside rows that are judged by that.
    """

    key: str
    title: str
    system: str
    published: Published | None = None
    note: str = ""
    exact: str = "standard"
    clips: Mapping[str, int] = field(default_factory=dict)
    differentiated: bool = False
    beside: str = ""
    other: tuple[str, float] = ("", 1.0)
    reference: bool = False

    @property
    def weights(self) -> list[str]:
        """Names in WEIGHTS."""
        return needed(self.system)

    @property
    def name(self) -> str:
        """The title without markup."""
        return self.title.replace("**", "")

    def absent(self, folder: Path) -> list[str]:
        """Those of its weights that are not in a folder."""
        return absent(self.system, folder)

    def size(self, protocol: str) -> int:
        """Clips under a protocol."""
        return self.clips.get(protocol, CLIPS.get(protocol, 100))

    def record(self, protocol: str) -> str:
        """Name of its record under a protocol."""
        return f"{protocol}-{self.key}"

    def job(self, protocol: str, folder: Path) -> Job:
        """Raises InputError for a folder whose path cannot stand in a system."""
        found = located(self.system, folder)
        return evaluation(self.record(protocol), found, protocol, self.size(protocol), *self.other)


def judged(entries: Iterable[Entry]) -> list[Entry]:
    """Rows of exact gradients: references come under every protocol that a row is judged by."""
    found, weaker = [], [entry for entry in entries if entry.exact != "standard"]
    for entry in entries:
        found.append(entry)
        if entry.reference and weaker:
            found.append(replace(entry, exact=weaker[0].exact))
    return found


def needed(system: str) -> list[str]:
    """Names in WEIGHTS that a system stands for."""
    return [name for _, name, _, _ in Formatter().parse(system) if name]


def absent(system: str, folder: Path) -> list[str]:
    """Those that are not in a folder."""
    return [name for name in needed(system) if not weights_file(folder, name).is_file()]


def located(system: str, folder: Path) -> str:
    """The system with files of that folder; InputError for a path that cannot stand in a system."""
    if needed(system) and set("+,") & set(str(folder)):
        raise InputError(f"{folder}: the path of the weights must have neither + nor a comma in it")
    return system.format(**{name: weights_file(folder, name) for name in needed(system)})


def how_to_train(names: Iterable[str]) -> str:
    """What makes missing weights, and where they go."""
    runs = [f"{name} (`audiopure train {WEIGHTS[name]} --data DATA --output runs/{name}`)" for name in names]
    return (
        f"Not trained: {'; '.join(runs)}. Each run's model.safetensors goes to the folder of weights as "
        "NAME.safetensors, its log.jsonl beside it as NAME.jsonl."
    )


def weights_file(folder: Path, name: str) -> Path:
    """Where weights that do not ship lie."""
    return folder / f"{name}.safetensors"

"""Protect a recogniser that others trained, and see what that costs and gives.

    python examples/protect_other_model.py --model PATH/ai85-kws20_v3-qat8.state_dict.pt --data PATH/sc09

The model is a raw-waveform keyword network with 8-bit weights (Analog Devices, Apache-2.0). It knows nothing of
purification, and the purifier was never trained for it. Accuracy is counted among the ten digits, with 95 %
Clopper-Pearson intervals over clips; attacks are PGD with exact gradients through everything, averaged over noise.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import audiopure
from audiopure.attacks.pgd import Pgd
from audiopure.data.batch import collate
from audiopure.data.manifest import read_manifest
from audiopure.metrics import clopper_pearson
from audiopure.nets.ai8x import load_ai8x
from audiopure.noise import SeededNoise


class Digits(nn.Module):
    """The ten digits' logits of a recogniser that also knows other words."""

    def __init__(self, model: nn.Module, labels: tuple[str, ...]):
        super().__init__()
        known = list(model.labels)  # type: ignore[arg-type]
        self.model, self.labels = model, labels
        self.columns = [known.index(label) for label in labels]

    def forward(self, waveform: Tensor) -> Tensor:
        return self.model(waveform)[:, self.columns]


def accuracy(model: nn.Module, waves: Tensor, targets: Tensor) -> str:
    with torch.inference_mode():
        right = int((model(waves).argmax(1) == targets).sum())
    low, high = clopper_pearson(right, len(targets))
    return f"{100 * right / len(targets):5.1f} [{100 * low:.0f}, {100 * high:.0f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a folder with manifest.csv")
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--eot", type=int, default=4)
    options = parser.parse_args()
    torch.set_flush_denormal(True)

    dataset = read_manifest(options.data)
    clips = dataset.split("test").stratified(options.clips, seed=0)
    waves, _ = collate(clips.load_all())
    targets = clips.targets()

    model = Digits(load_ai8x(options.model), clips.labels).eval()
    purifier = audiopure.load_purifier()
    systems = {
        "none": model,
        "noise only": audiopure.defend(model, purifier.replace(reverse=False)),
        "purified": audiopure.defend(model, purifier),
    }
    attacks = {
        "L-inf 0.002": Pgd(norm="linf", eps=0.002, steps=options.steps, eot=options.eot),
        "L2 0.253": Pgd(norm="l2", eps=0.253, steps=options.steps, eot=options.eot),
    }
    print(f"{len(clips)} clips, PGD-{options.steps}, EOT {options.eot}")
    print(f"{'':12}{'clean':>18}" + "".join(f"{name:>18}" for name in attacks))
    for name, system in systems.items():
        cells = [accuracy(system, waves, targets)]
        for attack in attacks.values():
            adversarial = attack(system, waves, targets, noise=SeededNoise(0)).adversarial
            cells.append(accuracy(system, adversarial, targets))
        print(f"{name:12}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()

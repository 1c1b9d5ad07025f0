"""Protect a recogniser that others trained, and see what that costs and gives.

    python examples/protect_other_model.py --model PATH/ai85-kws20_v3-qat8.state_dict.pt --data PATH/sc09

The model is a raw-waveform keyword network with 8-bit weights (Analog Devices, Apache-2.0). It knows nothing
of purification, and the purifier was never trained for it. Accuracy is counted among the ten digits, as the
mean over fresh passes with 95 % Clopper-Pearson intervals over clips; attacks are PGD with exact gradients
through everything, averaged over noise.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

import audiopure
from audiopure.attacks import Pgd, score
from audiopure.data.batch import collate
from audiopure.data.manifest import read_manifest
from audiopure.evaluation.demo.results import cell
from audiopure.nets.ai8x import load_ai8x
from audiopure.noise import SeededNoise

PASSES = 8


class Digits(nn.Module):
    """The ten digits' logits of a recogniser that also knows other words."""

    def __init__(self, model: nn.Module, labels: tuple[str, ...]):
        super().__init__()
        known = list(model.labels)  # type: ignore[arg-type]
        self.model, self.labels = model, labels
        self.columns = [known.index(label) for label in labels]

    def forward(self, waveform: Tensor) -> Tensor:
        return self.model(waveform)[:, self.columns]


def accuracy(model: nn.Module, waves: Tensor, targets: Tensor) -> dict[str, float]:
    right = score(model, waves, targets, noise=SeededNoise(1), passes=PASSES).sum(1).tolist()
    return cell(right, PASSES).average.model_dump()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a folder with manifest.csv")
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--eot", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
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
    shared = {"steps": options.steps, "eot": options.eot, "momentum": 0.85}
    attacks = {
        "linf 0.002": Pgd(norm="linf", eps=0.002, step_size=0.001, **shared),
        "l2 0.253": Pgd(norm="l2", eps=0.253, step_size=0.1265, **shared),
    }
    print(f"{len(clips)} clips, PGD-{options.steps}, EOT {options.eot}, mean over {PASSES} passes")
    print(f"{'':12}{'clean':>20}" + "".join(f"{name:>20}" for name in attacks))
    rows = {}
    for name, system in systems.items():
        rows[name] = {"clean": accuracy(system, waves, targets)}
        for budget, attack in attacks.items():
            adversarial = attack(system, waves, targets, noise=SeededNoise(0)).adversarial
            rows[name][budget] = accuracy(system, adversarial, targets)
        cells = [
            f"{100 * c['value']:.1f} [{100 * c['low']:.0f}, {100 * c['high']:.0f}]"
            for c in rows[name].values()
        ]
        print(f"{name:12}" + "".join(f"{cell:>20}" for cell in cells), flush=True)
    if options.json:
        words = f"--clips {options.clips} --steps {options.steps} --eot {options.eot}"
        command = f"python examples/protect_other_model.py --model {options.model.name} --data sc09 {words}"
        facts = {"model": options.model.name, "clips": len(clips), "passes": PASSES, "rows": rows}
        facts |= {"command": command, "audiopure": audiopure.__version__, "torch": torch.__version__}
        options.json.write_text(
            json.dumps(facts | {"attacks": [repr(a) for a in attacks.values()]}, indent=1)
        )


if __name__ == "__main__":
    main()

"""Draw the training curves of the shipped weights from their logs.

python benchmarks/curves.py          docs/training/*.jsonl -> docs/images/training.png
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    logs = sorted((ROOT / "docs" / "training").glob("*.jsonl"))
    figure, axes = plt.subplots(1, len(logs), figsize=(4.2 * len(logs), 3.2), layout="constrained")
    for axis, path in zip(axes.flat, logs, strict=True):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        steps = [line["step"] for line in lines]
        unit = "SI-SDR, dB" if "si_sdr_0.1" in lines[0] else "accuracy"
        for key in lines[0]:
            if key.startswith(("si_sdr_", "accuracy")):
                label = key.replace("si_sdr_", "sigma ").replace("accuracy_0", "sigma 0").replace("_", " ")
                axis.plot(steps, [line[key] for line in lines], label=label, linewidth=1.4)
        axis.set(title=path.stem, xlabel="step", ylabel=f"validation {unit}")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=6.5, frameon=False)
    figure.savefig(ROOT / "docs" / "images" / "training.png", dpi=130)


if __name__ == "__main__":
    main()

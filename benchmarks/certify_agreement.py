"""Labels of bf16 beside those of fp32: python benchmarks/certify_agreement.py [--data PATH/sc09] [-o FILE]

On the same draws, for every base and object at several sigmas: what a certificate in bf16 certifies is the
base in bf16, and this tells how much another one that is. Not for DiffWave, which has no trained weights here
and untrained predicts zero in any precision. About five minutes on a CPU core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certificate_tables
import torch
from certificates import OBJECTS
from common import RESULTS, machine, prepare, write_json

from audiopure.evaluation.certified.settings import BASES, CertifySettings, smoothed
from audiopure.evaluation.clips import load_clips
from audiopure.padding import at_least
from audiopure.systems import load_system

SIGMAS = (0.005, 0.05, 0.25, 1.0)
CLIPS, DRAWS = 20, 10  # of each clip
TUNED = "small+digits-denoised"  # most certificates are its


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of sc09; default: shipped clips")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=RESULTS / "certify-agreement.json")
    options = parser.parse_args()
    prepare(options.threads)
    lines = list(agreements(options.data, torch.device(options.device)))
    data = options.data.name if options.data else "shipped"
    results = {"machine": machine(options.device), "data": data, "clips": CLIPS, "agreements": lines}
    write_json(options.out, results)
    print(certificate_tables.agreements(results))


def agreements(data: Path | None, device: torch.device) -> Iterator[dict[str, Any]]:
    """On how many draws bf16 and fp32 give the same label."""
    cases = [("small+digits", "waveform", base, sigma) for base in BASES for sigma in SIGMAS]
    cases += [(TUNED, "waveform", "one-shot", sigma) for sigma in SIGMAS]
    cases += [("digits", name, None, sigma) for name, sigmas in OBJECTS.items() for sigma in sigmas]
    systems = {name: load_system(name) for name in ("small+digits", TUNED, "digits")}
    clips = load_clips(data, systems["digits"].undefended, CLIPS, 0).waveforms
    for name, object_, base, sigma in cases:
        same = 0
        whole = CertifySettings(system=name, object=object_, denoise=base, sigma=sigma, steps=3, votes=5)
        both = [smoothed(s, systems[name]) for s in (whole, whole.model_copy(update={"precision": "bf16"}))]
        for model in both:
            model.base.to(device)
        for item, clip in enumerate(clips):
            samplers = [model.sampler(at_least(clip, 16_000).to(device), seed=0, item=item) for model in both]
            one, other = (torch.cat([s.argmax(1) for s in x.scores("estimate", 0, DRAWS)]) for x in samplers)
            same += int((one == other).sum())
        yield {
            "system": name,
            "base": base or object_,
            "sigma": sigma,
            "same": same,
            "draws": DRAWS * len(clips),
        }


if __name__ == "__main__":
    main()

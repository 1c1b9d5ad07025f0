"""Peak memory of one exact gradient of a defended recogniser, in a process of its own.

python benchmarks/memory.py --n-star 10 --gradient recompute

The gradient is that of a PGD step: of the recogniser's loss by the waveform, through the purifier. On a CPU
the peak is that of the process beyond what it held before; set MALLOC_MMAP_THRESHOLD_=65536 (glibc), as
`speed.py` does, or it also counts memory that the C library keeps after it was freed. Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys

import torch
from common import prepare
from torch import Tensor, nn

from audiopure import defend, load_purifier, load_recogniser
from audiopure.diffusion.gradient import Full, Gradient, Recompute
from audiopure.noise import SeededNoise

GRADIENTS: dict[str, Gradient] = {"full": Full(), "recompute": Recompute()}
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n-star", type=int, default=3)
    parser.add_argument("--gradient", choices=GRADIENTS, default="full")
    parser.add_argument("--batch", type=int, default=BATCH, help="clips of one second")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--purifier", default="small")
    parser.add_argument("--recogniser", default="digits")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    prepare(options.threads)
    model, waveform = victim(options, options.n_star, GRADIENTS[options.gradient], options.precision)
    model(waveform[:1, :1600], noise=SeededNoise(0))  # libraries allocate their workspaces on first use
    ballast = fill_to_peak(options.device)
    before = peak_memory(options.device)
    loss_gradient(model, waveform)
    used = peak_memory(options.device) - before
    del ballast  # it had to stay until here
    facts = {"n_star": options.n_star, "gradient": options.gradient, "precision": options.precision}
    print(json.dumps(facts | {"batch": len(waveform), "mebibytes": round(used / 2**20, 1)}))


def victim(
    options: argparse.Namespace, n_star: int, gradient: Gradient, precision: str, batch: int | None = None
) -> tuple[nn.Module, Tensor]:
    """A defended recogniser and a batch of noise, one second each, to take the gradient at."""
    purifier = load_purifier(options.purifier, n_star=n_star, gradient=gradient, precision=precision)  # type: ignore[arg-type]
    model = defend(load_recogniser(options.recogniser), purifier).to(options.device)
    generator = torch.Generator().manual_seed(0)
    waveform = 0.1 * torch.randn(batch or options.batch, purifier.sample_rate, generator=generator)
    return model, waveform.to(options.device)


def loss_gradient(model: nn.Module, waveform: Tensor) -> Tensor:
    """Gradient of the cross-entropy of the first class. Shape: (B, T) -> (B, T)."""
    x = waveform.clone().requires_grad_()
    logits = model(x, noise=SeededNoise(0))
    loss = nn.functional.cross_entropy(logits, torch.zeros(len(x), dtype=torch.int64, device=x.device))
    return torch.autograd.grad(loss, x)[0]


@torch.no_grad()
def forward_pass(model: nn.Module, waveform: Tensor) -> Tensor:
    """Logits, with the noise that `loss_gradient` uses."""
    return model(waveform, noise=SeededNoise(0))


def fill_to_peak(device: str) -> list[Tensor]:
    """Memory that brings the process up to its largest size so far: whatever comes on top of it shows."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return []
    ballast, start = [], peak_memory(device)
    while peak_memory(device) == start:
        ballast.append(torch.ones(2**18))
    return ballast


def peak_memory(device: str) -> int:
    """Largest memory so far, in bytes: of the process, or of its tensors on a GPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    # Linux counts in KiB, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()

"""What the process does with memory, and in which order it adds up."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from audiopure.machine import keep_memory

torch.set_num_threads(1)
if {keep}:
    assert keep_memory()
def faults():
    for _ in range(10):
        many = [torch.ones(10_000_000) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults()
before = faults()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_of_tensors_that_are_gone_serves_the_next() -> None:
    """Every page that comes anew from the system is a fault: 40 MB a tensor are 9,766 pages, 80 tensors."""
    found = {}
    for keep in (True, False):
        program = FAULTS.format(keep=keep)
        found[keep] = int(
            subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
        )
    assert found[True] < 0.1 * 80 * 9_766 < found[False]


SUMS = """
import torch
from audiopure.machine import settle
from audiopure.nets.stft_denoiser import StftDenoiser

settle()
torch.manual_seed(0)
net, found = StftDenoiser(width=8, blocks=1), []
wave = torch.randn(1, 4800)
for threads in (1, 2):
    torch.set_num_threads(threads)
    found.append(net(wave, 0.1))
print(torch.equal(*found))
"""


def test_numbers_do_not_depend_on_how_many_threads_there_are() -> None:
    """In a process of its own, as what was multiplied before decides."""
    done = subprocess.run([sys.executable, "-c", SUMS], capture_output=True, check=True, text=True)
    assert done.stdout == "True\n"

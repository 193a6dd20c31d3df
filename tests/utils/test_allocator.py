"""Freed memory stays with the process where glibc allows it."""

import platform
import subprocess
import sys

import pytest

from haba_hf.utils.allocator import keep_freed_memory

FAULTS = """
import resource
from haba_hf.utils.allocator import keep_freed_memory
import torch

torch.set_num_threads(1)
x = torch.ones(2**24)  # 64 MB: more than glibc ever keeps by default

def page_faults():
    for _ in range(10):  # until places are found between what else is allocated
        x + 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        x + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

default = page_faults()
assert keep_freed_memory()
print(default, page_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_a_freed_tensor_is_used_again_without_page_faults(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    command = [sys.executable, "-c", FAULTS]
    default, kept = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert default > 1000, "64 MB a tensor, fresh from the system each time"
    assert kept < default / 10


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False

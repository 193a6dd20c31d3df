"""Freed memory stays with the process where glibc allows it."""

import platform
import subprocess
import sys

import pytest

from haba_hf.utils.allocator import keep_freed_memory

FAULTS = """
import resource, sys
from haba_hf.utils.allocator import keep_freed_memory
import torch

if sys.argv[1] == "keep":  # as a command does, before anything large is allocated
    assert keep_freed_memory()
torch.set_num_threads(1)
x = torch.ones(2**24)  # 64 MB: more than glibc ever keeps by default
for _ in range(3):
    x + 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    x + 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(what):
    command = [sys.executable, "-c", FAULTS, what]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_a_freed_tensor_is_used_again_without_page_faults(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    default, kept = page_faults("default"), page_faults("keep")
    assert default > 1000, "64 MB a tensor, fresh from the system each time"
    assert kept < default / 10


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False

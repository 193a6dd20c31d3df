"""Memory: what a process on a CPU frees stays with it, how much it has held at most, and what of a device is free."""

import ctypes
import platform
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# glibc's names for mallopt (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """
    Tells glibc's `malloc` to keep what is freed instead of giving it back to the system.

    By default every large tensor is memory fresh from the system, whose first touch costs more than most operations on
    it: training a ConvNet on a CPU takes 1.5 to 3 times as long. Preloading another allocator (tcmalloc, jemalloc) has
    the same effect; then this changes nothing. The process may hold some more memory at its peak.

    Returns:
        `bool`: whether this platform's `malloc` took the settings; only Linux with glibc has them.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])


def peak_memory() -> int | None:
    """
    The most bytes of memory that this process has held so far, pages of mapped files among them; `None` on systems
    that do not tell.
    """
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # everywhere else in KiB


def free_memory(device: "torch.device") -> int:
    """Bytes of an accelerator's memory that nothing holds."""
    import torch  # here, since `haba --help` does without it

    if device.type == "mps":  # whose memory is the system's, of which it recommends a part
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return torch.accelerator.get_memory_info(device)[0]

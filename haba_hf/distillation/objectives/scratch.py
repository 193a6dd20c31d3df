"""Tensors put aside until they are read back, once each: in a temporary file, or in an accelerator's own memory."""

import tempfile
from typing import Protocol

import torch
from torch import Tensor

from ...utils.allocator import free_memory

# Of the memory that an accelerator has free when a run begins: what is put aside may take so much of it.
SHARE_OF_FREE_MEMORY = 0.5


class Scratch(Protocol):
    """
    Attributes:
        nbytes (`int`): of what was put aside.
    """

    nbytes: int

    def append(self, tensor: Tensor) -> int:
        """Puts a tensor aside and gives its index."""

    def __getitem__(self, index: int) -> Tensor:
        """A tensor on the device it came from."""


def scratch_for(device: torch.device) -> Scratch:
    """A file for a CPU, whose memory is what the file is to spare; memory for an accelerator, which would wait."""
    if device.type == "cuda":
        return ScratchMemory(int(SHARE_OF_FREE_MEMORY * free_memory(device)))
    return ScratchFile()


class ScratchFile:
    """
    Tensors in a temporary file, which goes with this object.

    Raises:
        `OSError`: if the file cannot be made or written; the environment variable TMPDIR says in which folder it is.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - goes with this object
        self._tensors: list[tuple[int, torch.Size, torch.dtype, torch.device]] = []
        self.nbytes = 0

    def append(self, tensor: Tensor) -> int:
        try:
            self._file.seek(self.nbytes)
            self._file.write(_bytes(tensor.detach().cpu().contiguous()))
        except OSError as error:
            raise OSError(
                f"A temporary file in {tempfile.gettempdir()} cannot grow to {self.nbytes + tensor.nbytes:,} bytes "
                f"({error}): set TMPDIR to a folder with more room, or lower kept_megabytes."
            ) from error
        self._tensors.append((self.nbytes, tensor.shape, tensor.dtype, tensor.device))
        self.nbytes += tensor.nbytes
        return len(self._tensors) - 1

    def __getitem__(self, index: int) -> Tensor:
        offset, shape, dtype, device = self._tensors[index]
        tensor = torch.empty(shape, dtype=dtype)
        self._file.seek(offset)
        self._file.readinto(_bytes(tensor))
        return tensor.to(device)


def _bytes(tensor: Tensor) -> memoryview:
    """Those of a contiguous tensor on the CPU, of any dtype."""
    return tensor.flatten().view(torch.uint8).numpy().data


class ScratchMemory:
    """
    Tensors on their device, and once these are as large as they may be, in the host's memory, from which it reads them
    without waiting.

    Args:
        device_bytes (`int`): the most that may stay on the device.
    """

    def __init__(self, device_bytes: int) -> None:
        self.device_bytes = device_bytes
        self._tensors: list[tuple[Tensor, torch.device]] = []
        self.nbytes = 0

    def append(self, tensor: Tensor) -> int:
        kept = tensor.detach()
        if self.nbytes + tensor.nbytes > self.device_bytes:
            kept = torch.empty(kept.shape, dtype=kept.dtype, pin_memory=kept.is_cuda).copy_(kept)
        self._tensors.append((kept, tensor.device))
        self.nbytes += tensor.nbytes
        return len(self._tensors) - 1

    def __getitem__(self, index: int) -> Tensor:
        tensor, device = self._tensors[index]
        return tensor.to(device, non_blocking=True)

"""Tensors put aside in a temporary file."""

import tempfile

import torch
from torch import Tensor


class ScratchFile:
    """
    Tensors that are read back from a temporary file, each on the device it came from. The file goes with this object.

    Raises:
        `OSError`: if the file cannot be made or written; the environment variable TMPDIR says in which folder it is.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - goes with this object
        self._tensors: list[tuple[int, torch.Size, torch.dtype, torch.device]] = []
        self.nbytes = 0

    def append(self, tensor: Tensor) -> int:
        """Writes a tensor and gives its index."""
        try:
            self._file.seek(self.nbytes)
            self._file.write(tensor.detach().cpu().contiguous().numpy().data)
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
        self._file.readinto(tensor.numpy().data)
        return tensor.to(device)

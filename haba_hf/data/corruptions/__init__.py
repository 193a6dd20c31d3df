"""The 19 corruptions of CIFAR-10-C at 5 severities (Hendrycks and Dietterich, ICLR 2019), made from clean images or
read from the published files.

Levels and operations are those of the published CIFAR generator, which are tuned to 32x32 pixels and used unchanged at
other sizes. Random numbers are drawn anew, so the images are not those of the published files, but drawn like them,
save for two: `frost` overlays generated ice in place of five photographs, and the drops of `spatter` are outlined by
morphology in place of Canny's edges. Not every published level is stronger than the one before: `saturate` first takes
color away and then adds it, `elastic_transform` trades a global for a local distortion, `spatter` turns from water to
mud, and levels 1 to 3 and 4 to 5 of `glass_blur` and 3 to 4 of `motion_blur` move the image as far.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..splits import Split
from .blur import defocus_blur, gaussian_blur, glass_blur, motion_blur, zoom_blur
from .digital import contrast, elastic_transform, jpeg_compression, pixelate, saturate
from .noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise, to_bytes
from .weather import brightness, fog, frost, snow, spatter

__all__ = ["CORRUPTIONS", "SEVERITIES", "STANDARD_CORRUPTIONS", "check_corruptible", "corrupt", "load_official"]

SEVERITIES = (1, 2, 3, 4, 5)
_STANDARD = (
    gaussian_noise,
    shot_noise,
    impulse_noise,
    defocus_blur,
    glass_blur,
    motion_blur,
    zoom_blur,
    snow,
    frost,
    fog,
    brightness,
    contrast,
    elastic_transform,
    pixelate,
    jpeg_compression,
)
_EXTRA = (speckle_noise, gaussian_blur, spatter, saturate)
_FUNCTIONS = {function.__name__: function for function in (*_STANDARD, *_EXTRA)}

# The 15 most papers average over, and all 19, which the paper's Fig. 2 (supplement) does.
STANDARD_CORRUPTIONS = tuple(function.__name__ for function in _STANDARD)
CORRUPTIONS = tuple(_FUNCTIONS)

IMAGES_AT_ONCE = 500  # bounds the memory


def corrupt(images: Tensor, corruption: str, severity: int, seed: int = 0) -> Tensor:
    """
    Corrupts images.

    Args:
        images (`torch.Tensor`): uint8 RGB `[n, 3, H, W]`.
        corruption (`str`): one of `CORRUPTIONS`.
        severity (`int`): 1 to 5.
        seed (`int`, *optional*, defaults to 0): the same seed gives the same images; corruptions and severities draw
            independently. The global random state is neither used nor changed.

    Returns:
        `torch.Tensor`: uint8 `[n, 3, H, W]`, on the CPU.

    Raises:
        `ValueError`: if there is no such corruption or severity, or the images are grey, not uint8 or below 8x8.
    """
    _check_names(corruption, severity)
    check_corruptible(images)
    random = np.random.default_rng([seed, CORRUPTIONS.index(corruption), severity])
    images_nHWC = images.cpu().permute(0, 2, 3, 1).numpy()
    corrupted = np.empty(images_nHWC.shape, dtype=np.uint8)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        rows = slice(start, start + IMAGES_AT_ONCE)
        pixels = _FUNCTIONS[corruption](images_nHWC[rows] / 255, severity, random)
        corrupted[rows] = to_bytes(np.clip(pixels, 0, 1))
    return torch.from_numpy(corrupted).permute(0, 3, 1, 2).contiguous()


def check_corruptible(images: Tensor) -> None:
    """
    Raises:
        `ValueError`: if [`corrupt`] does not take such images.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 8:
        raise ValueError(
            "CIFAR-10-C's corruptions are made for uint8 color images [n, 3, H, W] of 8x8 pixels or more, got "
            f"{images.dtype} {list(images.shape)}: repeat a grey channel three times to corrupt it as color."
        )


def load_official(directory: str | Path, corruption: str, severity: int) -> Split:
    """
    Reads images of one corruption and severity from the published files: `<corruption>.npy`, uint8 `[5 n, 32, 32, 3]`,
    the n test images at severities 1 to 5, and `labels.npy`.

    Raises:
        `ValueError`: if there is no such corruption or severity, or a file is damaged or of another shape; names it.
        `OSError`: if a file is missing.
    """
    _check_names(corruption, severity)
    images, labels = (_read_array(Path(directory) / f"{name}.npy") for name in (corruption, "labels"))
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{directory}: {corruption}.npy holds {images.dtype} {list(images.shape)} and labels.npy "
            f"{list(labels.shape)}, not images [5 n, H, W, 3] in uint8 with a label each: download CIFAR-10-C again."
        )
    count = len(images) // len(SEVERITIES)
    rows = slice((severity - 1) * count, severity * count)
    chosen = torch.from_numpy(np.array(images[rows])).permute(0, 3, 1, 2).contiguous()
    return Split(chosen, torch.from_numpy(np.array(labels[rows])).long())


def _check_names(corruption: str, severity: int) -> None:
    if corruption not in CORRUPTIONS:
        raise ValueError(f"There is no corruption {corruption!r}: choose one of {', '.join(CORRUPTIONS)}.")
    if severity not in SEVERITIES:
        raise ValueError(f"A corruption's severity is 1 to 5, got {severity}.")


def _read_array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: corruptions_dir must be the unpacked folder of CIFAR-10-C.")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged or no array file ({error}): download CIFAR-10-C again.") from error

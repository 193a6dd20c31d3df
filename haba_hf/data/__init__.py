"""Real data in."""

from .imagenet import IMAGENET_SUBSETS
from .sources import NAMED_DATASETS, DataArguments, ImageData, Split, channel_statistics, load_image_data

__all__ = [
    "IMAGENET_SUBSETS",
    "NAMED_DATASETS",
    "DataArguments",
    "ImageData",
    "Split",
    "channel_statistics",
    "load_image_data",
]

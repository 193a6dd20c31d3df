"""Real data in."""

from .arguments import NAMED_DATASETS, DataArguments
from .image_data import ImageData
from .imagenet import IMAGENET_SUBSETS
from .sources import Splits, load_image_data
from .splits import Split
from .statistics import channel_statistics

__all__ = [
    "IMAGENET_SUBSETS",
    "NAMED_DATASETS",
    "DataArguments",
    "ImageData",
    "Split",
    "Splits",
    "channel_statistics",
    "load_image_data",
]

"""Real data in."""

from .sources import NAMED_DATASETS, DataArguments, ImageData, Split, channel_statistics, load_image_data

__all__ = ["NAMED_DATASETS", "DataArguments", "ImageData", "Split", "channel_statistics", "load_image_data"]

"""What goes beside an artifact when it is published."""

from .figures import plot_training_curves, save_gallery

__all__ = ["plot_training_curves", "save_gallery"]

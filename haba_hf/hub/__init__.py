"""What goes beside an artifact when it is published."""

from .figures import plot_embedding, plot_robustness, plot_training_curves, save_contact_sheet, save_gallery

__all__ = ["plot_embedding", "plot_robustness", "plot_training_curves", "save_contact_sheet", "save_gallery"]

"""`python -m haba_hf.reproduction` writes the pages of a checkout that are made from all its records."""

from transformers.utils.logging import disable_progress_bar

from ..utils.shipped import published_artifacts
from .equal_storage import PICTURE, comparisons, equal_storage, plot_equal_storage
from .leaderboard import leaderboard
from .tables import tables_folder

if __name__ == "__main__":
    disable_progress_bar()  # transformers' own, for files of some kilobytes
    results = tables_folder().with_name("results")
    compared = comparisons(results)
    pages = {
        "leaderboard.md": leaderboard(results, published_artifacts().values()),
        "equal_storage.md": equal_storage(compared),
    }
    for name, page in pages.items():
        (results / name).write_text(page, encoding="utf-8")
        print(results / name)
    plot_equal_storage(compared, results / PICTURE)
    print(results / PICTURE)

"""`python -m haba_hf.reproduction` writes training/results/leaderboard.md of a checkout, from its records."""

from ..utils.shipped import published_artifacts
from .leaderboard import leaderboard
from .tables import tables_folder

if __name__ == "__main__":
    page = tables_folder().with_name("results") / "leaderboard.md"
    page.write_text(leaderboard(page.parent, published_artifacts().values()), encoding="utf-8")
    print(page)

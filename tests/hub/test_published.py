"""The artifacts that come with this repository: whole, measured, and with a card of today's template."""

import pytest

from haba_hf.hub import read_artifact, render_model_card
from haba_hf.hub.cards import hub_cards_folder

FOLDERS = sorted(path.parent for path in hub_cards_folder().glob("published/*/config.json"))
assert FOLDERS, "the published artifacts are in the checkout"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_published_artifact(folder):
    artifact = read_artifact(folder)
    assert artifact.model.materialize().samples.isfinite().all()
    assert artifact.rows, "its accuracy is on record"
    assert artifact.origin and artifact.recipe and "gallery.png" in artifact.figures
    name = f"hub_cards/published/{folder.name}"
    assert (folder / "README.md").read_text() == render_model_card(artifact, name, has_code=False), (
        f"haba export {name} {name} --no-code writes it anew"
    )

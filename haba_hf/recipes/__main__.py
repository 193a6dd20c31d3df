"""`python -m haba_hf.recipes` writes `fields.json`, what `haba` helps from, and the page of all recipes."""

from ..utils.files import write_json
from ..utils.shipped import FIELDS, recipes_folder
from .catalogue import recipes_page
from .recipe import field_index

if __name__ == "__main__":
    write_json(FIELDS, field_index())
    page = recipes_folder() / "README.md"
    page.write_text(recipes_page(), encoding="utf-8")
    print(FIELDS, page, sep="\n")

"""`python -m haba_hf.recipes` writes `fields.json`, what `haba` helps from."""

from ..utils.files import write_json
from ..utils.shipped import FIELDS
from .recipe import field_index

if __name__ == "__main__":
    write_json(FIELDS, field_index())
    print(FIELDS)

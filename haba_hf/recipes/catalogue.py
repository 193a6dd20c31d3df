"""The page of all recipes that come with the package: training/recipes/README.md."""

import re

from ..artifact.configuration_haba import HabaConfig
from ..utils.markdown import table_text
from ..utils.shipped import first_sentence, recipe_header, recipe_names, recipe_path
from .recipe import Recipe, parse_recipe

INTRODUCTION = """# Recipes

By `python -m haba_hf.recipes`, from the recipes and their headers. *Samples*: what a class decodes to, of all
hallucinators. *What it takes*: measured where a table and a row are named, with their record in
[results](../results/README.md); else expected from the seconds of a step, or published. `haba distill NAME --field
value` changes any field; `-paper` recipes have the published settings and are sized for a GPU.
"""
HEADINGS = {
    "cifar10": "CIFAR-10",
    "digits": "Digits",
    "fashion_mnist": "Fashion-MNIST",
    "imagenette": "ImageNette, 128x128",
    "mnist": "MNIST",
    "speech_commands": "Mini Speech Commands",
}
COLUMNS = ("recipe", "what", "bases per class", "samples", "steps", "what it takes")
CORESETS = ("random", "herding", "k-center", "forgetting")
TAKES = re.compile(r"\b(?:Measured on|Expected|Published:)")


def recipes_page() -> str:
    """The page, a table for each data set with a row for every recipe."""
    names = recipe_names()
    lines = [INTRODUCTION]
    for folder in sorted({name.split("/")[0] for name in names}):
        lines += [
            f"## {HEADINGS.get(folder, folder)}\n",
            table_text(COLUMNS, (_row(name) for name in names if name.startswith(f"{folder}/"))),
        ]
    return "\n".join(lines)


def _row(name: str) -> list[str]:
    header, recipe = recipe_header(name), parse_recipe([str(recipe_path(name))])
    what = first_sentence(header).split(", ", 1)[-1].removesuffix(".")
    takes = TAKES.search(header)
    cells = [
        f"[{name}]({name}.yaml)",
        what[0].upper() + what[1:],
        str(recipe.model.bases_per_class),
        _samples(recipe),
        "-" if name.split("/")[1].startswith(CORESETS) else f"{recipe.distillation.steps:,}",
        header[takes.start() :] if takes else "-",
    ]
    return [cell.replace("|", r"\|") for cell in cells]


def _samples(recipe: Recipe) -> str:
    model = recipe.model
    if model.bases_per_class == "auto":
        return "as the budget pays"
    counts = ("bases_per_class", "num_hallucinators", "formation_factor", "formation_axes")
    return f"{HabaConfig(num_labels=1, **{name: getattr(model, name) for name in counts}).samples_per_class:,}"

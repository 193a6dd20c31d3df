"""Recipes: every setting of one run, section by section, from a YAML file and the command line."""

from ..utils.shipped import recipe_path, recipes_folder
from .recipe import Recipe, data_arguments_of, parse_recipe, recipe_of, run_script
from .sections import RecipeError, parse_sections, section_values

__all__ = [
    "Recipe",
    "RecipeError",
    "data_arguments_of",
    "parse_recipe",
    "parse_sections",
    "recipe_of",
    "recipe_path",
    "recipes_folder",
    "run_script",
    "section_values",
]

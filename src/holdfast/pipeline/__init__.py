"""Floor 7: recipes, run folders, stages that resume, the summary."""

from importlib import resources

from holdfast.pipeline.folder import RunFolder
from holdfast.pipeline.recipe import Recipe
from holdfast.pipeline.recipe_file import load_recipe, recipe_from_dict
from holdfast.pipeline.run import Plan, check, run
from holdfast.pipeline.stages import Stage, stages_of


def bundled_recipe_text(name: str) -> str:
    """Text of a recipe that comes with the package: "demo" or "template"."""
    return (resources.files("holdfast.pipeline") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def bundled_recipe(name: str) -> Recipe:
    """A recipe that comes with the package."""
    import yaml

    return recipe_from_dict(yaml.safe_load(bundled_recipe_text(name)), f"{name}.yaml")


__all__ = [
    "Plan",
    "Recipe",
    "RunFolder",
    "Stage",
    "bundled_recipe",
    "bundled_recipe_text",
    "check",
    "load_recipe",
    "recipe_from_dict",
    "run",
    "stages_of",
]

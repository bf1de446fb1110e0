"""A recipe read from a file or a dict: paths from its own folder, and one clear line for the first mistake.

Knows: YAML, how to say which key is wrong and what was meant. Does not know: the keys (recipe.py).
"""

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from holdfast.core.errors import UserError
from holdfast.pipeline.places import PLACES, located
from holdfast.pipeline.recipe import TWINS, Recipe, Section, TrainingSection


class OnceLoader(yaml.SafeLoader):
    """YAML in which a key stands once: of two values the first would be dropped without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As yaml's own, after a look at the keys."""
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands twice", key.start_mark
                )
            seen |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
        return super().construct_mapping(node, deep)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        UserError: missing file, not YAML, unknown key (with the nearest known one), wrong type.
    """
    path = Path(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), OnceLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `holdfast init {path}` writes a commented one") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a recipe file") from None
    except RecursionError:
        raise UserError(f"{path}: not YAML (nested too deeply)") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)
        where = f" line {place.line + 1}" if place is not None else ""
        raise UserError(f"{path}{where}: not YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no keys; `holdfast init` writes a commented recipe")
    return recipe_from_dict(values, str(path), path.resolve().parent)


def recipe_from_dict(values: dict[str, Any], where: str = "recipe", folder: Path | None = None) -> Recipe:
    """Check values and fill in defaults.

    Args:
        where: what the values are called in a message.
        folder: that relative paths start from; None leaves them as they are.

    Raises:
        UserError: as :func:`load_recipe`.
    """
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {_first_problem(error)}") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return recipe if folder is None else _located(recipe, folder)


def _located(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its relative paths made absolute, from the folder it stands in."""
    from holdfast.evaluation.prompt_sets import PROMPT_SETS

    changed: dict[str, Section] = {}
    for name, key in PLACES:
        section = changed.get(name, getattr(recipe, name))
        source = getattr(section, key, None)
        if section is not None and isinstance(source, str):
            lists = PROMPT_SETS if name == "skill" else None
            changed[name] = section.model_copy(update={key: located(source, folder, lists)})
    return recipe.model_copy(update=changed)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys here: {', '.join(known)}"
        return f"unknown key '{place}'; {hint}"
    more = len(error.errors()) - 1
    rest = f" (and {more} more)" if more else ""
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {message}, got {problem.get('input')!r}{rest}" if place != "recipe" else f"{message}{rest}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    kind: Any = Recipe
    for part in location:
        if isinstance(part, int) or not hasattr(kind, "model_fields"):
            continue
        kind = _section_of(kind.model_fields[part].annotation) if part in kind.model_fields else kind
    return list(kind.model_fields)


def _section_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := _section_of(part)) is not None:
            return found
    return None


def check_twins(trl: Mapping[str, Any]) -> None:
    """What TRL's own words for our keys may say: what ours may, and TRL's further meanings of a number.

    Raises:
        UserError: another number.
    """
    for theirs, ours in TWINS.items():
        value = trl.get(theirs)
        counted = (ours == "steps" and value == -1) or (
            ours == "warmup" and value is not None and 1 <= value < math.inf
        )
        if value is None or counted:
            continue
        try:
            TrainingSection.model_validate({ours: getattr(value, "value", value)})
        except ValidationError as error:
            raise UserError(f"training.trl.{theirs}: {error.errors()[0]['msg']}, got {value!r}") from None

"""The tables of file formats in docs/, made from the pydantic models that read the files.

    python -m docs.making.formats    # writes them; a test says when they are old

Type, range and default come from the model, the meaning from the comment at the field (above it, or behind it).

Knows: which page has which table. Does not know: what any key does.
"""

import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from studies.generated import replaced

from holdfast.core.files import write_text
from holdfast.evaluation.suites import files as suites
from holdfast.gating import schema as evidence
from holdfast.pipeline import sections
from holdfast.pipeline.recipe import Recipe

DOCS = Path(__file__).parents[1]
WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true, false",
    "object": "keys",
}


def comments(model: type[BaseModel]) -> dict[str, str]:
    """What the source says of each field of a model, those of its parents included."""
    found: dict[str, str] = {}
    for part in reversed(model.__mro__):
        if issubclass(part, BaseModel) and part is not BaseModel:
            found |= _own_comments(part)
    return found


def _own_comments(part: type[BaseModel]) -> dict[str, str]:
    lines = textwrap.dedent(inspect.getsource(part)).splitlines(keepends=True)
    tokens = tokenize.generate_tokens(io.StringIO("".join(lines)).readline)
    said = {
        token.start[0]: (token.string[1:].strip(), token.line)
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    found = {}
    for number, line in enumerate(lines, 1):
        field = re.match(r"    (\w+): \S", line)
        if field is None or field[1] not in part.model_fields:
            continue
        words, above = [said[number][0]] if number in said else [], number - 1
        while above in said and said[above][1].strip().startswith("#"):
            words.insert(0, said[above][0])
            above -= 1
        found[field[1]] = " ".join(words).removesuffix(".")
    return found


def kind(schema: dict[str, Any]) -> str:
    """A JSON schema's type in a few words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind(part) for part in schema["anyOf"] if part.get("type") != "null"))
    if "oneOf" in schema or "$ref" in schema:
        return "see below"
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        part = kind(schema["items"])
        return "list" if part in ("see below", "text") else f"list of {part}".replace("number", "numbers")
    if schema.get("pattern") == r"^[0-9a-f]{64}$":
        return "sha256"
    return WORDS[schema["type"]] + _range(schema)


def _range(schema: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    ends = [f"{sign} {schema[name]:g}" for name, sign in signs.items() if name in schema]
    return f", {' and '.join(ends)}" if ends and schema.get("exclusiveMaximum") != 2**32 else ""


def default(model: type[BaseModel], name: str) -> str:
    """A field's default as one would write it."""
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(getattr(part, 'name', getattr(part, 'arm', str(part))) for part in value)}]"
    return "`true`" if value is True else "`false`" if value is False else f"`{value}`"


def table(model: type[BaseModel], prefix: str = "", defaults: bool = True) -> str:
    """One row a key.

    Raises:
        LookupError: a key that no comment explains.
    """
    said = comments(model)
    properties = model.model_json_schema(by_alias=False)
    shown = properties.get("properties") or properties["$defs"][model.__name__]["properties"]
    heads = ["key", "value", "default", "meaning"] if defaults else ["key", "value", "meaning"]
    rows = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name in model.model_fields:
        if not said.get(name):
            raise LookupError(f"{model.__name__}.{name}: no comment says what it means")
        cells = [f"`{prefix}{name.rstrip('_')}`", kind(shown[name]), default(model, name), said[name]]
        rows.append(f"| {' | '.join(cells if defaults else [*cells[:2], cells[3]])} |")
    return "\n".join(rows)


def recipe() -> str:
    """Every key of a recipe, a table a section."""
    parts = {
        "model": sections.ModelSection,
        "skill": sections.SkillSection,
        "task": sections.TaskSection,
        "adapter": sections.AdapterSection,
        "training": sections.TrainingSection,
        "arms[]": sections.ArmSection,
        "arms[].budget": sections.BudgetSection,
        "monitor": sections.MonitorSection,
        "evaluate": sections.EvaluateSection,
        "audit": sections.AuditSection,
        "restore[]": sections.RestoreSection,
        "elasticity": sections.ElasticitySection,
    }
    return "\n\n".join([table(Recipe), *(_chapter(f"`{name}`", part) for name, part in parts.items())])


def _chapter(title: str, part: type[BaseModel], defaults: bool = True) -> str:
    said = inspect.cleandoc(part.__doc__ or "").split("\n\n")[0].replace("``", "`")
    return f"### {title}\n\n{said}\n\n{table(part, defaults=defaults)}"


def suite_lines() -> str:
    """Every kind of line of a suites file."""
    kinds = (
        suites.RefusalLine,
        suites.TruthLine,
        suites.ChoiceLine,
        suites.TaskLine,
        suites.PerplexityLine,
        suites.HarnessLine,
    )
    return "\n\n".join(_chapter(_kind_of(line), line) for line in kinds)


def _kind_of(line: type[BaseModel]) -> str:
    return f"`kind: {line.model_json_schema()['properties']['kind']['const']}`"


def evidence_parts() -> str:
    """Every object of an evidence file."""
    parts: Sequence[type[BaseModel]] = (
        evidence.Statement,
        evidence.Predicate,
        evidence.MeasuredPart,
        evidence.RowPart,
        evidence.VerdictPart,
        evidence.CheckPart,
        evidence.Bindings,
        evidence.BoundFiles,
    )
    return "\n\n".join(_chapter(part.__name__, part, defaults=False) for part in parts)


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "recipe.md": {"recipe": recipe},
    "formats.md": {
        "budgets": lambda: table(evidence.PolicyPart, defaults=False),
        "suites": suite_lines,
        "evidence": evidence_parts,
    },
}


def regenerate(page: str, text: str) -> str:
    """``text`` of a page with every table as the models have it."""
    for name, make in TABLES[page].items():
        text = replaced(text, name, make(), page)
    return text


if __name__ == "__main__":
    for page in TABLES:
        write_text(DOCS / page, regenerate(page, (DOCS / page).read_text(encoding="utf-8")))

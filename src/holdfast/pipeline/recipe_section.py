"""What every section of a recipe has in common: types of values, unknown keys are errors.

Knows: pydantic. Does not know: the keys (recipe.py).
"""

from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from holdfast.core.errors import UserError
from holdfast.core.files import name_problem

Share = Annotated[float, Field(gt=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _name(value: str) -> str:
    if (problem := name_problem(value)) is not None:
        raise ValueError(problem)
    return value


Name = Annotated[str, AfterValidator(_name)]  # becomes the name of a file or a folder


MAY_BE_EMPTY = ("name", "salt", "system")


class Section(BaseModel):
    """A part of the recipe; unknown keys are errors, because a typo must not become a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's yes, no, on and off would count as 1 and 0."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind is not bool:
            raise ValueError("yes and no are no value of this key")
        if isinstance(value, str) and not value.strip() and info.field_name not in MAY_BE_EMPTY:
            raise ValueError("nothing is given; leave the key out")
        return value


Some = TypeVar("Some", bound=Section)


def section_from(kind: type[Some], values: dict[str, Any]) -> Some:
    """A section made of a command line's options, checked as a recipe's is.

    Raises:
        UserError: a value that does not fit, by the name of its option.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        names = [part for part in problem["loc"] if isinstance(part, str) and part.isidentifier()]
        option = "".join(f"--{name}: " for name in names[-1:]).replace("_", "-")
        option = option.replace("--weight:", "--defence-weight:")
        given = "" if isinstance(problem["input"], dict) else f", got {problem['input']!r}"
        raise UserError(f"{option}{problem['msg'].removeprefix('Value error, ')}{given}") from None

"""What every section of a config is made of: a frozen model that refuses unknown keys."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Becomes part of paths; dots stand alone.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*$", max_length=64)]
Share = Annotated[float, Field(ge=0, le=1)]
ColumnName = Annotated[str, Field(pattern=r"^[\w .-]{1,64}$")]


class Section(BaseModel):
    """A frozen part of the config that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def is_unset(value: object) -> bool:
    """Return whether a knob is off, so that it is left out of what a config's hash covers.

    A knob that came later is not in the hashes of results made before it.
    """
    return value is None or value is False or value == 0

"""What happens to pairs that share something with test, kind by kind."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

LeakPolicy = Literal["refuse", "drop", "allow"]
LEAK_POLICIES = ("refuse", "drop", "allow")


class LeakPolicies(BaseModel):
    """A policy for each kind of thing that a pair can share with test; one word stands for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: LeakPolicy = Field("refuse", description="The same image, byte for byte.")
    near_image: LeakPolicy = Field("refuse", description="An image that looks the same.")
    caption: LeakPolicy = Field(
        "refuse",
        description="The words of the caption, whatever their case and punctuation. allow is for "
        "captions that many images share, such as labels and short titles.",
    )
    product: LeakPolicy = Field("refuse", description="The product id.")

    @model_validator(mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in LEAK_POLICIES:
            raise PydanticCustomError("leak_policy", "input should be 'refuse', 'drop' or 'allow'")
        return dict.fromkeys(cls.model_fields, value)

    def kinds(self, policy: LeakPolicy) -> list[str]:
        """List the kinds of a policy."""
        return [kind for kind, chosen in self if chosen == policy]

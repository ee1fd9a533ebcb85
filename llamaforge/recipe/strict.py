"""What every part of a recipe is: known keys only, and values of the kind that is asked for."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


class Strict(BaseModel):
    """Refuses unknown keys, numbers that are none, and `true` for a number; never changes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _without_empty_parts(cls, values: Any) -> Any:
        """Leave out a part of which only the title is there."""
        if not isinstance(values, dict):
            return values
        parts = {name for name, info in cls.model_fields.items() if _is_model(info.annotation)}
        return {k: v for k, v in values.items() if v is not None or k not in parts}

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `true` where a number is wanted: pydantic takes it for 1."""
        kind = cls.model_fields[info.field_name or ""].annotation
        kinds = {kind, *get_args(kind), *(part for k in get_args(kind) for part in get_args(k))}
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError("a number is wanted")
        return value

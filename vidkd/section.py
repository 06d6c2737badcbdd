"""The base of every configuration section."""

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Modality = Literal["rgb", "flow", "features"]  # of a frame: colours, flow along x and y, a network's answer


class Section(BaseModel):
    """Frozen, and closed: a key that no field declares is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Span(Section):
    """A length of training, in optimiser steps or in epochs. `in_steps` turns the one into the other, once."""

    steps: int | None = Field(default=None, gt=0, le=10**12)
    epochs: float | None = Field(default=None, gt=0, le=1e6)

    @model_validator(mode="after")
    def _one_of_two(self) -> "Span":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("say either steps or epochs, and not both")
        return self

    def count(self) -> int:
        """The length in steps; ValueError while it is still in epochs."""
        if self.steps is None:
            raise ValueError(f"{self.epochs} epochs are not yet known in steps: call in_steps first")
        return self.steps


class Ramp(Span):
    """A weight that goes from `start` to `to` in a straight line over the given steps or epochs, then stays."""

    to: float = Field(ge=0)
    start: float = Field(default=0.0, ge=0)

    def at(self, step: int) -> float:
        return self.start + (self.to - self.start) * min(step / self.count(), 1.0)


class Weighted(Section):
    """A section whose owner returns named, unweighted loss terms; `weights` is the one place that weighs them."""

    weights: dict[str, float | Ramp] = Field(default_factory=dict)  # term -> weight; the default below if not named

    def default_weight(self, term: str) -> float:
        """What a term weighs when the configuration does not say."""
        del term
        return 1.0

    def weight(self, term: str, step: int) -> float:
        weight: Any = self.weights.get(term, self.default_weight(term))
        return weight.at(step) if isinstance(weight, Ramp) else float(weight)


T = TypeVar("T")


def in_steps(value: T, steps_per_epoch: int) -> T:
    """The same sections with every `Span` said in steps, also inside lists and dicts."""
    if isinstance(value, Section):
        changed: dict[str, Any] = {
            name: in_steps(getattr(value, name), steps_per_epoch) for name in type(value).model_fields
        }
        if isinstance(value, Span) and value.epochs is not None:
            changed |= {"steps": max(1, round(value.epochs * steps_per_epoch)), "epochs": None}
        return value.model_copy(update=changed)  # pyright: ignore[reportReturnType]
    if isinstance(value, list | tuple):
        return type(value)(in_steps(v, steps_per_epoch) for v in value)  # pyright: ignore[reportCallIssue]
    if isinstance(value, dict):
        return {k: in_steps(v, steps_per_epoch) for k, v in value.items()}  # pyright: ignore[reportReturnType]
    return value

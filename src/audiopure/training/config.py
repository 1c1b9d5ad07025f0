"""Settings of a training run, read from TOML; unknown keys are errors."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from audiopure.errors import InputError


class Strict(BaseModel):
    """Frozen; an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Decay = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(Strict):
    """What every recipe shares."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup: int = Field(default=500, ge=0)  # steps of linear warm-up before the cosine
    weight_decay: float = Field(default=0.01, ge=0)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[Decay, Decay] = (0.9, 0.98)  # of AdamW
    momentum: float = Field(default=0.0, ge=0, lt=1)  # of SGD
    clip: float = Field(default=1.0, gt=0)  # gradient norm
    ema: float = Field(default=0.999, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    validate_every: int = Field(default=500, gt=0)
    checkpoint_every: int = Field(default=250, gt=0)
    patience: int | None = Field(default=None, gt=0)  # validations without a better score before it ends


Config = TypeVar("Config", bound=Strict)


def read_config(path: str | Path, model: type[Config]) -> Config:
    """Read `path` as `model`; InputError names the file, the key and what is wrong with it."""
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {where}: {first['msg']}") from error

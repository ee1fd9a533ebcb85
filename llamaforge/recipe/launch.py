"""On how many devices a recipe trains."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from llamaforge.recipe.strict import Strict
from llamaforge.recipe.training_settings import REFERENCE_METHODS, TrainingSettings


def _like(pattern: str, words: str) -> AfterValidator:
    """Return what refuses a text that is not of a form; `words` say which one is wanted."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


class LaunchSettings(Strict):
    """On how many devices training runs; all of them train the same adapter.

    A step then has batch size × accumulation × processes × machines rows.
    """

    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes on each machine: one for each GPU, or for each part of its cores."""
    machines: Annotated[int, Field(ge=1, le=64)] = 1
    rendezvous: (
        Annotated[
            str,
            _like(r"[A-Za-z0-9.-]{1,253}:[0-9]{1,5}", "write HOST:PORT, such as node1:29500"),
        ]
        | None
    ) = None
    """`HOST:PORT` of the first machine, where the others reach it."""
    interface: (
        Annotated[str, _like(r"[A-Za-z0-9_.:-]{1,15}", "write its name, such as eth0")] | None
    ) = None
    """The network device that the machines see each other through; empty means any."""
    max_restarts: Annotated[int, Field(ge=0, le=100)] = 3
    """How often all processes are started again, from the last checkpoint, after one has failed."""
    launcher: Literal["torchrun", "accelerate"] = "torchrun"
    """What starts the processes: torch's launcher or, on one machine, `accelerate launch`."""
    fsdp: bool = False
    """Whether the frozen layers of the full-precision base are divided among the processes, each of
    which has a whole one only while it computes with it: less memory, more exchange."""

    @property
    def world(self) -> int:
        """Processes on all machines together."""
        return self.processes * self.machines

    @model_validator(mode="after")
    def _reachable(self) -> "LaunchSettings":
        if self.machines > 1 and self.rendezvous is None:
            raise ValueError("several machines need a rendezvous, HOST:PORT of the first one")
        if self.machines > 1 and self.launcher == "accelerate":
            raise ValueError("launcher accelerate is for one machine; several need torchrun")
        if self.fsdp and self.world == 1:
            raise ValueError("fsdp divides the base among processes, and there is one")
        return self

    def check_training(self, training: TrainingSettings) -> None:
        """Return if the processes can train so.

        Raises:
            ValueError: what is asked cannot be divided.
        """
        if not self.fsdp:
            return
        if training.base == "gguf":
            raise ValueError(
                "fsdp is for full-precision bases (--from hub): packed blocks are mapped from the "
                "file, which the processes of a machine share as it is"
            )
        for key, why in (
            ("load_in_4bit", "NF4 blocks are not cut in two"),
            ("use_dora", "DoRA measures whole rows of weights at its beginning"),
            ("packing", "a process without rows would keep the others waiting"),
        ):
            if getattr(training, key):
                raise ValueError(f"fsdp does not go with {key}: {why}")
        if not training.use_peft:
            raise ValueError(
                "fsdp divides frozen weights, and without an adapter (use_peft: false) none are"
            )
        if training.method in REFERENCE_METHODS:
            raise ValueError(
                f"fsdp does not go with method {training.method}: its reference is asked by each "
                "process at its own pace"
            )

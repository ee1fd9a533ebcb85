"""What is measured or read before a person is asked: the machine, the models, the rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaforge import hardware, paths
from llamaforge.catalog.inventory import Inventory
from llamaforge.catalog.model import ModelStatus, StoredModel
from llamaforge.catalog.names import parse_name
from llamaforge.errors import LlamaForgeError, UsageError
from llamaforge.wizard.presets import Rows
from llamaforge.words import plural, size_words

if TYPE_CHECKING:
    from llamaforge.wizard.bases import BaseFacts
    from llamaforge.wizard.columns import ColumnFacts
    from llamaforge.wizard.row_files import RowFiles


@dataclass(frozen=True)
class Machine:
    """What the machine has now, in bytes."""

    cores: int
    memory: int
    """Available."""
    disk: int
    """Free where runs are kept."""
    gpus: tuple[hardware.Gpu, ...] = ()
    memory_total: int = 0
    has_bfloat16: bool = False
    """Whether the processor multiplies bfloat16 natively."""

    def words(self) -> str:
        """Return it in one line."""
        gpu = f", {self.gpus[0].name}" if self.gpus else ", no GPU"
        return (
            f"{plural(self.cores, 'core')}, {size_words(self.memory)} of memory free, "
            f"{size_words(self.disk)} of disk free{gpu}"
        )


@dataclass(frozen=True)
class Facts:
    """Everything that questions and checks look at."""

    machine: Machine
    models: tuple[StoredModel, ...] = ()
    note: LlamaForgeError | None = None
    """Why models could not be looked at."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """The check of the rows, as `worker.data_check` writes it; empty before it was made."""
    report_of: tuple[Any, ...] = ()
    """The answers that it was made for."""
    files: "RowFiles | None" = None
    """The files that the rows lie in; None before they were looked for."""
    prompts: tuple[str, ...] = ()
    """Some questions out of the rows."""
    base: "BaseFacts | None" = None
    """The full-precision base of the draft's model; None before it was looked up."""
    columns: "ColumnFacts | None" = None
    """What the columns of the rows could be; None before they were looked at."""

    @property
    def trainable(self) -> tuple[StoredModel, ...]:
        """The models that an adapter can be trained on."""
        return tuple(model for model in self.models if model.status is ModelStatus.READY)

    @property
    def rows(self) -> Rows:
        """What the check says of the rows."""
        counts = self.report.get("rows", {})
        analysis = self.report.get("analysis") or {}
        lengths = analysis.get("lengths") or {}
        labelled = (analysis.get("flags") or {}).get("labelled") or {}
        return Rows(
            count=int(counts.get("accepted", 0)) + int(counts.get("repaired", 0)),
            p50=int((lengths.get("tokens") or {}).get("p50", 0)),
            suggested_max_length=int(lengths.get("suggested_max_length", 0)),
            good=int(labelled.get("good", 0)),
            bad=int(labelled.get("bad", 0)),
        )

    def model(self, name: str) -> StoredModel | None:
        """Return the model that people mean by `name`, if it is there."""
        wanted = _key(name)
        return next((model for model in self.models if _key(model.name) == wanted), None)


def _key(name: str) -> str:
    """Return what two ways of writing a name have in common; of what is no name, itself."""
    try:
        return parse_name(name).key
    except UsageError:
        return name


def measured() -> Machine:
    """Return what the machine has now."""
    return Machine(
        hardware.physical_cores(),
        hardware.available_memory_bytes(),
        hardware.free_disk_bytes(paths.runs_folder()),
        tuple(hardware.gpus()),
        hardware.total_memory_bytes(),
        hardware.cpu_has_fast_bfloat16(),
    )


def gathered(stores: Sequence[Path]) -> Facts:
    """Return the facts of this machine and its models; those of rows come later."""
    machine = measured()
    try:
        inventory = Inventory.open(tuple(stores))
        return Facts(machine, tuple(inventory.models()))
    except LlamaForgeError as error:
        return Facts(machine, note=error)

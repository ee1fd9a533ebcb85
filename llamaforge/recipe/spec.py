"""`Recipe` is what a person asks for; `RunSpec` is the same with every default written out."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    Field,
    model_validator,
)

from llamaforge.data.check import Division
from llamaforge.data.encoding import Preference
from llamaforge.data.mapping import Mapping
from llamaforge.data.reading import ReadChoices, Want
from llamaforge.data.sources import Source
from llamaforge.files import write_atomic
from llamaforge.recipe.documents import load_yaml, parse, to_yaml
from llamaforge.recipe.launch import LaunchSettings
from llamaforge.recipe.strict import Strict
from llamaforge.recipe.training_settings import TrainingSettings

Quantization = Literal[
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0"
]
"""What a merged file can be packed as, by llama.cpp's names."""


class ModelChoice(Strict):
    """Which model of which Ollama store is trained."""

    name: str = Field(min_length=1)
    """The Ollama name, such as `qwen2.5:3b`."""
    store: Path | None = None
    """The folder that holds `manifests` and `blobs`; empty means Ollama's own place."""
    chat_template: str | None = None
    """Jinja text, or `chatml`, `llama3`, to use where the file carries no template of its own."""
    base: str | None = None
    """The full-precision base, `owner/name` or a folder, for `training.base: hub`; empty means the
    one that the model was made from, as far as that is known."""


class DataChoice(Strict):
    """Which rows are trained on, and which are held out."""

    sources: list[Source] = Field(default_factory=list)
    """Files, folders, patterns and datasets of the Hub, each with its share."""
    snapshot: str | None = None
    """The id of rows that were frozen before, taken instead of sources, split as they are."""
    validation_fraction: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    """Part of the rows without a `split` of their own that is held out of training."""
    validation_count: Annotated[int, Field(ge=1)] | None = None
    """How many rows instead of which part."""
    test_fraction: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Part of them that is set aside for the comparison at the end."""
    test_count: Annotated[int, Field(ge=1)] | None = None
    split_seed: int = 0
    map: str | None = None
    """What the columns are: `prompt=question,completion=answer`."""
    preference: Preference = "refuse"
    """What becomes of preference pairs: refused, their better answers trained on, or both answers
    held against each other; or every answer taken with its label, good or bad. Methods that learn
    from pairs or from labels set the last two by themselves."""
    images: Literal["refuse", "drop", "link"] = "refuse"
    """What becomes of rows with images: refused, used without them, or with their links."""
    train_on: Literal["all", "last"] = "all"
    """Whether every answer of a conversation is trained, or the last alone."""
    allow_secrets: bool = False
    """Whether rows may hold what looks like keys and tokens."""
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Tokens a row; empty means the model's context length, at most 2,048."""
    max_rejected_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """More rejected rows than this part stop the run before it trains."""

    @property
    def division(self) -> Division:
        """How the rows are divided."""
        return Division(
            self.validation_fraction,
            self.validation_count,
            self.test_fraction,
            self.test_count,
            self.split_seed,
        )

    @property
    def choices(self) -> ReadChoices:
        """What was chosen about the rows.

        Raises:
            UsageError: `map` says nothing that makes sense.
        """
        wants: dict[str, Want] = {"pairs": "preference", "labelled": "labelled"}
        return ReadChoices(
            wants.get(self.preference, "sft"),
            "chosen" if self.preference == "chosen" else "refuse",
            self.images,
            None if self.map is None else Mapping.parse(self.map),
        )

    @model_validator(mode="after")
    def _one_origin(self) -> "DataChoice":
        if bool(self.sources) == bool(self.snapshot):
            raise ValueError("name data files, or one snapshot")
        sides = (
            (self.validation_fraction, self.validation_count),
            (self.test_fraction, self.test_count),
        )
        if sum(fraction for fraction, count in sides if count is None) >= 1.0:
            raise ValueError(
                "validation_fraction and test_fraction together leave no row for training"
            )
        return self


class Phase(Strict):
    """Rows, and how they are trained on: what a run does once or, in turn, several times."""

    data: DataChoice
    training: TrainingSettings = TrainingSettings()


class EvaluationSettings(Strict):
    """How base and tuned model are compared after training."""

    fidelity_rows: Annotated[int, Field(ge=1)] = 32
    """Held-out rows, at most, on which logits in torch and in llama.cpp are compared; fewer where
    they are long."""
    max_rows: Annotated[int, Field(ge=0)] = 50
    """Held-out rows a split that both models answer; 0 leaves the comparison out."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    """Tokens an answer may have."""
    samples: Annotated[int, Field(ge=0)] = 3
    """Conversations that are shown before and after."""
    probe_prompts: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=8_000)]], Field(max_length=16)
    ] = Field(default_factory=list)
    """Questions that the model answers during training, whenever the validation loss is measured,
    beside what it answered before."""
    probe_max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """Tokens that such an answer may have."""
    probe_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """How long the answers to all of them may take together, each time; what is not done by then is
    cut."""


def merged_name(quantization: str | None) -> str:
    """Return what a run's merged file is called, if no other name is chosen."""
    return f"merged-{quantization}.gguf" if quantization else "merged.gguf"


class PublishChoice(Strict):
    """Under which name the result goes to Ollama; empty means that it is not published."""

    name: str | None = None
    quantization: Quantization | None = None
    """The type of a merged file; empty keeps the type of every tensor of the model's own file."""

    @property
    def merged_name(self) -> str:
        """What the merged file of a run is called that makes no adapter."""
        return merged_name(self.quantization)


_STABLE: Final = "warmup_stable_decay"
_FALLS: Final = ("cosine_with_min_lr", "polynomial", _STABLE)
_CONSTANT: Final = "the other schedules, such as constant_with_warmup"
_ADAMS: Final = ("adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit")


def _listing(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


class Recipe(Strict):
    """What to do, as a file of YAML or as flags."""

    version: Literal[1] = 1
    name: str | None = None
    continue_from: str | None = None
    """The run whose adapter training goes on from, instead of beginning with an untouched one."""
    model: ModelChoice
    data: DataChoice
    training: TrainingSettings = TrainingSettings()
    then: Annotated[list[Phase], Field(max_length=8)] = Field(default_factory=list)
    """Further phases of training: each goes on from the adapter of the one before."""
    evaluation: EvaluationSettings = EvaluationSettings()
    launch: LaunchSettings = LaunchSettings()
    publish: PublishChoice = PublishChoice()

    @model_validator(mode="after")
    def _heard(self) -> "Recipe":
        """Refuse settings that a schedule or an optimizer would not listen to.

        Defaults may be written out. A run spec is not judged: it was, when its recipe was read.
        """
        usual = TrainingSettings()
        for phase in self.phases:
            training = phase.training
            for key, heard, by in (
                ("warmup_steps", training.lr_scheduler_type != "constant", _CONSTANT),
                ("warmup_ratio", training.lr_scheduler_type != "constant", _CONSTANT),
                ("min_lr_rate", training.lr_scheduler_type in _FALLS, _listing(_FALLS)),
                ("decay_ratio", training.lr_scheduler_type == _STABLE, _STABLE),
                ("adam_beta1", training.optim in _ADAMS, "Adam"),
                ("adam_beta2", training.optim in _ADAMS, "Adam"),
                ("adam_epsilon", training.optim in _ADAMS, "Adam"),
                ("early_stopping_threshold", training.keeps_best, "the best checkpoint"),
            ):
                value = getattr(training, key)
                if value and value != getattr(usual, key) and not heard:
                    raise ValueError(f"training.{key} does nothing here: it is a setting of {by}")
        return self

    @model_validator(mode="after")
    def _divisible(self) -> "Recipe":
        for phase in self.phases:
            self.launch.check_training(phase.training)
        if self.launch.fsdp and self.evaluation.probe_prompts:
            raise ValueError(
                "probe_prompts are answered by one process, and with fsdp none has the whole model"
            )
        return self

    @property
    def phases(self) -> list[Phase]:
        """All phases of training, one at least."""
        return [Phase(data=self.data, training=self.training), *self.then]


class ResolvedBase(Strict):
    """The full-precision base as it was found on this machine."""

    repo: str
    """The repository, or the folder that was named."""
    revision: str | None
    """The commit; None for a folder."""
    folder: Path
    chat_template: str | None
    """Jinja text; None where it has none, so that the model's file gives it."""


class FurtherPart(Strict):
    """One file, after the first, of a model that is split into several."""

    blob: Path
    digest: str
    """`sha256:<hex>` of the file."""


class ResolvedModel(ModelChoice):
    """The model as it was found: its file and what the file said."""

    store: Path
    blob: Path
    """The file, or the first of several."""
    digest: str
    """`sha256:<hex>` of the blob."""
    further: tuple[FurtherPart, ...] = ()
    """The other files of a model that is split, in their order."""
    architecture: str
    quantization: str
    context_length: int
    full: ResolvedBase | None = None
    """What is trained on with `training.base: hub`."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the model, in their order."""
        return (self.blob, *(part.blob for part in self.further))

    def own_template(self, in_file: str | None) -> str | None:
        """Return the template that the trained model brings; `in_file` is that of the blob."""
        return (self.full and self.full.chat_template) or in_file


class StartAdapter(Strict):
    """The adapter that training goes on from; a copy lies in the run's folder."""

    run: str
    """The run that made it."""
    step: int
    """The optimizer step of that run after which it was saved."""
    sha256: str


class RunSpec(Strict):
    """What a run does, with nothing left open. Written once as `run.yaml`, never changed."""

    version: Literal[1] = 1
    run: str
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    program: dict[str, str] = Field(default_factory=dict)
    """Versions of what the run was made with, by package."""
    start: StartAdapter | None = None
    model: ResolvedModel
    data: DataChoice
    training: TrainingSettings
    then: list[Phase] = Field(default_factory=list)
    evaluation: EvaluationSettings
    launch: LaunchSettings = LaunchSettings()
    publish: PublishChoice

    @property
    def phases(self) -> list[Phase]:
        """All phases of training, one at least. Their adapters have one shape."""
        return [Phase(data=self.data, training=self.training), *self.then]

    def of_phase(self, number: int) -> "RunSpec":
        """Return the spec as if phase `number`, from 1 on, were its only one."""
        phase = self.phases[number - 1]
        return self.model_copy(update={"data": phase.data, "training": phase.training, "then": []})

    def save(self, path: Path) -> None:
        """Write the spec as YAML, atomically."""
        write_atomic(path, to_yaml(self))

    @classmethod
    def load(cls, path: Path) -> "RunSpec":
        """Read a spec; raises `UsageError` with the key that is wrong."""
        return parse(cls, load_yaml(path), path.name)

"""`Recipe` is what a person asks for; `RunSpec` is the same with every default written out."""

import re
import reprlib
from collections.abc import Hashable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from llamaforge.data.check import Division
from llamaforge.data.encoding import Preference
from llamaforge.data.mapping import Mapping
from llamaforge.data.privacy import masked_line
from llamaforge.data.reading import ReadChoices, Want
from llamaforge.data.sources import Source
from llamaforge.errors import NotFoundError, UsageError
from llamaforge.files import write_atomic
from llamaforge.recipe.spelling import meant, nearest
from llamaforge.safe_text import redact, safe_line

_T = TypeVar("_T", bound=BaseModel)

Quantization = Literal[
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0"
]
"""What a merged file can be packed as, by llama.cpp's names."""

_SHORT = reprlib.Repr()
"""Of a list that names itself again and again, as YAML allows, no more than its beginning."""
_SHORT.maxstring = _SHORT.maxother = 4_000


_MOST_YAML_BYTES: Final = 32_000_000
"""A spec may hold a chat template; a file of weights that was named by mistake is larger."""
_MOST_SEED: Final = 2**32 - 1
"""numpy's bound, whose generator is seeded with the rest."""
_MOST_ROWS: Final = 65_536
_MOST_PASSES: Final = 1_000_000
_MOST_EPOCHS: Final = 10_000


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


class _Strict(BaseModel):
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


class ModelChoice(_Strict):
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


class DataChoice(_Strict):
    """Which rows are trained on, and which are held out."""

    sources: list[Source] = []
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


Method = Literal["sft", "dpo", "orpo", "kto"]
PAIR_METHODS: Final = frozenset({"dpo", "orpo"})
"""Methods that learn from a better and a worse answer."""
LABEL_METHODS: Final = frozenset({"kto"})
"""Methods that learn from answers that are labelled good or bad."""
REFERENCE_METHODS: Final = frozenset({"dpo", "kto"})
"""Methods that hold on to the model as it was before."""
_OF_METHOD: Final[dict[str, dict[str, Any]]] = {
    "dpo": {"loss_type": "sigmoid", "beta": 0.1, "learning_rate": 2e-5, "num_train_epochs": 1.0},
    "orpo": {"beta": 0.1, "learning_rate": 5e-5},
    "kto": {
        "beta": 0.1,
        "desirable_weight": 1.0,
        "undesirable_weight": 1.0,
        "learning_rate": 2e-5,
        "num_train_epochs": 1.0,
    },
}
"""What a setting that is left out means, where a method has another idea of it than the rest."""
_ONLY_OF: Final[dict[str, tuple[str, ...]]] = {
    "loss_type": ("dpo",),
    "beta": ("dpo", "orpo", "kto"),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
    "precompute_ref_log_probs": ("dpo", "kto"),
    "packing": ("sft",),
    "neftune_noise_alpha": ("sft",),
}
"""Settings that mean nothing to any other method."""


def _names(value: Any) -> Any:
    """Return a text such as `a,b` as the list that it stands for."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


def _layer_names(value: Any) -> Any:
    names = _names(value)
    if names == ["all-linear"]:
        return "all-linear"
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError("say all-linear, or name layers, as in [q_proj, v_proj]")
    return names


class TrainingSettings(_Strict):
    """How the adapter is trained. Names as in PEFT and TRL."""

    method: Method = "sft"
    """From answers (sft), from pairs of a better and a worse one (dpo, orpo), or from answers that
    are labelled good or bad (kto)."""
    base: Literal["gguf", "hub"] = "gguf"
    """`gguf`: on the packed blocks of the model's own file; `hub`: on its full-precision base."""
    use_peft: bool = True
    """Whether an adapter is trained; without one every weight of the base is (`hub` only)."""
    load_in_4bit: bool = False
    """Whether the base is held as NF4 by bitsandbytes while the adapter is trained (`hub` only)."""
    loss_type: Literal["sigmoid", "ipo"] | None = None
    """What DPO minimises, as TRL names it; empty means sigmoid."""
    beta: Annotated[float, Field(gt=0)] | None = None
    """How strongly DPO and KTO hold on to the reference (τ of IPO), or the weight of ORPO's odds
    ratio; empty means 0.1."""
    desirable_weight: Annotated[float, Field(gt=0)] | None = None
    """What a good answer counts in KTO; empty means 1."""
    undesirable_weight: Annotated[float, Field(gt=0)] | None = None
    """What a bad answer counts in KTO; empty means 1. Where there are n times as many good ones,
    n/1 to n/1.33 keeps both sides even."""
    precompute_ref_log_probs: bool | None = None
    """Whether the reference is asked about all rows before DPO or KTO begins instead of in every
    step; empty means where training comes to most of them more than once."""
    lora_r: Annotated[int, Field(ge=1, le=1024)] = 16
    lora_alpha: Annotated[float, Field(gt=0)] = 32.0
    lora_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    """Whether the length of each row of weights is trained too; merged only (`hub` only)."""
    target_modules: Annotated[Literal["all-linear"] | list[str], BeforeValidator(_layer_names)] = (
        "all-linear"
    )
    """Which layers get an adapter: all of the blocks, or those that are named."""
    learning_rate: Annotated[float, Field(gt=0, le=1.0)] = 2e-4
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_min_lr",
        "polynomial",
        "inverse_sqrt",
        "warmup_stable_decay",
        "constant",
        "constant_with_warmup",
    ] = "cosine"
    warmup_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Part of all optimizer steps over which the learning rate rises."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Optimizer steps over which it rises; outranks `warmup_ratio`."""
    min_lr_rate: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Part of the learning rate at which `cosine_with_min_lr`, `polynomial` and
    `warmup_stable_decay` end."""
    decay_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Part of all optimizer steps, the last ones, over which `warmup_stable_decay` falls."""
    optim: Literal[
        "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd"
    ] = "adamw_torch_fused"
    """The optimizer, as transformers names it; those of 8 bits need bitsandbytes and take a quarter
    of the memory for moments."""
    adam_beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    adam_epsilon: Annotated[float, Field(gt=0.0)] = 1e-8
    neftune_noise_alpha: Annotated[float, Field(gt=0.0)] | None = None
    """How much noise is added to token embeddings while training (NEFTune); 5 is usual."""
    num_train_epochs: Annotated[float, Field(gt=0, le=_MOST_EPOCHS)] = 3.0
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps; outranks `num_train_epochs`."""
    per_device_train_batch_size: Annotated[int, Field(ge=1, le=_MOST_ROWS)] = 8
    """Rows in one forward pass."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=_MOST_PASSES)] = 2
    """Forward passes in one optimizer step."""
    packing: bool = False
    """Whether short rows pass through the model one behind another, none of which sees another.
    Steps have the same rows and learn the same; only padding and forward passes are saved."""
    per_device_eval_batch_size: Annotated[int, Field(ge=1, le=_MOST_ROWS)] = 8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    gradient_checkpointing: bool = False
    compute_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """`auto`: bfloat16 where the processor multiplies it natively, float32 elsewhere."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where training computes; `cuda` is the first GPU that torch sees."""
    save_steps: Annotated[int, Field(ge=1)] = 50
    """Optimizer steps between checkpoints."""
    eval_steps: Annotated[int, Field(ge=1)] = 50
    """Optimizer steps between losses on the validation rows."""
    load_best_model_at_end: bool = False
    """Whether the result is the checkpoint of the least validation loss instead of the last one."""
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """Measurements of the validation loss without a new least one after which training ends; the
    result is the best checkpoint then."""
    early_stopping_threshold: Annotated[float, Field(ge=0.0)] = 0.0
    """By how much a loss must be less to count as less."""
    seed: Annotated[int, Field(ge=0, le=_MOST_SEED)] = 0
    report_to: Annotated[
        list[Literal["tensorboard", "trackio", "mlflow", "wandb"]], BeforeValidator(_names)
    ] = []
    """Programs that get the figures of training too; each has to be installed."""

    @property
    def keeps_best(self) -> bool:
        """Whether the checkpoint of the least validation loss is the result."""
        return self.load_best_model_at_end or self.early_stopping_patience is not None

    @property
    def makes_adapter(self) -> bool:
        """Whether the result is an adapter that llama.cpp can lay over the model's file."""
        return self.use_peft and not self.use_dora

    @property
    def learns_from_pairs(self) -> bool:
        """Whether rows are a better and a worse answer."""
        return self.method in PAIR_METHODS

    @property
    def learns_from_labels(self) -> bool:
        """Whether rows are answers that are labelled good or bad."""
        return self.method in LABEL_METHODS

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_method(cls, values: Any) -> Any:
        method = values.get("method") if isinstance(values, dict) else None
        usual = _OF_METHOD.get(method, {}) if isinstance(method, str) else {}
        if usual and values.get("use_peft") is False:  # rates of adapters are no whole model's
            usual = {key: value for key, value in usual.items() if key != "learning_rate"}
        given = {key: value for key, value in values.items() if value is not None} if usual else {}
        return {**values, **usual, **given} if usual else values

    @model_validator(mode="after")
    def _settings_of_method(self) -> "TrainingSettings":
        for key, methods in _ONLY_OF.items():
            if getattr(self, key) not in {None, False} and self.method not in methods:
                raise ValueError(
                    f"{key} is a setting of the method {' and '.join(methods)}, not of "
                    f"{self.method}"
                )
        if self.method in REFERENCE_METHODS and not self.use_peft:
            raise ValueError(
                f"method {self.method} holds on to the model without its adapter, so it needs one "
                "(use_peft: true); without one a second copy of all weights would have to be kept"
            )
        rows = self.per_device_train_batch_size * self.gradient_accumulation_steps
        if self.method == "kto" and rows < 2:
            raise ValueError(
                "method kto holds the answers of a step against each other's questions, so a step "
                "needs two rows: raise gradient_accumulation_steps"
            )
        return self

    @model_validator(mode="after")
    def _known_way(self) -> "TrainingSettings":
        if self.base == "gguf":
            for key, asked in (
                ("use_dora", self.use_dora),
                ("load_in_4bit", self.load_in_4bit),
                ("use_peft: false", not self.use_peft),
            ):
                if asked:
                    raise ValueError(
                        f"{key} needs the full-precision base; say base: hub (--from hub)"
                    )
        for key in ("use_dora", "load_in_4bit", "use_rslora"):
            if not self.use_peft and getattr(self, key):
                raise ValueError(f"without an adapter (use_peft: false) there is no {key}")
        return self


class Phase(_Strict):
    """Rows, and how they are trained on: what a run does once or, in turn, several times."""

    data: DataChoice
    training: TrainingSettings = TrainingSettings()


class EvaluationSettings(_Strict):
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
    ] = []
    """Questions that the model answers during training, whenever the validation loss is measured,
    beside what it answered before."""
    probe_max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """Tokens that such an answer may have."""
    probe_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """How long the answers to all of them may take together, each time; what is not done by then is
    cut."""


def _like(pattern: str, words: str) -> AfterValidator:
    """Return what refuses a text that is not of a form; `words` say which one is wanted."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


class LaunchSettings(_Strict):
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


def merged_name(quantization: str | None) -> str:
    """Return what a run's merged file is called, if no other name is chosen."""
    return f"merged-{quantization}.gguf" if quantization else "merged.gguf"


class PublishChoice(_Strict):
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


class Recipe(_Strict):
    """What to do, as a file of YAML or as flags."""

    version: Literal[1] = 1
    name: str | None = None
    continue_from: str | None = None
    """The run whose adapter training goes on from, instead of beginning with an untouched one."""
    model: ModelChoice
    data: DataChoice
    training: TrainingSettings = TrainingSettings()
    then: Annotated[list[Phase], Field(max_length=8)] = []
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


class ResolvedBase(_Strict):
    """The full-precision base as it was found on this machine."""

    repo: str
    """The repository, or the folder that was named."""
    revision: str | None
    """The commit; None for a folder."""
    folder: Path
    chat_template: str | None
    """Jinja text; None where it has none, so that the model's file gives it."""


class FurtherPart(_Strict):
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


class StartAdapter(_Strict):
    """The adapter that training goes on from; a copy lies in the run's folder."""

    run: str
    """The run that made it."""
    step: int
    """The optimizer step of that run after which it was saved."""
    sha256: str


class RunSpec(_Strict):
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
    then: list[Phase] = []
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


def to_yaml(model: BaseModel) -> str:
    """Return `model` as YAML, keys in their declared order."""
    return yaml.safe_dump(model.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


_MERGED: Final = "<<"
"""YAML's word for another part's keys, which may be said again."""


class _TwiceError(Exception):
    """A key that stands twice in one part of a YAML file."""

    def __init__(self, key: str, first: int, second: int) -> None:
        super().__init__(key)
        self.key = key
        self.where = f"in line {first}" if first == second else f"in lines {first} and {second}"
        """From 1 on."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key stands once: of two, PyYAML would silently drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a part's keys and values.

        Raises:
            _TwiceError: a key stands in it twice.
        """
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == _MERGED:
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise _TwiceError(key.value, lines[key.value], line)
            lines[key.value] = line
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        NotFoundError: there is no such file.
        UsageError: it is not YAML, or has a key twice.
    """
    shown = safe_line(path.name)
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_YAML_BYTES + 1)
    except OSError as error:
        raise NotFoundError(
            f"The file {safe_line(str(path))} cannot be read: {error.strerror}.",
            "Check the path.",
        ) from error
    if len(data) > _MOST_YAML_BYTES:
        raise UsageError(
            f"{shown} is too large to be a recipe.", _not_yaml_hint(path), code="bad_yaml"
        )
    try:
        return yaml.load(data.decode("utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{shown} is not YAML: it is not text in UTF-8.",
            _not_yaml_hint(path, "Save it as UTF-8."),
            code="bad_yaml",
        ) from error
    except _TwiceError as error:
        raise UsageError(
            f"{shown} has {safe_line(error.key, limit=60)} twice in one part, {error.where}.",
            "Keep one of them.",
            code="key_twice",
        ) from None
    # A ValueError: a date or a number that is none.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "lists are nested too deep" if isinstance(error, RecursionError) else _said(error)
        raise UsageError(
            f"{shown} is not YAML: {masked_line(reason, limit=200)}.",
            _not_yaml_hint(path),
            code="bad_yaml",
        ) from error


def _said(error: Exception) -> str:
    """Return what is wrong in a YAML file, with its line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        begun = f"{error.context}, " if error.problem.startswith("but ") else ""
        return f"{begun}{error.problem}, in line {error.problem_mark.line + 1}"
    return str(error)


def _not_yaml_hint(path: Path, usual: str = "Correct that line.") -> str:
    if path.suffix.lower() in {".yaml", ".yml"}:
        return usual
    return "A recipe is a YAML file; rows are named with --data, and a model with --model."


_HINTS: Final = {
    "list_type": "Write a list, as in [A, B].",
    "too_long": "Leave some out.",
    "together": "Change one of these settings.",
}
"""What to do, by pydantic's words for what is wrong."""


def parse(kind: type[_T], body: Any, source: str) -> _T:
    """Return `body` as a `kind`.

    Raises:
        UsageError: names the first key that is wrong, and the nearest known one if it is unknown.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        problem = error.errors()[0]
        where = safe_line(".".join(str(part) for part in problem["loc"]), limit=120)
        if problem["type"] in {"extra_forbidden", "invalid_key"}:
            message = f"{source}: {where} is not a known setting."
            raise UsageError(message, meant(kind, problem["loc"]), code="unknown_key") from None
        if problem["type"] == "missing":
            raise UsageError(
                f"{source}: {where} is missing.", "Add it.", code="bad_value"
            ) from None
        if problem["type"] == "model_type" and problem["loc"]:
            raise UsageError(
                f"{source}: {where} is not a list of settings.",
                f"Write {where}: and its settings indented below.",
                code="bad_value",
            ) from None
        message = problem["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        if problem["loc"] and problem["type"] == "value_error" and _is_part(problem["input"]):
            message = f"{where}: {message}"  # settings that do not go together
            problem["type"] = "together"
        elif problem["loc"]:
            message = f"{where} cannot be {_shown(problem.get('input'))}: {message}"
        raise UsageError(
            f"{source}: {message}.",
            _near_choice(problem) or _HINTS.get(problem["type"], "Correct the value."),
            code="bad_value",
        ) from None


def _is_part(value: Any) -> bool:
    return isinstance(value, dict | BaseModel)


def _near_choice(problem: Any) -> str:
    """Return a sentence about the choice that a wrong word is near to; empty where none is."""
    if problem["type"] != "literal_error":
        return ""
    choices = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
    near = nearest(str(problem["input"]), choices)
    return f"Did you mean {near}?" if near else ""


def _shown(value: Any) -> str:
    """Return a value as YAML has it, cut short."""
    if value is None or isinstance(value, bool):
        return "empty" if value is None else str(value).lower()
    return masked_line(redact(_SHORT.repr(value)), limit=60)

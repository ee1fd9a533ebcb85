"""How an adapter, or a whole model, is trained: the settings, and which go with which method."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from llamaforge.recipe.strict import Strict

_MOST_SEED: Final = 2**32 - 1
"""numpy's bound, whose generator is seeded with the rest."""
_MOST_ROWS: Final = 65_536
_MOST_PASSES: Final = 1_000_000
_MOST_EPOCHS: Final = 10_000
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


class TrainingSettings(Strict):
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
    ] = Field(default_factory=list)
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

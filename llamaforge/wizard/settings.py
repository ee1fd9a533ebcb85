"""Every setting that a person can change: what it is, its bounds, and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from llamaforge.recipe.launch import LaunchSettings
from llamaforge.recipe.spec import (
    DataChoice,
    EvaluationSettings,
    PublishChoice,
    Recipe,
)
from llamaforge.recipe.training_settings import TrainingSettings

Cost = Literal["more", "less", "same"]
"""What a larger value, or switching it on, does."""
SECTIONS: Final[Mapping[str, type[BaseModel]]] = {
    "training": TrainingSettings,
    "data": DataChoice,
    "evaluation": EvaluationSettings,
    "launch": LaunchSettings,
    "publish": PublishChoice,
}
_COST_WORDS: Final = {"more": "grows with it", "less": "falls with it", "same": "stays"}


@dataclass(frozen=True)
class Setting:
    """One setting of a recipe."""

    section: str
    key: str
    help: str
    """One sentence."""
    unit: str = ""
    memory: Cost = "same"
    time: Cost = "same"

    @property
    def field(self) -> FieldInfo:
        """What the recipe says of it."""
        return SECTIONS[self.section].model_fields[self.key]

    @property
    def bounds(self) -> str:
        """What it can be, in words."""
        return _bounds(self.field)

    @property
    def cost(self) -> str:
        """What a larger value does to memory and time, in words."""
        return f"memory {_COST_WORDS[self.memory]}, time {_COST_WORDS[self.time]}"

    def value(self, recipe: Recipe) -> Any:
        """Return what it is in a recipe."""
        return getattr(getattr(recipe, self.section), self.key)


def _t(key: str, help: str, unit: str = "", memory: Cost = "same", time: Cost = "same") -> Setting:  # noqa: A002
    return Setting("training", key, help, unit, memory, time)


def _of(section: str) -> Any:
    def make(
        key: str, words: str, unit: str = "", memory: Cost = "same", time: Cost = "same"
    ) -> Setting:
        return Setting(section, key, words, unit, memory, time)

    return make


_d, _e, _l, _p = _of("data"), _of("evaluation"), _of("launch"), _of("publish")

SETTINGS: Final[tuple[Setting, ...]] = (
    _t("learning_rate", "How far each step goes: too high and it forgets, too low and nothing "
       "is learned."),
    _t("num_train_epochs", "How often all rows are read.", "passes", time="more"),
    _t("max_steps", "Ends training after so many steps, whatever the passes say.", "steps",
       time="more"),
    _t("lora_r", "The adapter's rank: how much it can learn, and how large it is.",
       memory="more", time="more"),
    _t("lora_alpha", "How strongly the adapter counts; twice the rank is usual."),
    _d("max_length", "Longer rows lose their first turns, or are left out.", "tokens",
       "more", "more"),
    _t("per_device_train_batch_size", "Rows that pass through the model at one time.", "rows",
       "more", "less"),
    _t("gradient_accumulation_steps", "Passes that make one step; more are steadier.", "passes"),
    _t("gradient_checkpointing", "Computes parts of each pass again instead of keeping them.",
       memory="less", time="more"),
    _t("lora_dropout", "Part of the adapter's input that is left out at random, against learning "
       "by heart."),
    _t("use_rslora", "Scales the adapter by the root of its rank, for high ranks."),
    _t("target_modules", "Which layers get an adapter: all-linear, or their names.",
       memory="more", time="more"),
    _t("lr_scheduler_type", "How the learning rate falls while it trains."),
    _t("warmup_ratio", "Part of all steps over which the rate rises at first."),
    _t("warmup_steps", "The same in steps; it outranks the part.", "steps"),
    _t("min_lr_rate", "Part of the rate at which falling schedules end."),
    _t("decay_ratio", "Part of all steps over which warmup_stable_decay falls at the end."),
    _t("packing", "Puts short rows behind one another, so that no time goes into padding; what is "
       "learned stays the same.", time="less"),
    _t("early_stopping_patience", "Ends training after so many losses on held-back rows without a "
       "better one, and keeps the best.", "losses", time="more"),
    _t("early_stopping_threshold", "By how much a loss must be better to count."),
    _t("load_best_model_at_end", "Keeps the checkpoint of the least loss on held-back rows "
       "instead of the last."),
    _t("neftune_noise_alpha", "Adds noise to what is read, against learning by heart; 5 is usual."),
    _t("optim", "The optimizer, by its name in transformers; those of 8 bits save memory."),
    _t("adam_beta1", "How long Adam remembers the direction of its steps."),
    _t("adam_beta2", "How long Adam remembers their size."),
    _t("adam_epsilon", "Keeps Adam from dividing by nothing."),
    _t("weight_decay", "Pulls the adapter's numbers towards zero, against learning by heart."),
    _t("max_grad_norm", "Steps larger than this are shortened."),
    _t("seed", "Another number shuffles the rows in another way."),
    _t("method", "From answers (sft), pairs of a better and a worse one (dpo, orpo), or answers "
       "labelled good or bad (kto).",
       memory="more", time="more"),
    _t("beta", "How closely it holds on to what the model says now (DPO, KTO), or the weight of "
       "the odds ratio (ORPO)."),
    _t("desirable_weight", "What a good answer counts in KTO."),
    _t("undesirable_weight", "What a bad answer counts in KTO; more where there are fewer."),
    _t("loss_type", "What DPO makes smaller, as TRL names it."),
    _t("precompute_ref_log_probs", "Asks the untouched model about all rows before DPO or KTO "
       "begins.",
       time="less"),
    _t("device", "Where training computes: the processor, or the first GPU."),
    _t("compute_dtype", "The numbers that are computed with; auto is what the machine does best.",
       memory="more", time="more"),
    _t("load_in_4bit", "Packs the full-precision weights into four bits (QLoRA).",
       memory="less", time="more"),
    _t("use_dora", "Trains the length of each row of weights too; the result is one merged file.",
       memory="more", time="more"),
    _t("use_peft", "Off: every weight of the full-precision base is trained, without an adapter.",
       memory="less", time="less"),
    _t("save_steps", "Steps between checkpoints, from which a run can go on.", "steps",
       time="less"),
    _t("eval_steps", "Steps between losses on the rows that were held back.", "steps",
       time="less"),
    _t("per_device_eval_batch_size", "Rows at one time while that loss is measured.", "rows",
       "more", "less"),
    _t("report_to", "Other programs that get the figures too, such as tensorboard."),
    _d("validation_fraction", "Part of the rows that is held back from learning."),
    _d("validation_count", "How many rows are held back, instead of which part.", "rows"),
    _d("test_fraction", "Part of the rows that is kept for the comparison at the end alone."),
    _d("test_count", "How many rows are kept for it, instead of which part.", "rows"),
    _d("split_seed", "Another number holds back other rows."),
    _d("train_on", "Whether every answer of a conversation is learned, or the last alone."),
    _d("images", "What becomes of rows with images: refused, without them, or with their links."),
    _d("max_rejected_fraction", "More broken rows than this part stop the run before it trains."),
    _e("max_rows", "Rows that both models answer at the end; 0 leaves the comparison out.", "rows",
       time="more"),
    _e("max_new_tokens", "How long such an answer may be.", "tokens", time="more"),
    _e("samples", "Answers that are shown before and after.", "rows", time="more"),
    _e("fidelity_rows", "Rows on which served and trained model are held against each other.",
       "rows", time="more"),
    _e("probe_max_new_tokens", "How long an answer to one of your own questions may be.", "tokens",
       time="more"),
    _e("probe_seconds", "How long all of these answers may take each time.", "seconds",
       time="more"),
    _l("processes", "Processes that train together: one a GPU, or a part of the cores each.",
       "processes", "more", "less"),
    _l("machines", "Machines that train together.", "machines", time="less"),
    _l("rendezvous", "HOST:PORT of the first machine, where the others reach it."),
    _l("interface", "The network device that the machines see each other through."),
    _l("fsdp", "Divides the frozen layers of the full-precision base among the processes.",
       memory="less", time="more"),
    _l("launcher", "What starts the processes: torch's launcher, or accelerate's on one machine."),
    _l("max_restarts", "How often all processes begin again after one has failed.", "times"),
    _p("quantization", "The type of a merged file; empty keeps that of your model.",
       memory="same"),
)  # fmt: skip
"""The ones that are changed most come first."""
NOT_HERE: Final = frozenset(
    {"training.base", "data.sources", "data.snapshot", "data.map", "data.preference",
     "data.allow_secrets", "evaluation.probe_prompts", "publish.name"}
)  # fmt: skip
"""Settings that questions of their own ask for."""
_BY_KEY: Final[Mapping[str, Setting]] = {setting.key: setting for setting in SETTINGS}


def setting_of(key: str) -> Setting | None:
    """Return the setting that a person means by `key`, with or without its section."""
    return _BY_KEY.get(key.rpartition(".")[2])


def _bounds(field: FieldInfo) -> str:
    """Return what a field can be, in words."""
    words = _type_words(field.annotation)
    if words:
        return words
    lower, upper = "", ""
    for limit in _limits(field):
        match limit:
            case annotated_types.Ge(ge):
                lower = _number(ge)
            case annotated_types.Gt(gt):
                lower = f"more than {_number(gt)}"
            case annotated_types.Le(le):
                upper = _number(le)
            case annotated_types.Lt(lt):
                upper = f"less than {_number(lt)}"
    if lower and upper:
        return f"{lower} to {upper}"
    return f"{lower} or more" if lower and "more" not in lower else lower or upper or "any"


def _number(limit: Any) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def _limits(field: FieldInfo) -> list[Any]:
    """Return the limits of a field, also of one that may be left out."""
    found = list(field.metadata)
    for part in get_args(field.annotation):
        found += getattr(part, "__metadata__", ())
    return [
        limit
        for item in found
        for limit in ([item] if not isinstance(item, FieldInfo) else item.metadata)
    ]


def _type_words(kind: Any) -> str:
    if kind is bool or bool in get_args(kind):
        return "true or false"
    choices = [
        str(choice)
        for part in (kind, *get_args(kind))
        if get_origin(part) is Literal
        for choice in get_args(part)
    ]
    return ", ".join(choices)


def value_words(value: Any) -> str:
    """Return a value as it is typed; empty for what is left out."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case list():
            return ",".join(map(str, value))
        case _:
            return str(value)

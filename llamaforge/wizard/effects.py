"""What a change of settings does, said at once: memory and steps, by formula."""

from dataclasses import dataclass, replace

from llamaforge.errors import LlamaForgeError
from llamaforge.gguf.model_file import read_model
from llamaforge.recipe.batching import planned_steps
from llamaforge.recipe.preflight import needs_of
from llamaforge.recipe.spec import Recipe
from llamaforge.wizard.checks import spec_of
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.questions import advice_for
from llamaforge.words import plural, size_words


@dataclass(frozen=True)
class Effect:
    """What a run takes, as far as formulas tell."""

    memory_bytes: int
    """At least."""
    available_bytes: int
    disk_bytes: int
    """At most."""
    steps: int
    rows: int
    """Rows that pass through the model in all steps together."""
    usual_rows: int
    """The same with what the preset advises."""

    def words(self) -> str:
        """Return it in a line."""
        have = f" of {size_words(self.available_bytes)}" if self.available_bytes else ""
        times = ""
        if self.usual_rows and self.rows != self.usual_rows:
            times = f", {self.rows / self.usual_rows:.2g} times the preset's work"
        return (
            f"memory: at least {size_words(self.memory_bytes)}{have}; disk: up to "
            f"{size_words(self.disk_bytes)}; {plural(self.steps, 'step')} over "
            f"{plural(self.rows, 'row')}{times}"
        )


def effect_of(draft: Draft, facts: Facts) -> Effect:
    """Return what the run of a draft takes by formula; the file's header is read.

    Raises:
        LlamaForgeError: the model cannot be read, or a setting has no meaning.
    """
    spec = spec_of(replace(draft, name=""), facts)
    needs = needs_of(spec, read_model(spec.model.blob, spec.model.files))
    advice = advice_for(draft, facts)
    steps, rows = _work(draft.recipe(advice), facts.rows.count)
    _, usual = _work(replace(draft, settings={}).recipe(advice), facts.rows.count)
    return Effect(needs.memory, facts.machine.memory, needs.disk, steps, rows, usual)


def effect_words(draft: Draft, facts: Facts) -> str:
    """Return what the run takes in words, or why that cannot be said."""
    try:
        return effect_of(draft, facts).words()
    except LlamaForgeError as error:
        return error.message


def _work(recipe: Recipe, count: int) -> tuple[int, int]:
    training, data = recipe.training, recipe.data
    held = data.validation_count or round(count * data.validation_fraction)
    learned = max(1, count - held - (data.test_count or round(count * data.test_fraction)))
    world = recipe.launch.world
    step = training.per_device_train_batch_size * training.gradient_accumulation_steps * world
    steps = planned_steps(training, learned, world)
    return steps, steps * min(step, learned)

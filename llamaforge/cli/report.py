"""What came of a run: its rows, before and after, the proof, the files, and what to type next."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from llamaforge import paths
from llamaforge.cli.output import console, print_text
from llamaforge.errors import LlamaForgeError
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.directory import RunDirectory
from llamaforge.runs.events import Event, Report, parse_event
from llamaforge.safe_text import safe_line, safe_text
from llamaforge.words import (
    UNKNOWN,
    duration_words,
    loss_words,
    percent_words,
    plural,
    short_number,
    size_words,
    whole_words,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN_SAMPLES: Final = 3
_SHOWN_CHARACTERS: Final = 400
_M = TypeVar("_M", bound=BaseModel)


class _Lenient(BaseModel):
    """Figures from a file: further keys are passed over, missing ones have no number."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Rows(_Lenient):
    """How many rows were read, and what became of them."""

    read: int | None = None
    accepted: int | None = None
    rejected: int | None = None
    duplicates: int | None = None


class DataFigures(_Lenient):
    """The report of the stage prepare."""

    rows: Rows = Rows()
    train: int | None = None
    validation: int | None = None
    test: int | None = None
    trained_tokens: int | None = None
    shortened: int | None = None
    template: str = ""


class TrainedOn(_Lenient):
    """The full-precision base that was trained on."""

    repo: str = ""


class Fidelity(_Lenient):
    """The content of `verify.json`; divergences and losses are in nats a token."""

    kl_mean: float | None = None
    kl_base_mean: float | None = None
    kl_limit: float | None = None
    loss_trained: float | None = None
    loss_served: float | None = None
    loss_base: float | None = None
    rows: int | None = None
    tokens: int | None = None
    passed: bool = False
    reason: str = ""
    trained_on: TrainedOn | None = None
    adapter: "Fidelity | None" = None
    """The adapter over the file's own blocks, where it was trained on others."""


class Score(_Lenient):
    """How one model did on a set of rows."""

    exact_match: float | None = None
    """Part of the answers that are the expected ones, 0 to 1."""
    correct: int | None = None


class ScoredSet(_Lenient):
    """A set of rows that both models answered."""

    name: str = ""
    rows: int | None = None
    base: Score = Score()
    tuned: Score = Score()


class ShownSample(_Lenient):
    """One question with three answers, all of it text from outside."""

    prompt: str = ""
    expected: str = ""
    base: str = ""
    tuned: str = ""


class Preference(_Lenient):
    """How one model ranks the answers of pairs."""

    accuracy: float | None = None
    """Part of the pairs whose better answer is the likelier one, 0 to 1."""
    margin: float | None = None
    """By how many nats it is, in the mean."""


class Preferences(_Lenient):
    """Held-out pairs that both models ranked."""

    pairs: int | None = None
    base: Preference = Preference()
    tuned: Preference = Preference()


class Rewards(_Lenient):
    """By how much answers became likelier, times β."""

    chosen: float | None = None
    rejected: float | None = None


class Labels(_Lenient):
    """Held-out answers that are labelled good or bad."""

    good: int | None = None
    bad: int | None = None
    rewards: Rewards = Rewards()


class Evaluation(_Lenient):
    """The content of `evaluation.json`."""

    preferences: Preferences | None = None
    labels: Labels | None = None
    sets: tuple[ScoredSet, ...] = ()
    samples: tuple[ShownSample, ...] = ()


class _Bytes(_Lenient):
    total: int | None = None


class Predicted(_Lenient):
    """What training was expected to take."""

    memory_bytes: _Bytes = _Bytes()
    seconds_per_step: float | None = None
    seconds: float | None = None


class Measured(_Lenient):
    """What it took."""

    memory_bytes: int | None = None
    seconds_per_step: float | None = None
    seconds: float | None = None


class Estimate(_Lenient):
    """The content of `estimate.json`."""

    predicted: Predicted = Predicted()
    measured: Measured | None = None


class Published(_Lenient):
    """Under which name the result is in Ollama."""

    name: str = ""


def print_report(run: RunDirectory) -> None:
    """Print what came of a finished run.

    Raises:
        UsageError: its run spec cannot be read.
    """
    figures = {event.kind: event.figures for event in read_events(run) if isinstance(event, Report)}
    spec = RunSpec.load(run.spec_file)
    _print(f"The run {run.id} on {safe_line(spec.model.name)} is finished.")
    if data := _figures(DataFigures, figures.get("data")):
        _print_data(data)
    if words := phase_words(run.estimates()):
        _print_title("Training")
        for name, text in words.items():
            _print(f"{name[:1].upper()}{name[1:]}: {text}.")
    if evaluation := _figures(Evaluation, figures.get("evaluation")):
        _print_evaluation(evaluation)
    if fidelity := _figures(Fidelity, figures.get("fidelity")):
        print_fidelity(fidelity)
    artifacts = run.artifact_list()
    if artifacts:
        _print_title("Files")
        for item in artifacts:
            print_text(f"{safe_line(item['kind'])}: {safe_line(item['path'])}")
    published = _figures(Published, figures.get("published"))
    _print_next(run, spec, published.name if published else "")


def print_fidelity(fidelity: Fidelity) -> None:
    """Print the proof that what is served is what was trained, or that it failed."""
    _print_title("Proof")
    on = f"on {plural(fidelity.rows, 'row')} ({plural(fidelity.tokens, 'token')})"
    if fidelity.passed:
        _print(f"Passed: llama.cpp serves what was trained, measured {on}.")
    else:
        why = safe_line(fidelity.reason, limit=300) or "no reason is given"
        _print(f"Not passed {on}: {why}.")
    before, what = "without the adapter it is", "llama.cpp's rounding alone"
    if fidelity.trained_on is not None:
        before = "for the model before it is"
        what = "the quantisation of the file and llama.cpp's rounding"
    _print(
        f"Difference of the predictions: {short_number(fidelity.kl_mean)} nats a token (KL), "
        f"at most {short_number(fidelity.kl_limit)} is allowed; {before} "
        f"{short_number(fidelity.kl_base_mean)}, {what}."
    )
    if fidelity.adapter is not None:
        _print(
            "The adapter was trained on the full-precision weights and is served over the "
            f"quantised ones; over those it is exact to {short_number(fidelity.adapter.kl_mean)} "
            "nats a token."
        )
    _print(
        f"Loss a token: {loss_words(fidelity.loss_trained)} as trained, "
        f"{loss_words(fidelity.loss_served)} as served, {loss_words(fidelity.loss_base)} for the "
        "model before."
    )


def phase_words(bodies: Sequence[Any]) -> dict[str, str]:
    """Return `estimate_words` of each phase; where there are several, with its number."""
    if len(bodies) < 2:
        return estimate_words(bodies[0]) if bodies else {}
    return {
        f"phase {number}, {name}": text
        for number, body in enumerate(bodies, start=1)
        for name, text in estimate_words(body).items()
    }


def estimate_words(body: Any) -> dict[str, str]:
    """Return what training took beside what was expected, by what it is."""
    found = _figures(Estimate, body)
    if found is None:
        return {}
    expected, taken = found.predicted, found.measured or Measured()
    rows = (
        ("memory at most", taken.memory_bytes, expected.memory_bytes.total, size_words),
        ("time a step", taken.seconds_per_step, expected.seconds_per_step, _step_words),
        ("time to train", taken.seconds, expected.seconds, duration_words),
    )
    return {name: _beside(took, awaited, say) for name, took, awaited, say in rows if awaited}


def _beside(taken: float | None, expected: float, say: Callable[[float], str]) -> str:
    if not taken:
        return f"{say(expected)} expected"
    return f"{say(taken)}; {say(expected)} were expected ({(expected / taken - 1) * 100:+.0f} %)"


def _step_words(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 60 else duration_words(seconds)


def fidelity_of(figures: Any) -> Fidelity | None:
    """Return the content of `verify.json`, or None where it is not such a report."""
    return _figures(Fidelity, figures)


def read_events(run: RunDirectory) -> Iterator[Event]:
    """Yield the run's events up to now."""
    if not run.events_file.exists():
        return
    with run.events_file.open("rb") as file:
        for line in file:
            event = parse_event(line)
            if event is not None:
                yield event


def _figures(kind: type[_M], figures: Any) -> _M | None:
    try:
        return kind.model_validate(figures)
    except ValidationError:
        return None


def _print_data(data: DataFigures) -> None:
    _print_title("Rows")
    rows = data.rows
    _print(
        f"{whole_words(rows.read)} read, {whole_words(rows.accepted)} used: "
        f"{whole_words(data.train)} to train on, {whole_words(data.validation)} to validate, "
        f"{whole_words(data.test)} to test."
    )
    notes = (
        (rows.rejected, "cannot be used"),
        (rows.duplicates, "stand more than once"),
        (data.shortened, "were shortened to the model's length"),
    )
    for count, what in notes:
        if count:
            _print(f"{count:,} {what}.")


def _print_evaluation(evaluation: Evaluation) -> None:
    from rich.table import Table
    from rich.text import Text

    if evaluation.preferences is not None:
        _print_preferences(evaluation.preferences)
    if evaluation.labels is not None:
        _print_labels(evaluation.labels)
    if evaluation.sets:
        _print_title("Exactly the expected answer, before and after")
        table = Table(box=None, pad_edge=False)
        table.add_column("SET", overflow="fold", ratio=1)
        for title in ("ROWS", "BEFORE", "AFTER"):
            table.add_column(title, justify="right", no_wrap=True)
        for part in evaluation.sets:
            table.add_row(
                Text(safe_line(part.name, limit=200) or UNKNOWN),
                whole_words(part.rows),
                percent_words(part.base.exact_match),
                percent_words(part.tuned.exact_match),
            )
        _print(table)
    for number, sample in enumerate(evaluation.samples[:_SHOWN_SAMPLES], start=1):
        _print_title(f"Sample {number}")
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold", ratio=1)
        for label, text in (
            ("asked", sample.prompt),
            ("expected", sample.expected),
            ("before", sample.base),
            ("after", sample.tuned),
        ):
            shown = safe_text(text.strip(), limit=_SHOWN_CHARACTERS)
            grid.add_row(Text(label), Text(shown or "(nothing)"))
        _print(grid)


def _print_preferences(found: Preferences) -> None:
    _print_title("Better answers that are the likelier ones, before and after")
    _print(
        f"Of {plural(found.pairs, 'pair')} not trained on: "
        f"{percent_words(found.base.accuracy)} before, {percent_words(found.tuned.accuracy)} "
        f"after. In the mean they are ahead by {short_number(found.base.margin)} nats before, "
        f"{short_number(found.tuned.margin)} after."
    )


def _print_labels(found: Labels) -> None:
    _print_title("Good and bad answers, after training against before")
    parts = [
        f"{count:,} {label} {'answer' if count == 1 else 'answers'} by {short_number(reward)}"
        for label, count, reward in (
            ("good", found.good, found.rewards.chosen),
            ("bad", found.bad, found.rewards.rejected),
        )
        if count
    ]
    _print(
        f"Not trained on, and rewarded in the mean: {', '.join(parts)} (β times what log P gained)."
    )


def _print_next(run: RunDirectory, spec: RunSpec, published: str) -> None:
    _print_title("Next")
    if published:
        _print("Talk to it:")
        print_text(shlex.join(["ollama", "run", safe_line(published)]))
        return
    if spec.model.store == paths.embedded_store():
        _print("Train one of your own models on your own rows, then bring it into Ollama:")
        model = _own_model() or "qwen2.5:3b"
        print_text(shlex.join(["llamaforge", "train", "--model", model, "--data", "rows.jsonl"]))
        print_text("llamaforge publish latest --name my-model")
        return
    _print("Bring it into Ollama:")
    name = f"{spec.model.name.rsplit('/', 1)[-1].partition(':')[0]}-tuned"
    print_text(shlex.join(["llamaforge", "publish", run.id, "--name", safe_line(name)]))


def _own_model() -> str | None:
    """Return a model of the person's own store that can be trained, if there is one."""
    from llamaforge.catalog.inventory import Inventory

    try:
        models = Inventory.open().models()
        return next((safe_line(model.name) for model in models if model.problem is None), None)
    except LlamaForgeError:
        return None


def _print_title(title: str) -> None:
    from rich.text import Text

    _print("")
    _print(Text(title, style="bold"))


def _print(what: "RenderableType") -> None:
    console().print(what)

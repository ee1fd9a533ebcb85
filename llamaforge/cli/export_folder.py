"""The forms of `llamaforge export` that are directories: a Hugging Face model, a PEFT adapter."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaforge.cli.output import narrate
from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.safe_text import safe_line
from llamaforge.words import plural, size_words

if TYPE_CHECKING:
    from llamaforge.export.hugging_face import Exported
    from llamaforge.export.layout import Layout
    from llamaforge.gguf.header import Header
    from llamaforge.recipe.spec import RunSpec


def write_model(
    target: Path,
    spec: "RunSpec",
    adapter: "Header",
    arguments: argparse.Namespace,
    on_progress: Callable[[int, int], None],
) -> tuple["Exported", dict[str, Any]]:
    """Write the merged model to the directory `target`; return it and what scripts are told.

    Raises:
        LlamaForgeError: as `write_hugging_face`, or the model cannot be laid out.
    """
    from llamaforge.data.templates import choose_template
    from llamaforge.export.hugging_face import write_hugging_face
    from llamaforge.export.place import check_folder
    from llamaforge.export.tokenizer_files import replaced_pre_tokenizer
    from llamaforge.gguf.model_file import read_model
    from llamaforge.gguf.tokenizer import GgufTokenizer
    from llamaforge.gguf.unigram import is_unigram
    from llamaforge.gguf.unigram_json import is_exact

    check_folder(target, replace=arguments.force)
    base = read_model(spec.model.blob, spec.model.files)
    tokenizer = GgufTokenizer(base)
    template = choose_template(
        spec.model.chat_template, tokenizer.chat_template, tokenizer.special_ids
    )
    layout = _layout(spec.model.files)
    made = write_hugging_face(
        target,
        base,
        adapter,
        layout,
        dtype=arguments.dtype or "bfloat16",
        chat_template=template.text,
        replace=arguments.force,
        on_progress=on_progress,
    )
    weights = [name for name in made.files if name.endswith(".safetensors")]
    narrate(f"{size_words(made.size_bytes)} in {plural(len(made.files), 'file')}.")
    replaced = replaced_pre_tokenizer(base, layout.model_type)
    if replaced is not None:
        narrate(
            f"AutoTokenizer of transformers 5 cuts text otherwise than {safe_line(replaced)} does; "
            "load it with PreTrainedTokenizerFast."
        )
    exact = not is_unigram(base) or is_exact(base)
    if not exact:
        narrate(
            "The vocabulary's table of replacements is left to the tokenizers library: rare texts "
            "with combining characters may be cut otherwise than in llama.cpp."
        )
    return made, {
        "dtype": arguments.dtype or "bfloat16",
        "weights": weights,
        "exact_tokens": exact,
        "replaced_pre_tokenizer": replaced,
    }


def write_adapter(
    target: Path, spec: "RunSpec", adapter: "Header", arguments: argparse.Namespace
) -> tuple["Exported", dict[str, Any]]:
    """Write the adapter for PEFT to the directory `target`; return it and what scripts are told.

    Raises:
        LlamaForgeError: as `write_peft`, or the model cannot be laid out.
    """
    from llamaforge.export.peft_adapter import PeftSettings, write_peft
    from llamaforge.export.place import check_folder
    from llamaforge.gguf.model_file import read_model

    check_folder(target, replace=arguments.force)
    base_model = _base_of(spec)
    training = spec.training
    made = write_peft(
        target,
        read_model(spec.model.blob, spec.model.files),
        adapter,
        _layout(spec.model.files),
        PeftSettings(
            training.lora_r, training.lora_alpha, training.lora_dropout, training.use_rslora
        ),
        base_model=base_model,
        replace=arguments.force,
    )
    if base_model is None:
        name = safe_line(spec.model.name)
        narrate(
            f"The full-precision base of {name} is not known, so adapter_config.json names none. "
            f"Say it with: llamaforge base {name} --set OWNER/NAME, and export again."
        )
    else:
        narrate(f"For the weights of {safe_line(base_model)}, {size_words(made.size_bytes)}.")
    return made, {"base_model": base_model}


def write_tuned_model(
    target: Path,
    spec: "RunSpec",
    learned: Path,
    arguments: argparse.Namespace,
    on_progress: Callable[[int, int], None],
) -> tuple["Exported", dict[str, Any]]:
    """Write the full-precision base with what was learned in it to the directory `target`.

    Raises:
        LlamaForgeError: as `write_tuned`, or the base is gone.
    """
    from llamaforge.data.templates import choose_template
    from llamaforge.export.base_run import base_of, tuned_of
    from llamaforge.export.place import check_folder
    from llamaforge.export.tuned_folder import write_tuned
    from llamaforge.gguf.model_file import read_model
    from llamaforge.gguf.tokenizer import GgufTokenizer

    check_folder(target, replace=arguments.force)
    full = base_of(spec)
    tokenizer = GgufTokenizer(read_model(spec.model.blob, spec.model.files))
    template = choose_template(
        spec.model.chat_template,
        spec.model.own_template(tokenizer.chat_template),
        tokenizer.special_ids,
    )
    made = write_tuned(
        target,
        full.folder,
        tuned_of(spec, learned, _layout(spec.model.files)),
        dtype=arguments.dtype or "bfloat16",
        chat_template=template.text,
        replace=arguments.force,
        on_progress=on_progress,
    )
    weights = [name for name in made.files if name.endswith(".safetensors")]
    narrate(f"{size_words(made.size_bytes)} in {plural(len(made.files), 'file')}.")
    return made, {"dtype": arguments.dtype or "bfloat16", "weights": weights}


def copy_adapter(
    target: Path, spec: "RunSpec", learned: Path, arguments: argparse.Namespace
) -> tuple["Exported", dict[str, Any]]:
    """Copy the adapter as PEFT wrote it to the directory `target`.

    Raises:
        RefusedError: every weight was trained, so there is no adapter.
    """
    from llamaforge.export.tuned_folder import copy_folder

    if not spec.training.use_peft:
        raise RefusedError(
            "Every weight of the model was trained, so there is no adapter.",
            "Export it as gguf, or as hf.",
            code="no_adapter",
        )
    made = copy_folder(target, learned.parent, replace=arguments.force)
    repo = spec.model.full.repo if spec.model.full else None
    narrate(f"For the weights of {safe_line(repo or '')}, {size_words(made.size_bytes)}.")
    return made, {"base_model": repo}


def _base_of(spec: "RunSpec") -> str | None:
    """Return the repository or folder that the run's model was made from, where it is known."""
    from llamaforge.catalog.inventory import Inventory
    from llamaforge.cli.models import make_lister

    try:
        inventory = Inventory.open((spec.model.store,))
        return make_lister(inventory).join(inventory.find(spec.model.name)).base.repo
    except LlamaForgeError:
        return None  # the store is gone; the run still has all that an export needs


def _layout(files: Sequence[Path]) -> "Layout":
    from llamaforge.export.base_run import ask_layout

    narrate("Laying the model out as transformers has it …")
    return ask_layout(files)

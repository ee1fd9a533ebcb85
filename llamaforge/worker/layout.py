"""`python -m llamaforge.worker.layout BLOB…`: how transformers lays out a GGUF model.

Prints one JSON object on its last line of output: the layout, or `{"error": …}`. It is a process
of its own because it loads transformers, which neither the command line nor an export needs.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.export.layout import Layout, Parameter
from llamaforge.gguf.header import Header
from llamaforge.gguf.model_file import read_model
from llamaforge.worker.loading import undisturbed

if TYPE_CHECKING:
    from llamaforge.gguf.architectures import Architecture

_MOST_TURNED: Final = 0.25
"""Radians at the end of the longest text. Of Qwen 3 VL the two frequencies that llama.cpp leaves
still turn by a tenth there."""


def main(arguments: list[str]) -> ExitCode:
    """Print the layout of the model in a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    with undisturbed():
        import llamaforge.training.model

        del llamaforge
    try:
        print_line(
            model_layout(read_model(options.files[0], options.files)).model_dump(mode="json")
        )
    except LlamaForgeError as error:
        body = {"code": error.code, "message": error.message, "hint": error.hint}
        print_line({"error": body | {"exit_code": int(error.exit_code)}})
        return error.exit_code
    return ExitCode.DONE


def print_line(value: Any) -> None:
    """Print a JSON object on one line."""
    sys.stdout.write(json.dumps(value) + "\n")


def model_layout(header: Header) -> Layout:
    """Return how transformers lays out the model in a file.

    Raises:
        RefusedError: the architecture is not known, or the file holds what the transformers
            model has no place for (`cannot_export`).
    """
    import torch

    from llamaforge.gguf.rope_factors import rope_changes
    from llamaforge.gguf.tokenizer import GgufTokenizer
    from llamaforge.training.model import empty_model

    tokenizer = GgufTokenizer(header)
    changes = rope_changes(header) | {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    model = empty_model(header, torch.float32, **changes)
    _check_turning(header, model)
    parameters = tuple(_parameters(header, model))
    _check_complete(header, model, parameters)
    modules = tuple(path for path, _ in model.named_modules() if path)
    return Layout(config=_config(header, model), parameters=parameters, modules=modules)


def _config(header: Header, model: Any) -> dict[str, Any]:
    """Return the content of `config.json`, without what every model has, such as no labels.

    The names that the table uses are kept beside those that transformers now has for them.
    """
    from transformers import PretrainedConfig

    from llamaforge.gguf.architectures import configuration

    usual = PretrainedConfig().to_dict()
    found: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    found = {key: value for key, value in found.items() if usual.get(key, ...) != value}
    found.pop("dtype", None)
    named = {key: value for key, value in configuration(header).items() if value is not None}
    return (
        named
        | found
        | {
            "architectures": [type(model).__name__],
            "transformers_version": usual["transformers_version"],
            "use_cache": True,
        }
    )


def _parameters(header: Header, model: Any) -> Iterator[Parameter]:
    """Yield each parameter that is written, in the model's order."""
    from torch import nn

    from llamaforge.gguf.architectures import architecture_of
    from llamaforge.gguf.names import gguf_namer
    from llamaforge.training.experts import is_experts
    from llamaforge.training.model import (
        HEAD,
        embedding_name,
        kept_buffers,
        layer_of,
        norm_offset,
        parameter_name,
    )

    entry = architecture_of(header)
    name_of = gguf_namer(header)
    for path, module in model.named_modules():
        if is_experts(module):
            yield from _experts(header, path, module, layer_of(path))
            continue
        for key, parameter in module.named_parameters(recurse=False):
            name, shape = f"{path}.{key}", tuple(parameter.shape)
            if isinstance(module, nn.Embedding):
                tensor = f"{embedding_name(path, name_of)}.weight"
            elif path == HEAD:
                if model.config.tie_word_embeddings:
                    continue
                tensor = f"output.{key}"
            else:
                tensor = parameter_name(path, key, name_of, entry)
            yield _plain(
                header,
                entry,
                Parameter(
                    name=name,
                    shape=shape,
                    tensors=(tensor,),
                    offset=norm_offset(entry, module) if key == "weight" else 0.0,
                    is_logarithm=key in entry.logarithms,
                ),
            )
        for key in kept_buffers(module, entry):
            tensor = f"{layer_of(path)}{entry.parameters[key]}"
            shape = tuple(getattr(module, key).shape)
            yield _plain(
                header, entry, Parameter(name=f"{path}.{key}", shape=shape, tensors=(tensor,))
            )


def _plain(header: Header, entry: "Architecture", parameter: Parameter) -> Parameter:
    """Return a parameter that is one tensor; a bias that is absent is zero, some others are one."""
    key = parameter.name.rsplit(".", 1)[-1]
    if parameter.tensors[0] in header.tensors or not (key == "bias" or key in entry.ones):
        return parameter
    return parameter.model_copy(
        update={"tensors": (), "offset": -1.0 if key in entry.ones else 0.0, "is_logarithm": False}
    )


def _experts(header: Header, path: str, module: Any, layer: str) -> Iterator[Parameter]:
    """Yield the parameters of all experts of a layer.

    Where they have biases transformers multiplies from the right, gate and up taking turns.
    """
    parameters = dict(module.named_parameters(recurse=False))
    turned = "gate_up_proj_bias" in parameters
    for key, parameter in parameters.items():
        is_bias = key.endswith("_bias")
        parts = ("gate", "up") if key.startswith("gate_up") else ("down",)
        ending = "bias" if is_bias else "weight"
        tensors = tuple(f"{layer}ffn_{part}_exps.{ending}" for part in parts)
        fused = f"{layer}ffn_gate_up_exps.{ending}"
        if len(parts) == 2 and fused in header.tensors:
            tensors = (fused,)
        join = "stacked"
        if turned:
            join = "interleaved" if is_bias else "turned"
        yield Parameter(
            name=f"{path}.{key}", shape=tuple(parameter.shape), tensors=tensors, join=join
        )


def _check_turning(header: Header, model: Any) -> None:
    """Refuse a model of which llama.cpp leaves frequencies still that transformers turns."""
    from llamaforge.gguf.architectures import architecture_of
    from llamaforge.gguf.keys import whole
    from llamaforge.training.model import rotary_frequencies

    entry = architecture_of(header)
    still = entry.still(header) if entry.still else []
    fastest = max(
        (float(values[still].max()) for values in rotary_frequencies(model) if still), default=0.0
    )
    if fastest * whole(header, "context_length") > _MOST_TURNED:
        raise RefusedError(
            f"llama.cpp leaves {len(still)} of the model's rotary frequencies still in a text, "
            f"which transformers' {type(model).__name__} would turn.",
            "Export it as gguf, or use the adapter.",
            code="cannot_export",
        )


def _check_complete(header: Header, model: Any, parameters: tuple[Parameter, ...]) -> None:
    from llamaforge.training.model import model_tensors

    used = {tensor for parameter in parameters for tensor in parameter.tensors}
    missing, unused = used - set(header.tensors), model_tensors(header) - used
    if missing or unused:
        what = f"lacks {min(missing)[:60]}" if missing else f"holds {min(unused)[:60]}"
        why = "wants" if missing else "has no place for"
        raise RefusedError(
            f"The model's file {what}, which transformers' {type(model).__name__} {why}.",
            "Export it as gguf, or use the adapter.",
            code="cannot_export",
        )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""A transformers model over full-precision weights, or over NF4 blocks that bitsandbytes makes.

Only safetensors are read, and no code of the repository is ever run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from llamaforge.errors import InvalidFileError, LlamaForgeError, RefusedError
from llamaforge.gguf.architectures import architecture_of
from llamaforge.gguf.header import Header
from llamaforge.gguf.names import gguf_namer
from llamaforge.gguf.published import LANGUAGE_MODEL_KEYS, is_of_language_model
from llamaforge.gguf.types import TensorType
from llamaforge.safe_text import safe_line
from llamaforge.training.model import HEAD, LoadedModel, output_head
from llamaforge.training.packed import PackedWeight

_KINDS: Final = {
    torch.float32: TensorType.F32,
    torch.bfloat16: TensorType.BF16,
    torch.float16: TensorType.F16,
}
_PROBE_SHAPE: Final = (64, 64)


def load_dense_model(
    folder: Path,
    header: Header,
    dtype: torch.dtype,
    *,
    device: str = "cpu",
    load_in_4bit: bool = False,
    all_trained: bool = False,
) -> LoadedModel:
    """Return the model of a Hugging Face folder, on `device`.

    Args:
        folder: configuration and safetensors; its code and its pickles are never opened.
        header: the GGUF file that is served, which names the layers.
        dtype: the type of the weights, and of what is computed with them.
        device: where it lies.
        load_in_4bit: hold the linear layers of the blocks as NF4.
        all_trained: whether every weight is trained; else all are frozen.

    Raises:
        RefusedError: transformers has no such model (`unsupported_base`), bitsandbytes does not
            work here (`no_bitsandbytes`), or the architecture is not known.
        InvalidFileError: weights are missing, of another shape, or damaged (`bad_base`).
    """
    if load_in_4bit:
        require_nf4(device)
    entry = architecture_of(header)
    model = _load(folder, dtype, device, load_in_4bit, entry.attention)
    if load_in_4bit:
        _keep_gradients(model)
    model.config.use_cache = False
    model.requires_grad_(all_trained)
    head: Any = model.get_submodule(HEAD)
    if head.bias is not None:
        raise RefusedError(
            f"The output head of {safe_line(folder.name)} has a bias, which GGUF files of this "
            "kind have no place for.",
            "Train on the model's own file instead: --from gguf",
            code="unsupported_base",
        )
    rows = header.tensors["token_embd.weight"].rows
    if head.weight.shape[0] > rows:
        _cut_tables(model, head, rows)
    if head.weight.shape[0] != rows:
        raise RefusedError(
            f"The base has {head.weight.shape[0]:,} tokens, and the model's file {rows:,}.",
            "Name the right repository or folder with --base.",
            code="other_base",
        )
    weight = frozen_weight(head.weight)
    shaped = output_head(header, weight, head.weight if all_trained else None)
    return LoadedModel(model.eval(), shaped, _adaptable(model, header))


def _cut_tables(model: PreTrainedModel, head: nn.Linear, rows: int) -> None:
    """Leave out rows of embedding and head that stand for no token: the file was made without.

    Not by transformers' own way, which draws random numbers and so changes what LoRA begins with.
    """
    embedding: Any = model.get_input_embeddings()
    tables = {id(table.weight): table.weight for table in (embedding, head)}
    cut = {
        number: nn.Parameter(weight.detach()[:rows].clone(), requires_grad=weight.requires_grad)
        for number, weight in tables.items()
    }
    embedding.weight, head.weight = cut[id(embedding.weight)], cut[id(head.weight)]
    embedding.num_embeddings = head.out_features = rows
    if embedding.weight.requires_grad:  # they are saved; else PEFT would take them for learned
        model.config.vocab_size = rows


def frozen_weight(weight: Tensor) -> PackedWeight:
    """Return a dense matrix [rows, width] as the losses take it, without a copy."""
    values = weight.detach().contiguous()
    return PackedWeight(values.view(torch.uint8), _KINDS[values.dtype], *values.shape)


def require_nf4(device: str) -> None:
    """Return if bitsandbytes can pack and unpack NF4 on `device`.

    Raises:
        RefusedError: it is absent, or this version cannot; the reason is given.
    """
    try:
        from bitsandbytes import functional as bnb  # noqa: PLC0415 - few installations have it

        values = torch.linspace(-1, 1, _PROBE_SHAPE[0] * _PROBE_SHAPE[1], device=device)
        packed, state = bnb.quantize_4bit(values.view(_PROBE_SHAPE), quant_type="nf4")
        error = (bnb.dequantize_4bit(packed, state).flatten() - values).abs().max()
        reason = "" if float(error) < 0.2 else "it does not give back what was packed"
    except Exception as error:  # it raises whatever its native library does
        reason = safe_line(f"{type(error).__name__}: {error}".splitlines()[0], limit=200)
    if reason:
        raise RefusedError(
            f"load_in_4bit (QLoRA) needs bitsandbytes, which does not work on {device} here: "
            f"{reason.rstrip('.')}.",
            "Install it: pip install 'llamaforge[qlora]'; or leave out --set load_in_4bit=true",
            code="no_bitsandbytes",
        )


def _keep_gradients(model: PreTrainedModel) -> None:
    """Keep bitsandbytes on the CPU from packing weights anew for inference.

    It does so at the first evaluation, and never unpacks them for training: products over such
    weights have no gradient, and every step after that would learn something wrong.
    """
    from bitsandbytes.nn import Linear4bit  # noqa: PLC0415 - few installations have it

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _load(
    folder: Path, dtype: torch.dtype, device: str, load_in_4bit: bool, attention: str
) -> PreTrainedModel:
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **safe).get_text_config()
        model, said = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            device_map={"": device},
            key_mapping=LANGUAGE_MODEL_KEYS,
            quantization_config=quantization if load_in_4bit else None,
            output_loading_info=True,
            **safe,
        )
    except MemoryError:
        raise
    except LlamaForgeError:
        raise
    except Exception as error:
        if "can't allocate memory" in str(error):
            raise
        reason = safe_line(f"{error}".splitlines()[0] if f"{error}" else type(error).__name__)
        raise InvalidFileError(
            f"transformers cannot load the base in {safe_line(str(folder))}: {reason[:300]}.",
            "Fetch it again: llamaforge base MODEL --download; or train on the model's own file: "
            "--from gguf",
            code="bad_base",
        ) from error
    _check_complete(folder, said)
    return cast("PreTrainedModel", model)


def _check_complete(folder: Path, said: Mapping[str, Any]) -> None:
    """Raise where weights are missing, are of another shape, or are left over."""
    missing = sorted(said.get("missing_keys", ()))
    other = sorted(str(item) for item in said.get("mismatched_keys", ()))
    over = sorted(filter(is_of_language_model, said.get("unexpected_keys", ())))
    for names, what in ((missing, "lacks"), (other, "has in another shape"), (over, "also has")):
        if names:
            raise InvalidFileError(
                f"The base in {safe_line(str(folder))} {what} {safe_line(names[0], limit=80)}, "
                "so it is not what its configuration says.",
                "Fetch it again: llamaforge base MODEL --download; or name another with --base.",
                code="bad_base",
            )


def _adaptable(model: PreTrainedModel, header: Header) -> dict[str, str]:
    """Return the GGUF tensor of each linear layer that may take an adapter."""
    entry, name_of = architecture_of(header), gguf_namer(header)
    found = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear) or path == HEAD:
            continue
        name = name_of(path)
        if name is None or f"{name}.weight" not in header.tensors:
            raise RefusedError(
                f"The base has a layer {safe_line(path, limit=80)}, for which the model's file "
                "has nothing.",
                "Name the right repository or folder with --base.",
                code="other_base",
            )
        if name.rsplit(".", 1)[-1] not in entry.frozen:
            found[path] = name
    return found

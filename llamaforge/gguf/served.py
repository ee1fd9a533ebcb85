"""A model's file as Ollama's server reads it.

Files that Ollama's own converter made hold pictures' and sounds' encoders beside the language
model, and name some keys and tensors otherwise than llama.cpp does. The server translates them when
it loads them, and so does this: what is trained is what will be served.
Source: the handlers of `llama/compat/llama-ollama-compat.cpp` of Ollama, those of text, for the
architectures that can be trained. `convert/` of Ollama has what wrote such files.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from llamaforge.gguf.header import ArrayRef, Header, TensorInfo, Values

_UINT32, _INT32, _FLOAT32, _STRING = 4, 5, 6, 8
_MOST_NUMBERS: Final = 4096
_MOST: Final = 1 << 31
_LONG_CONTEXT: Final = 131_072
_GEMMA3_FACTOR: Final = 8.0
_QWEN3VL_SECTIONS: Final = (24, 20, 20, 0)
_TURN_HEADER, _TURN_END = "<|start_header_id|>", "<|eot_id|>"
_LLAMA3_TEXT_END, _LLAMA3_TURN_HEADER, _LLAMA3_TURN_END = 128_001, 128_006, 128_009

ENCODERS: Final[Mapping[str, tuple[str, ...]]] = {
    "images": ("v.", "model.vision_tower.", "s."),
    "sound": ("a.",),
    "images and sound": ("mm.",),
}
"""What tensors of these names are for, that no text passes through."""


def as_served(header: Header) -> Header:
    """Return `header` as the server reads it: itself, where the server changes nothing.

    The result's `stored` is `header`, and its `stored_names` tell what tensors are called there.

    Raises:
        NotFoundError, InvalidFileError: the vocabulary of the file cannot be read.
    """
    handler = _HANDLERS.get(header.architecture)
    if handler is None or header.get("general.type") == "adapter":
        return header
    view = _View(header)
    handler(view)
    return view.header()


def hidden_parts(header: Header) -> tuple[str, ...]:
    """Return what the file of a served header holds beside its text part: `images`, `sound`."""
    shown = {header.stored_names.get(name, name) for name in header.tensors}
    hidden = [name for name in header.stored.tensors if name not in shown]
    found = {
        what
        for what, prefixes in ENCODERS.items()
        if any(name.startswith(prefixes) for name in hidden)
    }
    if found & {"images", "sound"}:
        found.discard("images and sound")
    return tuple(sorted(found))


class _View:
    """A header that is being changed."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self.architecture = header.architecture
        self._metadata: dict[str, Any] = dict(header.metadata)
        self._kinds = dict(header.kinds)
        self._tensors = dict(header.tensors)
        self._stored_names: dict[str, str] = {}

    def header(self) -> Header:
        """Return the header as it is now."""
        before = self._header
        same = self._metadata == before.metadata and list(self._tensors) == list(before.tensors)
        if same:
            return before
        found = Header(
            before.path,
            before.version,
            self._metadata,
            self._tensors,
            before.file_bytes,
            self._kinds,
            before.files,
        )
        found.stored = before
        found.stored_names = self._stored_names
        return found

    def has(self, key: str) -> bool:
        """Return whether `<architecture>.<key>` is there."""
        return self.own(key) in self._metadata

    def own(self, key: str) -> str:
        """Return `<architecture>.<key>`."""
        return f"{self.architecture}.{key}"

    def scalar(self, key: str) -> Any:
        """Return the scalar or text at `key`, None for an array."""
        value = self._metadata.get(key)
        return None if isinstance(value, ArrayRef | Values) else value

    def numbers(self, key: str) -> list[int]:
        """Return the array at `<architecture>.<key>`; nothing where it is none of small numbers."""
        name = self.own(key)
        if not self._header.is_array(name) or self._header.length(name) > _MOST_NUMBERS:
            return []
        found = self._header.numbers(name)
        return found if all(isinstance(n, int) and abs(n) < _MOST for n in found) else []

    def token(self, number: int) -> str:
        """Return the text of a token, empty where there is none of that number."""
        key = "tokenizer.ggml.tokens"
        if self._header.length(key) <= number:
            return ""
        return self._header.strings(key)[number]

    def tensor(self, name: str) -> TensorInfo | None:
        """Return a tensor by its present name."""
        return self._tensors.get(name)

    def names(self) -> list[str]:
        """Return the present names of all tensors."""
        return list(self._tensors)

    def set(self, key: str, value: str | int | float) -> None:
        """Set a scalar or a text."""
        kinds = {str: _STRING, int: _UINT32, float: _FLOAT32}
        self._metadata[key] = value
        self._kinds[key] = kinds[type(value)]

    def default(self, key: str, value: str | int | float) -> None:
        """Set `<architecture>.<key>`, if it is absent."""
        if not self.has(key):
            self.set(self.own(key), value)

    def set_array(self, key: str, values: Iterable[int]) -> None:
        """Set `<architecture>.<key>` to whole numbers."""
        self._metadata[self.own(key)] = Values(_INT32, tuple(values))
        self._kinds[self.own(key)] = 9

    def copy(self, source: str, target: str) -> None:
        """Give `<architecture>.<target>` the value of `<architecture>.<source>`, if it has one."""
        if self.has(source):
            self._metadata[self.own(target)] = self._metadata[self.own(source)]
            self._kinds[self.own(target)] = self._kinds[self.own(source)]

    def become(self, architecture: str) -> None:
        """Take another architecture, whose keys are called after it."""
        old = f"{self.architecture}."
        for key in [key for key in self._metadata if key.startswith(old)]:
            new = f"{architecture}.{key.removeprefix(old)}"
            self._metadata[new] = self._metadata.pop(key)
            self._kinds[new] = self._kinds.pop(key)
        self.architecture = architecture
        self.set("general.architecture", architecture)

    def hide(self, *prefixes: str) -> None:
        """Leave out the tensors whose names begin so."""
        for name in [name for name in self._tensors if name.startswith(prefixes)]:
            del self._tensors[name]

    def rename(self, renamed: Callable[[str], str]) -> None:
        """Call tensors as `renamed` says; a name that is taken stays as it is."""
        found: dict[str, TensorInfo] = {}
        for name, info in self._tensors.items():
            new = renamed(name)
            if new == name or new in self._tensors:
                found[name] = info
                continue
            self._stored_names[new] = self._stored_names.get(name, name)
            found[new] = TensorInfo(
                new, info.shape, info.type, info.offset, info.n_bytes, info.file
            )
        self._tensors = found

    def cut_vocabulary(self) -> None:
        """Leave out tokens that have no row in the embedding: those of pictures."""
        table = self._tensors.get("token_embd.weight")
        for part in ("tokens", "scores", "token_type"):
            key = f"tokenizer.ggml.{part}"
            if table is not None and self._header.length(key) > table.rows:
                self._metadata[key] = self._header.first_of(key, table.rows)


def _gemma3(view: _View) -> None:
    if view.tensor("dense.0.weight") is not None:
        view.become("gemma-embedding")
        return
    marks = ("mm.tokens_per_image", "rope.global.freq_base", "rope.local.freq_base")
    padded = [f"tokenizer.ggml.add_{kind}_token" for kind in ("padding", "unknown")]
    if not (
        _has_encoders(view)
        or any(map(view.has, marks))
        or any(view.scalar(key) is not None for key in padded)
        or not view.has("attention.layer_norm_rms_epsilon")
    ):
        return
    view.copy("rope.global.freq_base", "rope.freq_base")
    view.copy("rope.local.freq_base", "rope.freq_base_swa")
    view.default("attention.layer_norm_rms_epsilon", 1e-6)
    view.default("rope.freq_base", 1_000_000.0)
    view.default("rope.freq_base_swa", 10_000.0)
    context = view.scalar(view.own("context_length"))
    if isinstance(context, int) and context >= _LONG_CONTEXT:
        view.default("rope.scaling.type", "linear")
        view.default("rope.scaling.factor", _GEMMA3_FACTOR)
    view.cut_vocabulary()
    view.hide("v.", "mm.")


def _gemma4(view: _View) -> None:
    towers = ("a.", "v.", "mm.", "model.vision_tower.")
    is_spm = view.scalar("tokenizer.ggml.model") == "llama"
    if not is_spm and not any(name.startswith(towers) for name in view.names()):
        return
    if is_spm:
        view.set("tokenizer.ggml.model", "gemma4")
    view.hide(*towers)
    view.rename(lambda name: name.replace(".ffn_gate_inp.per_expert_scale", ".ffn_down_exps.scale"))


def _gpt_oss(view: _View) -> None:
    view.become("gpt-oss")
    experts = view.tensor("blk.0.ffn_gate_exps.weight")
    if experts is not None and len(experts.shape) > 1:
        view.default("expert_feed_forward_length", experts.shape[1])
    view.default("rope.scaling.type", "yarn")
    view.set("tokenizer.ggml.pre", "gpt-4o")

    def renamed(name: str) -> str:
        block, _, ending = name.rpartition(".")
        if name.endswith(".attn_sinks"):
            return f"{name}.weight"
        for old, new in (("attn_out", "attn_output"), ("ffn_norm", "post_attention_norm")):
            if block.endswith(f".{old}"):
                return f"{block.removesuffix(old)}{new}.{ending}"
        return name

    view.rename(renamed)


def _olmo3(view: _View) -> None:
    view.become("olmo2")


def _mistral3(view: _View) -> None:
    marks = ("rope.scaling.beta_fast", "rope.scaling.mscale_all_dim", "rope.scaling_beta")
    if not (_has_encoders(view) or any(map(view.has, marks))):
        return
    view.copy("rope.scaling.beta_fast", "rope.scaling.yarn_beta_fast")
    view.copy("rope.scaling.beta_slow", "rope.scaling.yarn_beta_slow")
    view.copy("rope.scaling.mscale_all_dim", "rope.scaling.yarn_log_multiplier")
    view.copy("rope.scaling_beta", "attention.temperature_scale")
    if view.scalar("tokenizer.ggml.pre") in {None, "", "default"}:
        view.set("tokenizer.ggml.pre", "tekken")
    view.hide("v.", "mm.")


def _qwen25vl(view: _View) -> None:
    sections = view.numbers("rope.mrope_section")
    view.become("qwen2vl")
    if len(sections) >= 3:
        view.set_array("rope.dimension_sections", (*sections[:3], 0))
    view.hide("v.", "mm.")


def _qwen3vl(view: _View) -> None:
    if view.has("rope.dimension_sections"):
        return
    view.set_array("rope.dimension_sections", _QWEN3VL_SECTIONS)
    view.default("n_deepstack_layers", len(view.numbers("vision.deepstack_visual_indexes")))
    view.hide("v.", "mm.")


def _qwen35(view: _View) -> None:
    marks = ("vision.block_count", "image_token_id", "ssm.v_head_reordered",
             "rope.mrope_interleaved")  # fmt: skip
    is_ours = any(map(view.has, marks)) or any(
        name.startswith(("v.", "mtp.")) for name in view.names()
    )
    if view.architecture == "qwen35moe":
        is_ours = is_ours or view.has("feed_forward_length")
    if not is_ours:
        return
    heads = view.numbers("attention.head_count_kv")
    if heads:
        view.set(view.own("attention.head_count_kv"), max(0, *heads) or 2)
    sections = view.numbers("rope.dimension_sections")
    if len(sections) == 3:
        view.set_array("rope.dimension_sections", (*sections, 0))
    view.rename(lambda name: f"{name}.bias" if name.endswith(".ssm_dt") else name)
    # What guesses tokens ahead is served too, and changes no answer: it is not needed here.
    view.hide("v.", "mm.", "mtp.")


def _llama(view: _View) -> None:
    """Mend vocabularies of Llama 3 that lack their pre-tokenizer, or end no turn."""
    has_pre = view.scalar("tokenizer.ggml.pre") not in {None, "", "default"}
    if has_pre and view.scalar("tokenizer.ggml.eos_token_id") != _LLAMA3_TEXT_END:
        return
    header, turn = view.token(_LLAMA3_TURN_HEADER), view.token(_LLAMA3_TURN_END)
    template = str(view.scalar("tokenizer.chat_template"))
    is_chat = header == _TURN_HEADER or _TURN_HEADER in template or _TURN_END in template
    if turn != _TURN_END or not is_chat:
        return
    if not has_pre:
        view.set("tokenizer.ggml.pre", "llama-bpe")
    for key in ("eos", "eot"):
        name = f"tokenizer.ggml.{key}_token_id"
        if view.scalar(name) in {None, _LLAMA3_TEXT_END}:
            view.set(name, _LLAMA3_TURN_END)


def _has_encoders(view: _View) -> bool:
    return any(name.startswith(("v.", "mm.")) for name in view.names())


_HANDLERS: Final[Mapping[str, Callable[[_View], None]]] = {
    "gemma3": _gemma3,
    "gemma4": _gemma4,
    "gptoss": _gpt_oss,
    "llama": _llama,
    "mistral3": _mistral3,
    "olmo3": _olmo3,
    "qwen25vl": _qwen25vl,
    "qwen35": _qwen35,
    "qwen35moe": _qwen35,
    "qwen3vl": _qwen3vl,
    "qwen3vlmoe": _qwen3vl,
}
"""By the architecture that the file says."""

"""A GGUF model and an adapter over it, run by llama.cpp: the judge of what will be served.

Ollama runs the same library over the same blob. Its C interface is called directly, because the
two things needed here (no repacked copies of the weights, one adapter switched on and off over
one loaded model) have no place in the Python class that comes with it.
Source of the interface: `include/llama.h` of llama.cpp.
"""

import ctypes
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import llama_cpp
import numpy as np
import numpy.typing as npt

from llamaforge.errors import LlamaForgeError
from llamaforge.hardware import physical_cores
from llamaforge.safe_text import safe_line

_BATCH_TOKENS: Final = 512
_LOGITS_BYTES: Final = 256 * 1024 * 1024
"""Bytes of logits that one call may hold: a vocabulary of 152,000 tokens takes 0.6 MB a token."""
_SMALL_MODEL_BYTES: Final = 64 * 1024 * 1024
_LOG_LINES: Final = 20
_ERROR_LEVEL: Final = 4  # GGML_LOG_LEVEL_ERROR
_MEMORY_WORDS: Final = (
    "insufficient memory",
    "failed to allocate",
    "unable to allocate",
    "Cannot allocate memory",
    "bad_alloc",
)

_log: list[str] = []


def _keep_errors(level: int, text: bytes, _: Any) -> None:
    if level == _ERROR_LEVEL:
        _log.append(text.decode("utf-8", "replace").strip())
        del _log[:-_LOG_LINES]


# The callback must outlive every call of the library, or it would jump into freed memory.
_CALLBACK: Final = llama_cpp.llama_log_callback(_keep_errors)


def _start_library() -> None:
    _log.clear()
    llama_cpp.llama_log_set(_CALLBACK, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()


def _failure(what: str) -> LlamaForgeError:
    said = f" ({safe_line(_log[-1], limit=160)})" if _log else ""
    if any(word in line for line in _log for word in _MEMORY_WORDS):
        return LlamaForgeError(
            f"llama.cpp cannot {what}: the machine's memory is used up{said}.",
            "Close other programs, then resume the run.",
            code="out_of_memory",
        )
    return LlamaForgeError(
        f"llama.cpp cannot {what}{said}.",
        "Pull the model again; if that does not help, report it with the run's log.",
        code="llama_cpp",
    )


Files = Path | Sequence[Path]
"""A model's file, or all its parts in their order."""


def _paths(files: Files) -> list[Path]:
    return [files] if isinstance(files, Path) else list(files)


@contextmanager
def loaded(files: Files, *, vocabulary_only: bool = False) -> Iterator[Any]:
    """Load a model for the length of a `with` block; gives llama.cpp's own handle.

    Raises:
        LlamaForgeError: llama.cpp does not take the file.
    """
    _start_library()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = vocabulary_only
    # Repacked weights would be a second copy of the file in memory, and on processors with AMX
    # the repacked products of llama.cpp end the process where the kernel has not granted the tiles.
    parameters.use_extra_bufts = False
    paths = _paths(files)
    # Asked for several, it takes them by their order, whatever their names.
    texts = (ctypes.c_char_p * len(paths))(*(os.fsencode(path) for path in paths))
    model = (
        llama_cpp.llama_model_load_from_splits(texts, len(paths), parameters)
        if len(paths) > 1
        else llama_cpp.llama_model_load_from_file(texts[0], parameters)
    )
    if not model:
        raise _failure(f"load {paths[0].name}")
    try:
        yield model
    finally:
        llama_cpp.llama_model_free(model)


def tokenize(model: Any, text: str, *, parse_special: bool) -> list[int]:
    """Return llama.cpp's ids of `text`, with BOS where the vocabulary asks for one."""
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    data = text.encode("utf-8", "surrogatepass")
    room = len(data) + 8
    ids = (llama_cpp.llama_token * room)()
    count = llama_cpp.llama_tokenize(vocabulary, data, len(data), ids, room, True, parse_special)
    if count < 0:
        raise _failure("cut a text into tokens")
    return list(ids[:count])


class Server:
    """One loaded model with an adapter that can be switched on and off.

    Use it as a context manager; the library's memory is freed at the end.
    """

    def __init__(self, files: Files, *, context: int, adapter: Path | None = None) -> None:
        """Take the model in `files`, for sequences of at most `context` tokens."""
        self._files = _paths(files)
        self._adapter_path = adapter
        self._context_tokens = context
        self._adapter: Any = None
        self._context: Any = None

    def __enter__(self) -> "Server":
        self._loading = loaded(self._files)
        self._model = self._loading.__enter__()
        try:
            self._open()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _open(self) -> None:
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size: int = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._batch_tokens = max(1, min(_BATCH_TOKENS, _LOGITS_BYTES // (4 * self.vocab_size)))
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = self._context_tokens
        parameters.n_batch = parameters.n_ubatch = self._batch_tokens
        # Threads wait for each other in a loop after every operation: for a small model that costs
        # more than they bring, and a hundred times more where other programs want the cores.
        size = sum(path.stat().st_size for path in self._files)
        is_small = size < _SMALL_MODEL_BYTES
        threads = 1 if is_small else physical_cores()
        parameters.n_threads = parameters.n_threads_batch = threads
        if self._adapter_path is not None:
            path = str(self._adapter_path).encode()
            self._adapter = llama_cpp.llama_adapter_lora_init(self._model, path)
            if not self._adapter:
                raise _failure(f"lay {self._adapter_path.name} over {self._files[0].name}")
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise _failure(f"make room for {self._context_tokens} tokens")
        self._batch = llama_cpp.llama_batch_init(self._batch_tokens, 0, 1)

    def __exit__(self, *error: object) -> None:
        if self._context:
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._context)
            self._context = None
        if self._adapter:
            llama_cpp.llama_adapter_lora_free(self._adapter)
            self._adapter = None
        self._loading.__exit__(None, None, None)

    def use_adapter(self, on: bool) -> None:
        """Answer with the adapter, or as the base model does."""
        if not on:
            status = llama_cpp.llama_set_adapters_lora(self._context, None, 0, None)
        else:
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._adapter)
            scales = (ctypes.c_float * 1)(1.0)
            status = llama_cpp.llama_set_adapters_lora(self._context, adapters, 1, scales)
        if status != 0:
            raise _failure("switch the adapter")

    def log_probabilities(
        self, ids: Sequence[int], positions: Collection[int]
    ) -> npt.NDArray[np.float32]:
        """Return log P(next token | ids up to and including p) for each p of `positions`.

        Args:
            ids: one sequence, BOS included where the model wants it.
            positions: indices into `ids`, ascending.

        Returns:
            Natural logarithms, shape [len(positions), vocab_size].
        """
        wanted = set(positions)
        result = np.empty((len(wanted), self.vocab_size), dtype=np.float32)
        row = 0
        self._forget()
        for start in range(0, len(ids), self._batch_tokens):
            part = ids[start : start + self._batch_tokens]
            marked = [start + place in wanted for place in range(len(part))]
            self._decode(part, start, marked)
            for place, is_wanted in enumerate(marked):
                if is_wanted:
                    result[row] = _log_softmax(self._logits(place))
                    row += 1
        return result

    def token_log_probabilities(self, ids: Sequence[int], places: Collection[int]) -> list[float]:
        """Return log P(ids[p] | the ids before it) for each p of `places`, in nats.

        Args:
            ids: one sequence, BOS included where the model wants it.
            places: indices into `ids`, ascending, from 1 on.
        """
        wanted = set(places)
        found = []
        self._forget()
        for start in range(0, len(ids), self._batch_tokens):
            part = ids[start : start + self._batch_tokens]
            marked = [start + place + 1 in wanted for place in range(len(part))]
            self._decode(part, start, marked)
            found += [
                float(_log_softmax(self._logits(place))[ids[start + place + 1]])
                for place, is_wanted in enumerate(marked)
                if is_wanted
            ]
        return found

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        end_ids: Collection[int],
        stopped: Callable[[], bool] = lambda: False,
        on_token: Callable[[int], None] = lambda token: None,
    ) -> list[int]:
        """Return the most probable continuation of `prompt`, token by token, without its end."""
        self._forget()
        for start in range(0, len(prompt), self._batch_tokens):
            part = prompt[start : start + self._batch_tokens]
            is_last = start + len(part) == len(prompt)
            self._decode(part, start, [is_last and i == len(part) - 1 for i in range(len(part))])
        room = min(max_new_tokens, self._context_tokens - len(prompt))
        last = (len(prompt) - 1) % self._batch_tokens
        answer: list[int] = []
        while len(answer) < room and not stopped():
            token = int(self._logits(last).argmax())
            if token in end_ids:
                break
            answer.append(token)
            on_token(token)
            if len(answer) < room:
                self._decode([token], len(prompt) + len(answer) - 1, [True])
                last = 0
        return answer

    def _forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def _decode(self, ids: Sequence[int], start: int, wanted: Sequence[bool]) -> None:
        batch = self._batch
        batch.n_tokens = len(ids)
        for place, (token, is_wanted) in enumerate(zip(ids, wanted, strict=True)):
            batch.token[place] = token
            batch.pos[place] = start + place
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = 0
            batch.logits[place] = int(is_wanted)
        if llama_cpp.llama_decode(self._context, batch) != 0:
            raise _failure("compute an answer")

    def _logits(self, place: int) -> npt.NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits_ith(self._context, place)
        return np.ctypeslib.as_array(pointer, shape=(self.vocab_size,))


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    values = logits.astype(np.float64)
    values -= values.max()
    return np.asarray(values - np.log(np.exp(values).sum()))

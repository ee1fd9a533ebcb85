"""Telling that memory ran out, and which: each library says it in words of its own."""

import errno
from typing import Final

from llamaforge.errors import LlamaForgeError

_ALLOCATION_WORDS: Final = (
    "can't allocate memory",  # torch's allocator on the CPU
    "std::bad_alloc",
    "could not create a memory object",  # oneDNN
    "Cannot allocate memory",
    "failed to allocate",
)
_CUDA_WORDS: Final = (
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


_LOST_WORDS: Final = (
    "CUDA error: unspecified launch failure",
    "CUDA error: an illegal memory access",
    "CUDA error: uncorrectable ECC error",
    "CUDA error: unknown error",
    "CUDA error: GPU is lost",
    "CUDA driver error",
)


def memory_shortage(error: BaseException) -> str | None:
    """Return `cuda` or `allocation` where `error` says that memory ran out, else None."""
    import torch

    text = str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError) or any(word in text for word in _CUDA_WORDS):
        return "cuda"
    if isinstance(error, MemoryError) or any(word in text for word in _ALLOCATION_WORDS):
        return "allocation"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "allocation"
    return None


def is_device_lost(error: BaseException) -> bool:
    """Return whether `error` says that the GPU, or its driver, does not answer any more."""
    return any(word in str(error) for word in _LOST_WORDS)


def unproven(run_id: str, what: str) -> LlamaForgeError:
    """Return that a run's result is there and not proven, because of `what`."""
    return LlamaForgeError(
        f"{what} while llama.cpp was to prove the result. Training is done and its result is "
        "kept, but it is not proven.",
        f"Close other programs, then prove it: llamaforge runs resume {run_id}",
        code="unproven",
    )


def shortage_words(kind: str) -> str:
    """Return what a person is told of a shortage of `kind`."""
    return {
        "cuda": "The GPU's memory is used up",
        "allocation": "The machine's memory is used up",
        "host_kill": "The worker was ended because memory was used up",
    }[kind]

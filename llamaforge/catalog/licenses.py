"""A license's name from its text: the SPDX identifier, or the word that the Hub has for it."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

_READ_CHARACTERS: Final = 6_000
"""A license says in its first lines which one it is."""

_SIGNS: Final = (
    (r"apache license,? version 2\.0", "Apache-2.0"),
    (r"permission is hereby granted, free of charge|\bmit license\b", "MIT"),
    (r"redistributions in binary form .{0,400}neither the name", "BSD-3-Clause"),
    (r"redistributions in binary form", "BSD-2-Clause"),
    (r"creative commons attribution-noncommercial 4\.0|\bcc[- ]by[- ]nc[- ]4\.0", "CC-BY-NC-4.0"),
    (r"creative commons attribution-sharealike 4\.0|\bcc[- ]by[- ]sa[- ]4\.0", "CC-BY-SA-4.0"),
    (r"creative commons attribution 4\.0|\bcc[- ]by[- ]4\.0", "CC-BY-4.0"),
    (r"llama 4 community license", "llama4"),
    (r"llama 3\.3 community license", "llama3.3"),
    (r"llama 3\.2 community license", "llama3.2"),
    (r"llama 3\.1 community license", "llama3.1"),
    (r"llama 3 community license", "llama3"),
    (r"llama 2 community license", "llama2"),
    (r"gemma terms of use", "gemma"),
    (r"qwen research license", "qwen-research"),
    (r"tongyi qianwen research license", "tongyi-qianwen-research"),
    (r"tongyi qianwen license", "tongyi-qianwen"),
    (r"qwen license agreement", "qwen"),
    (r"deepseek license agreement", "deepseek"),
    (r"bigcode open ?rail-?m", "bigcode-openrail-m"),
    (r"bigscience.{0,20}rail", "bigscience-bloom-rail"),
    (r"mistral ai research license", "mrl"),
    (r"mistral ai non-production license", "mnpl"),
    (r"falcon(?:-?llm| 2)? (?:tii )?license|tii falcon", "falcon-llm-license"),
    (r"exaone ai model license", "exaone"),
    (r"stability ai community license", "stabilityai-ai-community"),
    (r"stability ai non-?commercial", "stabilityai-nc-research-community"),
    (r"yi series models (?:community )?license", "yi-license"),
    (r"nvidia open model license", "nvidia-open-model-license"),
    (r"microsoft research license", "microsoft-research"),
    (r"gnu affero general public license version 3", "AGPL-3.0"),
    (r"gnu general public license version 3", "GPL-3.0"),
)
_PATTERNS: Final = tuple((re.compile(sign), name) for sign, name in _SIGNS)
UNKNOWN: Final = "unknown"
_SHORT_TEXT_CHARACTERS: Final = 60
"""What is shorter is taken for a name."""


@lru_cache(maxsize=256)  # a store's models have few different licenses, of many kilobytes each
def license_name(text: str) -> str:
    """Return the name of the license with this text; `unknown` where none of its signs is known.

    Of several signs the one that stands first counts: a license may speak of others further on.
    """
    plain = " ".join(text[:_READ_CHARACTERS].split())
    low = plain.lower()
    found = [(sign.start(), name) for pattern, name in _PATTERNS if (sign := pattern.search(low))]
    if found:
        return min(found)[1]
    if plain and len(plain) <= _SHORT_TEXT_CHARACTERS and "\n" not in text.strip():
        return plain  # `apache-2.0`, as Modelfiles often say
    return UNKNOWN


def license_names(texts: Iterable[str], claimed: object) -> tuple[str, ...]:
    """Return the names of a model's licenses, each once.

    Args:
        texts: its license layers.
        claimed: `general.license` of its GGUF header, which counts where there are no layers.
    """
    found = tuple(dict.fromkeys(license_name(text) for text in texts if text.strip()))
    if found:
        return found
    return (claimed[:80],) if isinstance(claimed, str) and claimed.strip() else ()

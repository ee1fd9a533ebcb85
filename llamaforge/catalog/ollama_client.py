"""The `ollama` client library, imported so that no value of OLLAMA_HOST can break the import.

Importing it builds a client from the variable, and that fails for addresses which Ollama itself
takes (`::1`, a value in quotes) as well as for wrong ones, which deserve a sentence of their own.
The address is always given to the client (see `host.py`), so the variable is not needed here.
"""

import os

_given = os.environ.pop("OLLAMA_HOST", None)
try:
    from ollama import Client, ResponseError, ShowResponse
finally:
    if _given is not None:
        os.environ["OLLAMA_HOST"] = _given

__all__ = ["Client", "ResponseError", "ShowResponse"]

"""GGUF files: headers, tensors, block types, names per architecture, tokenizers, adapters."""

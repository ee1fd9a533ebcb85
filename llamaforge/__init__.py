"""LlamaForge: fine-tune the models you already have in Ollama."""

__version__ = "0.1.0"

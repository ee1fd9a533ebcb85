"""Bringing a result into Ollama, and proving that it answers there."""

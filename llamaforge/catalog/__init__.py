"""What the machine has: the Ollama store, its models and what can be said of each."""

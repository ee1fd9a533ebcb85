"""Ways out of a run: the GGUF adapter and the Modelfile."""

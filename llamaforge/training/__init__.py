"""Training on packed GGUF blocks: modules, loss, model, trainer, checkpoints."""

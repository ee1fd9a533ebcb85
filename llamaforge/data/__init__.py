"""Training rows: formats, canonical records, chat rendering, split and snapshot."""

"""How the embedded demo's fine-tuning data are made: two small tasks about remembering."""

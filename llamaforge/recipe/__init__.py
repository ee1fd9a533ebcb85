"""What a run shall do: the recipe, the run spec it resolves to, and the checks before it starts."""

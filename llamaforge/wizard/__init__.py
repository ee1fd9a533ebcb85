"""From no answer at all to a recipe: the questions, their defaults and what speaks against them."""

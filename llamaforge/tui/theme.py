"""The program's own colours: embers on slate, with no more contrast than reading needs."""

from typing import Final

from textual.theme import Theme

FORGE: Final = Theme(
    name="forge",
    primary="#e9a15b",
    secondary="#7fb4d6",
    accent="#e9a15b",
    success="#93c47d",
    warning="#e6c15c",
    error="#e57373",
    foreground="#d8dbe0",
    background="#14171c",
    surface="#1b1f26",
    panel="#20252d",
    variables={
        "footer-key-foreground": "#e9a15b",
        "block-cursor-background": "#34404d",
        "block-cursor-foreground": "#ffffff",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#262d36",
    },
)

"""The program's own colours: embers on slate, the same on paper, and none at all."""

from typing import Final

from textual.theme import Theme

DARK: Final = Theme(
    name="forge",
    primary="#e9a15b",
    secondary="#7fb4d6",
    accent="#e9a15b",
    success="#93c47d",
    warning="#e6c15c",
    error="#ee8a8a",
    foreground="#d8dbe0",
    background="#14171c",
    surface="#1b1f26",
    panel="#20252d",
    variables={
        "footer-key-foreground": "#e9a15b",
        "block-cursor-background": "#2c3641",
        "block-cursor-foreground": "#ffffff",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#222830",
        "block-cursor-blurred-foreground": "#d8dbe0",
        "block-cursor-blurred-text-style": "none",
    },
)
LIGHT: Final = Theme(
    name="forge-light",
    primary="#9a4f0b",
    secondary="#1f5f8b",
    accent="#9a4f0b",
    success="#2f6b1f",
    warning="#7a5b00",
    error="#a32626",
    foreground="#23272e",
    background="#fbfaf7",
    surface="#f3f1ec",
    panel="#e9e6df",
    dark=False,
    variables={
        "footer-key-foreground": "#9a4f0b",
        "block-cursor-background": "#d9e4ee",
        "block-cursor-foreground": "#10141a",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#ebe8e1",
        "block-cursor-blurred-foreground": "#23272e",
        "block-cursor-blurred-text-style": "none",
    },
)
GREY: Final = Theme(
    name="forge-grey",
    primary="#ffffff",
    secondary="#ffffff",
    accent="#ffffff",
    success="#ffffff",
    warning="#ffffff",
    error="#ffffff",
    foreground="#dddddd",
    background="#000000",
    surface="#0c0c0c",
    panel="#1c1c1c",
    variables={
        "footer-key-foreground": "#ffffff",
        "block-cursor-background": "#404040",
        "block-cursor-foreground": "#ffffff",
        "block-cursor-text-style": "bold",
        "block-cursor-blurred-background": "#262626",
        "block-cursor-blurred-foreground": "#dddddd",
        "block-cursor-blurred-text-style": "none",
    },
)
"""Every colour has a mark or a word beside it, so nothing is lost here; `NO_COLOR` takes it too."""

THEMES: Final = {theme.name: theme for theme in (DARK, LIGHT, GREY)}
THEME_WORDS: Final = {
    DARK.name: "Dark colours",
    LIGHT.name: "Light colours",
    GREY.name: "No colours, high contrast",
}

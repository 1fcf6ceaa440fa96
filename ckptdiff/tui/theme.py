"""The colour themes. They run from blue to orange, which colour-blind people tell apart too."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from textual.theme import BUILTIN_THEMES, Theme

if TYPE_CHECKING:
    from collections.abc import Mapping

# Every colour is one of the 256 that terminals without 24-bit colour have. What is read has a
# contrast of at least 4.5 to 1, and of 7 to 1 in CKPTDIFF_CONTRAST.
CKPTDIFF = Theme(
    name="ckptdiff",
    primary="#5FAFFF",
    secondary="#5FD7D7",
    accent="#D787FF",
    warning="#FFAF00",
    error="#FF5F5F",
    success="#5FAFFF",
    foreground="#E4E4E4",
    background="#121212",
    surface="#1C1C1C",
    panel="#303030",
    dark=True,
    variables={"quiet": "#A8A8A8"},
)
CKPTDIFF_LIGHT = Theme(
    name="ckptdiff-light",
    primary="#005FAF",
    secondary="#005F5F",
    accent="#8700AF",
    warning="#875F00",
    error="#AF0000",
    success="#005FAF",
    foreground="#121212",
    background="#FFFFFF",
    surface="#EEEEEE",
    panel="#DADADA",
    dark=False,
    variables={"quiet": "#585858", "cursor": "#D7FFFF"},
)
CKPTDIFF_CONTRAST = Theme(
    name="ckptdiff-contrast",
    primary="#87D7FF",
    secondary="#87FFFF",
    accent="#FFAFFF",
    warning="#FFD700",
    error="#FF8787",
    success="#87D7FF",
    foreground="#FFFFFF",
    background="#000000",
    surface="#000000",
    panel="#262626",
    dark=True,
    variables={"quiet": "#D0D0D0", "cursor": "transparent", "cursor-style": "bold reverse"},
)
# The terminal's own 16 colours. Textual's accent is green there, beside a red error, and its blue
# has a contrast of 2 to 1 on black.
CKPTDIFF_16 = replace(
    BUILTIN_THEMES["ansi-dark"],
    name="ckptdiff-16",
    primary="ansi_bright_blue",
    success="ansi_bright_blue",
    accent="ansi_magenta",
)
THEMES = (CKPTDIFF, CKPTDIFF_LIGHT, CKPTDIFF_CONTRAST, CKPTDIFF_16)


def with_ours(variables: Mapping[str, str]) -> dict[str, str]:
    """Return a theme's variables, with what `app.tcss` asks for and Textual's themes lack.

    `quiet` is the colour of text that matters less, `cursor` the background of the cursor's row.
    """
    return {
        "quiet": f"{variables['foreground']} 60%",
        "cursor": f"{variables['primary']} 27%",
        "cursor-style": "bold",
        **variables,
    }

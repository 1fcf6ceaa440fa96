"""The colour themes. They run from blue to orange, which colour-blind people tell apart too."""

from __future__ import annotations

from dataclasses import replace

from textual.theme import BUILTIN_THEMES, Theme

# Every colour is one of the 256 that terminals without 24-bit colour have.
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
)
# The terminal's own 16 colours; Textual's accent is green there, beside a red error.
CKPTDIFF_16 = replace(BUILTIN_THEMES["ansi-dark"], name="ckptdiff-16", accent="ansi_magenta")

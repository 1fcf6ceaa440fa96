"""The programs that a Megatron checkpoint can be written for."""

from __future__ import annotations

from typing import Literal

Version = Literal["0.14", "0.16", "0.19", "bridge"]
DEFAULT: Version = "0.16"
PROGRAMS: dict[Version, str] = {
    "0.14": "Megatron-LM 0.14",
    "0.16": "Megatron-LM 0.16",
    "0.19": "Megatron-LM 0.19",
    "bridge": "Megatron-Bridge",
}

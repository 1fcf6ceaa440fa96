"""Plant a case's faults, ask for a diagnosis, and hold it against what was planted."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptdiff.config.compare import compare_configs
from ckptdiff.diagnosis.run import diagnose
from ckptdiff.executor import InlineExecutor
from tests.support.conversions import converted
from tests.support.corpus import CORPUS
from tests.support.fault_cases import Case, Real, Tiny
from tests.support.native import Native, Touched, snapshot, touched
from tests.support.oracle import make_megatron
from tests.support.oracle_hf import make_hf
from tests.support.pairs import compare

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.results import Finding


@dataclass
class Maker:
    """Writes sources, and checkpoints with faults planted, below one folder."""

    root: Path
    made: dict[str, tuple[Path, Path]] = field(default_factory=dict)
    count: int = 0

    def source(self, source: Tiny | Real) -> tuple[Path, Path]:
        """Return the Hugging Face folder and the sound Megatron checkpoint."""
        if isinstance(source, Real):
            return CORPUS / source.path.partition("/")[0] / "hf", CORPUS / source.path
        key = repr(source)
        if key not in self.made:
            hf = self.root / f"hf-{len(self.made)}"
            weights = make_hf(hf, **source.model)
            config = json.loads((hf / "config.json").read_text())
            folder = self.root / f"sound-{len(self.made)}"
            make_megatron(folder, weights, config, **{"divisible_by": 8, **source.layout})
            self.made[key] = hf, folder
        return self.made[key]

    def plant(self, case: Case) -> tuple[Path, Path, list[Touched]]:
        """Return the reference, the checkpoint with the faults, and what each of them touched."""
        hf, sound = self.source(case.source)
        native = Native.read(sound, trusted=isinstance(case.source, Tiny))
        found = []
        for _, plant in case.plants:
            before = snapshot(native)
            plant(native)
            found.append(touched(native, before))
        self.count += 1
        return hf, native.write(self.root / f"faulty-{self.count}"), found


def diagnosis(a: Path, b: Path) -> list[Finding]:
    found = compare(a, b)
    config = compare_configs(found.a, found.b)
    results = list(found.results.values())
    return list(diagnose(found.a, found.b, results, config, InlineExecutor()))


def check(maker: Maker, case: Case, fmt: str = "megatron", *, undo: bool = True) -> list[str]:
    """Return what is wrong with the diagnosis of a case; nothing is what is hoped for."""
    hf, faulty, places = maker.plant(case)
    if fmt != "megatron":
        other = maker.root / f"{faulty.name}-{fmt}"
        converted(faulty, other, fmt, like=hf, verify=False)  # type: ignore[arg-type]
        faulty = other
    findings = [x for x in diagnosis(hf, faulty) if x.kind != "CONFIG"]
    wrong = []
    wanted = [(kind, place) for (kind, _), place in zip(case.plants, places, strict=True) if kind]
    if case.invisible and any(place.ranks for place in places):
        wrong.append("the fault is not invisible")
    for kind, place in wanted:
        of_kind = [x for x in findings if x.kind == kind]
        if not any(_agrees(x, place, case, fmt) for x in of_kind):
            wrong.append(f"wanted {kind} {place}")
        if len(of_kind) > 1:
            wrong.append(f"{len(of_kind)} findings of {kind}")
    named = {kind for kind, _ in wanted}
    wrong += [
        f"extra {x.kind}" for x in findings
        if x.severity == "fault" and x.kind not in named and x.kind not in case.allow
    ]  # fmt: skip
    if case.said:
        config = [x for x in diagnosis(hf, faulty) if x.kind == "CONFIG"]
        if not any(case.said in x.evidence for x in config):
            wrong.append(f"{case.said} is not said: {config}")
    specs = [x.undo for x in findings if x.severity == "fault"]
    if case.mends and None in specs:
        wrong.append("no undo")
    if case.mends and undo and not wrong:
        mended = maker.root / f"{faulty.name}-mended"
        converted(faulty, mended, "hf", like=hf, undo=tuple(filter(None, specs)), verify=False)
        statuses = compare(hf, mended).statuses
        if set(statuses.values()) - ({"close"} if "DTYPE" in case.allow else set()):
            wrong.append(f"after undo: {statuses}")
    if wrong:
        wrong += [
            f"  said: {x.kind} {x.severity} L{x.layers} E{x.experts} "
            f"R{[(r.tp, r.pp, r.ep) for r in x.ranks]} {x.title} | {x.evidence}"
            for x in findings
        ]  # fmt: skip
    return wrong


def _agrees(found: Finding, place: Touched, case: Case, fmt: str) -> bool:
    ranks = {(r.tp, r.pp, r.ep) for r in found.ranks}
    if fmt == "megatron" and found.kind != "MISSING":
        # Where a second fault moved the first one's content, its files are other stages'.
        same = ranks == set(place.ranks)
        moved = len(case.plants) > 1 and {t for t, _, _ in ranks} == place.tp
        if not (same or moved):
            return False
    if fmt != "megatron" and ranks:
        return False
    return (
        found.severity == ("info" if case.is_info else "fault")
        and found.layers == place.layers
        and (found.experts == place.experts)
    )

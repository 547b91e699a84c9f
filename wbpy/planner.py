"""Turn a catalog into the ordered steps that make masters and integrations of it.

A pure function: the same frames, rules and configuration give the same bytes, on any machine and at any time.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from wbpy.config import SETTINGS, Config, GroupSettings, MatchSettings, RunSettings, memory_limit_bytes
from wbpy.errors import PlanError, RuleError
from wbpy.findings import make_finding
from wbpy.grouping import make_groups, name_token, safe_name, unique_names
from wbpy.matching import match_masters
from wbpy.model import Artifact, Estimate, Finding, Frame, Group, Match, Param, Plan, Scalar, Step
from wbpy.rules import RejectionRule, Rules
from wbpy.stages.base import Stage

if TYPE_CHECKING:
    from wbpy.catalog import Catalog

SCHEMA = 1
"""Version of the plan's JSON; raised when an older program could misread it."""

NOMINAL_WORKERS = 4
"""Workers that the estimate assumes when the configuration leaves their number to the machine: a plan must not
depend on where it is made."""

PROGRAM_MEMORY = 350_000_000
"""Bytes that the interpreter, its libraries and the compiled kernels take."""

SECONDS_PER_MEGAPIXEL = {
    "masters": 0.020,
    "calibrate": 0.006,
    "cosmetic": 0.006,
    "measure": 0.030,
    "debayer": 0.030,
    "integrate": 0.035,
}
"""Core-seconds per frame and megapixel (per plane for ``integrate``): rounded from kernel timings on one core of a
2.5 GHz server, reading included. Estimates for planning, good to a factor of two; other stages handle tables."""

PLANES = {True: 3, False: 1}
"""Planes of an integration, by whether the frames have a CFA."""


def make_plan(catalog: Catalog, out: Path, rules: Rules, config: Config, stages: Sequence[Stage]) -> Plan:
    """Return what is to be done with a catalog's frames, in order, with the reasons.

    Parameters
    ----------
    catalog : Catalog
        Frames, held-back files and the findings of the scan.
    out : Path
        Output directory; nothing is written to it here.
    rules : Rules
        Groups, matches, rejection by number of frames, wording of findings.
    config : Config
        Parameters of the stages and general settings.
    stages : sequence of Stage
        Declarations of the stages that may be used. A stage that is absent gives no steps; what would have read its
        output reads the output of the step before.

    Returns
    -------
    Plan
        Steps in an order in which every input comes before its use.

    Raises
    ------
    ConfigError
        If the configuration names a field that does not exist.
    RuleError
        If a rule of a match sets a parameter that no stage has.
    """
    held = {one.path for one in catalog.held_back}
    frames = tuple(sorted((f for f in catalog.frames if f.role and f.path not in held), key=lambda f: f.path))
    groups, grouping = make_groups(frames, rules, config.section("group", GroupSettings))
    matches, matching = match_masters(groups, rules, config.section("match", MatchSettings))
    builder = _Builder(Path(os.path.abspath(out)), rules, config, stages, frames, groups, matches)
    builder.build()
    findings = (*catalog.findings, *grouping, *matching, *builder.findings)
    return Plan(
        schema=SCHEMA,
        wbpy=_version(),
        out=str(builder.out),
        frames=frames,
        groups=groups,
        matches=matches,
        steps=tuple(builder.steps),
        held_back=tuple(sorted(catalog.held_back, key=lambda one: (one.path, one.finding))),
        findings=findings,
        settings={name: config.params(name) for name in SETTINGS},
        estimate=builder.estimate(),
    )


class _Builder:
    """Collects the steps of one plan."""

    def __init__(
        self,
        out: Path,
        rules: Rules,
        config: Config,
        stages: Sequence[Stage],
        frames: Sequence[Frame],
        groups: Sequence[Group],
        matches: Sequence[Match],
    ) -> None:
        self.out, self.rules, self.config = out, rules, config
        self.stages = {stage.name: stage for stage in stages}
        self.frames = {frame.path: frame for frame in frames}
        self.groups = {group.id: group for group in groups}
        self.matches: dict[str, dict[str, Match]] = defaultdict(dict)
        for match in matches:
            self.matches[match.subject][match.role] = match
        self.steps: list[Step] = []
        self.findings: list[Finding] = []

    def build(self) -> None:
        """Fill `steps` and `findings`."""
        lights = [g for g in self.groups.values() if g.kind == "calibration" and g.role == "light"]
        if not self.groups:
            self._find("PLN005", str(self.out))
        elif not lights:
            self._find("PLN004", str(self.out))
        users = self._users(lights)
        self._masters(users)
        ends = {group.id: self._light_steps(group) for group in lights}
        home = {path: group.id for group in lights for path in group.frames}
        transforms: dict[str, str] = {}
        for group in self.groups.values():
            if group.kind == "registration":
                step = self._register(group, self._sources(group, home, ends, "stars"))
                if step is not None:
                    transforms |= dict.fromkeys(group.frames, step)
        stacks = [group for group in self.groups.values() if group.kind == "integration"]
        names = self._integration_names(stacks)
        for group in stacks:
            registers = tuple(dict.fromkeys(transforms[path] for path in group.frames if path in transforms))
            stars = self._sources(group, home, ends, "stars")
            images = self._sources(group, home, ends, "image")
            self._integrate(group, names[group.id], images, stars, registers)

    def estimate(self) -> Estimate:
        """Return what the steps will cost; see the constants of this module for what it rests on."""
        settings = self.config.section("run", RunSettings)
        workers = settings.workers or NOMINAL_WORKERS
        read = written = 0
        core_seconds = 0.0
        working = 0
        for step in self.steps:
            group = self.groups[step.group]
            frames = [self.frames[path] for path in group.frames]
            pixels = [(f.width or 0) * (f.height or 0) for f in frames]
            planes = PLANES[group.key.get("cfa") is not None]
            largest = max(frames, key=lambda f: (f.width or 0) * (f.height or 0))
            working = max(working, self.stages[step.stage].memory(largest.height or 0, largest.width or 0))
            if step.stage == "masters":
                # Flats are read twice: once for their levels.
                read += sum(f.size for f in frames) * (2 if group.role == "flat" else 1)
                written += 4 * max(pixels)
            elif step.stage == "calibrate":
                read += sum(f.size for f in frames)
                written += 4 * sum(pixels) * (1 + sum(kind in settings.keep for kind in ("calibrated", "cosmetic")))
            elif step.stage == "integrate":
                read += 4 * sum(pixels)
                # The product, two rejection maps, and what is kept of each frame.
                written += 3 * 4 * max(pixels) * planes
                written += 4 * sum(pixels) * planes * sum(kind in settings.keep for kind in ("debayered", "registered"))
            rate = SECONDS_PER_MEGAPIXEL.get(step.stage, 0.0) * (planes if step.stage == "integrate" else 1)
            core_seconds += rate * sum(pixels) / 1e6
        peak = PROGRAM_MEMORY + workers * working
        if settings.memory_limit != "auto":
            peak = min(peak, memory_limit_bytes(settings.memory_limit))
        return Estimate(
            bytes_read=read,
            bytes_written=written,
            peak_memory=peak if self.steps else 0,
            seconds=round(core_seconds / workers, 1),
        )

    def _find(self, id: str, subject: str, **evidence: Scalar) -> None:
        self.findings.append(make_finding(self.rules, id, subject, **evidence))

    def _users(self, lights: Sequence[Group]) -> dict[str, list[str]]:
        """Return calibration group -> groups that need its master: the lights' choices, then those of their flats."""
        users: dict[str, list[str]] = defaultdict(list)
        subjects = list(lights) or [g for g in self.groups.values() if not g.is_master]
        if not lights:
            users |= {group.id: [] for group in subjects}
        seen: set[str] = set()
        while subjects:
            subject = subjects.pop(0)
            if subject.id in seen:
                continue
            seen.add(subject.id)
            for match in self.matches[subject.id].values():
                if match.chosen is not None:
                    users[match.chosen].append(subject.id)
                    subjects.append(self.groups[match.chosen])
        return dict(users)

    def _masters(self, users: Mapping[str, Sequence[str]]) -> None:
        calibration = [g for g in self.groups.values() if g.kind == "calibration" and g.role != "light"]
        for group in calibration:
            if group.id not in users:
                self._find("PLN001", group.id, frames=len(group.frames))
        wanted = [group for group in calibration if group.id in users and not group.is_master]
        if "masters" not in self.stages:
            return
        # Flats last: they need the others.
        wanted.sort(key=lambda g: (("bias", "dark", "flat_dark", "flat").index(g.role), g.id))
        names = unique_names(
            [self._master_name(group) for group in wanted],
            [group.key for group in wanted],
            [group.frames[0] for group in wanted],
            "_",
        )
        fewest = int(self.rules.findings["PLN002"].limits["frames"])
        for group, name in zip(wanted, names, strict=True):
            inputs = {"frames": (group.id,)}
            sets: dict[str, Param] = {}
            for role in ("flat_dark", "bias"):
                match = self.matches[group.id].get(role)
                if match is not None and match.chosen is not None:
                    inputs[self.groups[match.chosen].role] = (self._provider(match.chosen),)
                    sets |= self._sets(match)
            count = len(group.frames)
            if count < fewest:
                share = 1 / math.sqrt(count)
                self._find("PLN002", group.id, frames=count, noise_share=f"{share:.0%}", recommended=fewest)
            rows = self.rules.integration.flats if group.role == "flat" else self.rules.integration.masters
            which = "flats" if group.role == "flat" else "masters"
            needed = users[group.id]
            purpose = (
                f"needed by {_listing(needed)}" if needed else "there are no lights to say which masters are needed"
            )
            self._add(
                "masters",
                group,
                inputs,
                why=f"{_count(count, group.role.replace('_', '-') + ' frame')} become one master, {purpose}.",
                params=self._rejection("masters", rows, which, count) | self._params_of("masters", sets),
                outputs=(Artifact(name="master", kind=f"master_{group.role}", path=str(self._path("masters", name))),),
            )

    def _light_steps(self, group: Group) -> dict[str, str | None]:
        """Add the per-light steps of one calibration group; return the ids that give its images and its stars."""
        chosen = {role: match for role, match in self.matches[group.id].items() if match.chosen is not None}
        providers: dict[str, tuple[str, ...]] = {
            role: (self._provider(match.chosen or ""),) for role, match in chosen.items()
        }
        sets: dict[str, Param] = {}
        for match in chosen.values():
            sets |= self._sets(match)
        lights = _count(len(group.frames), "light")
        with_what = _listing([f"{role} {chosen[role].chosen}" for role in providers]) or "no master: none matches"
        image: str | None = self._add(
            "calibrate",
            group,
            {"light": (group.id,), **providers},
            why=f"{lights} calibrated with {with_what}.",
            params=self._params_of("calibrate", sets),
        )
        dark = {"dark": providers["dark"]} if "dark" in providers else {}
        image = (
            self._add(
                "cosmetic",
                group,
                {"image": (image or group.id,), **dark},
                why=f"{lights} still hold hot and cold pixels, which registration would spread.",
                params=self._params_of("cosmetic", sets),
            )
            or image
        )
        stars = self._add(
            "measure",
            group,
            {"image": (image or group.id,)},
            why=f"Reference, registration, normalization and weights need the stars and the noise of {lights}.",
            params=self._params_of("measure", sets),
        )
        return {"image": image or group.id, "stars": stars}

    def _register(self, group: Group, stars: tuple[str, ...]) -> str | None:
        target = group.key.get("object") or "one nameless target"
        lights = _count(len(group.frames), "light")
        reference = self._add(
            "reference", group, {"stars": stars}, why=f"{lights} of {target} need one frame that the others follow."
        )
        return self._add(
            "register",
            group,
            {"stars": stars, "reference": (reference,) if reference else ()},
            why=f"{lights} of {target} are shifted and turned against each other.",
        )

    def _integrate(
        self, group: Group, name: str, images: tuple[str, ...], stars: tuple[str, ...], registers: tuple[str, ...]
    ) -> None:
        count = len(group.frames)
        lights = _count(count, "light")
        normalize = self._add(
            "normalize",
            group,
            {"stars": stars, "transforms": registers},
            why=f"Sky level and transparency differ between {lights}.",
        )
        normalization = (normalize,) if normalize else ()
        weigh = self._add(
            "weigh",
            group,
            {"stars": stars, "normalization": normalization},
            why=f"The better of {lights} are to count for more.",
        )
        if group.key.get("cfa") is not None:
            debayer = self._add(
                "debayer", group, {"image": images}, why=f"{lights} hold one colour in each pixel ({group.key['cfa']})."
            )
            images = (debayer,) if debayer else images
        fewest = int(self.rules.findings["PLN003"].limits["frames"])
        if count < fewest and "integrate" in self.stages:
            self._find("PLN003", group.id, frames=count)
        outputs = (
            Artifact(name="integration", kind="integration", path=str(self._path("integrations", name))),
            Artifact(name="preview", kind="preview", path=str(self._path("integrations", name, ".png"))),
            *(
                Artifact(name=side, kind="rejection_map", path=str(self._path("integrations", f"{name}_{side}")))
                for side in ("rejection_low", "rejection_high")
            ),
        )
        inputs = {
            "image": images,
            "transforms": registers,
            "normalization": normalization,
            "weights": (weigh,) if weigh else (),
        }
        self._add(
            "integrate",
            group,
            inputs,
            why=f"{lights} of {group.key.get('object') or 'one nameless target'} become one image.",
            params=self._rejection("integrate", self.rules.integration.lights, "lights", count),
            outputs=outputs,
            frames=group.frames,
        )

    def _add(
        self,
        name: str,
        group: Group,
        inputs: Mapping[str, tuple[str, ...]],
        *,
        why: str,
        params: Mapping[str, Param] | None = None,
        outputs: tuple[Artifact, ...] | None = None,
        frames: tuple[str, ...] = (),
    ) -> str | None:
        """Append a step and return its id; None when the stage is absent. Empty inputs are left out."""
        stage = self.stages.get(name)
        if stage is None:
            return None
        step = Step(
            id=f"{name}/{group.id}",
            stage=name,
            version=stage.version,
            group=group.id,
            inputs={key: sources for key, sources in inputs.items() if sources},
            params=self.config.params(name) | dict(params or {}),
            outputs=outputs or tuple(Artifact(name=o.name, kind=o.kind) for o in stage.outputs),
            why=why,
            frames=frames,
        )
        self.steps.append(step)
        return step.id

    def _provider(self, group: str) -> str:
        """Return what provides a master: the step that makes it, or the group of a finished one."""
        return group if self.groups[group].is_master or "masters" not in self.stages else f"masters/{group}"

    def _sources(
        self, group: Group, home: Mapping[str, str], ends: Mapping[str, Mapping[str, str | None]], what: str
    ) -> tuple[str, ...]:
        """Return the steps that provide `what` of a group's lights, each once."""
        steps = (ends[home[path]][what] for path in group.frames)
        return tuple(sorted({step for step in steps if step is not None}))

    def _sets(self, match: Match) -> dict[str, Param]:
        """Return what the rung of a match fixes, as ``stage.parameter`` -> value and origin."""
        for dotted in match.sets:
            stage, _, name = dotted.partition(".")
            if stage not in self.stages or name not in self.stages[stage].params.__struct_fields__:
                raise RuleError(f"matches.toml, [[match]] {match.rule}: sets {dotted!r}, but no stage has it")
        return {dotted: Param(value=value, origin=f"rule {match.rule}") for dotted, value in match.sets.items()}

    @staticmethod
    def _params_of(stage: str, sets: Mapping[str, Param]) -> dict[str, Param]:
        return {d.partition(".")[2]: param for d, param in sets.items() if d.partition(".")[0] == stage}

    def _rejection(self, stage: str, rows: Sequence[RejectionRule], which: str, count: int) -> dict[str, Param]:
        """Return rejection and limits for `count` frames, when the configuration leaves the choice to the rules.

        Limits that the user set stay as they are.
        """
        params = self.config.params(stage)
        if "rejection" not in params or params["rejection"].value != "auto":
            return {}
        row = next((row for row in rows if row.up_to == 0 or count <= row.up_to), None)
        if row is None:
            raise RuleError(f"integration.toml, {which}: no row for {count} frames; the last one needs up_to = 0")
        limit = f"up to {row.up_to} frames" if row.up_to else "any number of frames"
        origin = f"rule integration.{which}, {limit}"
        chosen: dict[str, Any] = {"rejection": row.algorithm, "low": row.low, "high": row.high}
        return {
            name: Param(value=value, origin=origin)
            for name, value in chosen.items()
            if name in params and (name == "rejection" or params[name].origin == "default")
        }

    def _path(self, folder: str, name: str, suffix: str = ".fits") -> Path:
        return self.out / folder / f"{name}{suffix}"

    def _master_name(self, group: Group) -> str:
        key = group.key
        words = ["master", group.role]
        if group.role == "flat":
            words += [_filter_word(group), str(key.get("night") or "")]
        else:
            words.append("" if group.role == "bias" else name_token("exposure", key.get("exposure")))
        for name in ("gain", "iso", "offset"):
            value = key.get(name)
            words.append(f"{name}{value:.6g}" if isinstance(value, (int, float)) else "")
        temperature = key.get("temperature")
        if group.role != "flat" and isinstance(temperature, (int, float)):
            words.append(f"{round(temperature):d}C")
        words.append(name_token("camera", key.get("camera")))
        return "_".join(word for word in words if word)

    def _integration_names(self, groups: Sequence[Group]) -> dict[str, str]:
        bases = []
        by = self.config.section("group", GroupSettings).by
        for group in groups:
            words = [name_token("object", group.key.get("object")) or "unnamed", _filter_word(group)]
            words += [name_token(name, group.key.get(name)) for name in ("exposure", *by)]
            bases.append("_".join(word for word in dict.fromkeys(words) if word))
        names = unique_names(bases, [g.key for g in groups], [g.frames[0] for g in groups], "_")
        return {group.id: name for group, name in zip(groups, names, strict=True)}


def _filter_word(group: Group) -> str:
    name = group.key.get("filter")
    return safe_name(str(name)) if name is not None else "OSC" if group.key.get("cfa") is not None else "mono"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _listing(items: Sequence[str]) -> str:
    if len(items) > 4:
        return f"{', '.join(items[:3])} and {len(items) - 3} more"
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("wbpy")
    except PackageNotFoundError:
        return "0+checkout"


def load_plan(path: Path) -> Plan:
    """Return a plan that was saved as JSON.

    Raises
    ------
    PlanError
        If the file cannot be read, is no plan, or was written in another form of plan; the message says which.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        schema = msgspec.json.decode(content, type=_Schema).schema
    except msgspec.DecodeError as error:
        raise PlanError(f"{path}: not a plan of wbpy: {error}") from error
    if schema != SCHEMA:
        raise PlanError(f"{path}: has plan schema {schema}, this version reads {SCHEMA}. Make the plan again")
    try:
        return msgspec.json.decode(content, type=Plan)
    except msgspec.DecodeError as error:
        raise PlanError(f"{path}: not a complete plan: {error}. Make the plan again") from error


class _Schema(msgspec.Struct):
    schema: int


def check_inputs(plan: Plan) -> list[str]:
    """Return the paths of frames that are missing, or whose size or modification time changed since the scan."""
    return [frame.path for frame in plan.frames if _changed(frame)]


def _changed(frame: Frame) -> bool:
    try:
        found = os.stat(frame.path)
    except OSError:
        return True
    return (found.st_size, found.st_mtime_ns) != (frame.size, frame.modified_ns)

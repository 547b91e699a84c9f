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

from wbpy import costs
from wbpy.config import (
    SETTINGS,
    Config,
    GroupSettings,
    MatchSettings,
    OverscanSettings,
    PinSettings,
    RunSettings,
)
from wbpy.errors import ConfigError, PlanError, RuleError
from wbpy.findings import make_finding
from wbpy.grouping import make_groups, name_token, safe_name, scopes, unique_names, user_keywords
from wbpy.matching import PIN, match_masters, unneeded
from wbpy.model import (
    Artifact,
    Estimate,
    Finding,
    Frame,
    Group,
    HeldBack,
    Match,
    Param,
    Plan,
    Scalar,
    Step,
    reason_text,
)
from wbpy.rules import RejectionRule, Rules, find_sensor
from wbpy.selecting import parse_exclusion
from wbpy.stages import crop, overscan, rgb
from wbpy.stages.base import Stage
from wbpy.stages.debayer import BAYER_LETTERS, BAYER_ONLY
from wbpy.stages.rgb import RgbParams

if TYPE_CHECKING:
    from wbpy.catalog import Catalog

SCHEMA = 1
"""Version of the plan's JSON; raised when an older program could misread it."""


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
        If the configuration names a field, group or file that does not exist, or a pin breaks what must be equal.
    RuleError
        If a rule of a match sets a parameter that no stage has.
    """
    held = {one.path for one in catalog.held_back}
    frames = tuple(sorted((f for f in catalog.frames if f.role and f.path not in held), key=lambda f: f.path))
    by, pins = config.section("group", GroupSettings), config.section("pins", PinSettings)
    frames, excluded, excluding = _without_excluded(frames, pins, user_keywords(by), rules)
    overscan_settings = config.section("overscan", OverscanSettings)
    _check_overscan(overscan_settings, frames)
    if overscan_settings.use != "off":
        frames = tuple(_of_whole_size(frame) for frame in frames)
    groups, grouping = make_groups(frames, rules, by)
    matches, matching = match_masters(
        groups,
        _with_bias_rungs(rules, config),
        config.section("match", MatchSettings),
        by=scopes(by.by, "group.by"),
        pins=pins,
        parameters={f"{stage.name}.{name}" for stage in stages for name in stage.params.__struct_fields__},
    )
    builder = _Builder(Path(os.path.abspath(out)), rules, config, stages, frames, groups, matches)
    builder.build()
    findings = (*catalog.findings, *excluding, *grouping, *matching, *builder.findings)
    return Plan(
        schema=SCHEMA,
        wbpy=_version(),
        out=str(builder.out),
        frames=frames,
        groups=groups,
        matches=matches,
        steps=tuple(builder.steps),
        held_back=tuple(sorted((*catalog.held_back, *excluded), key=lambda one: (one.path, one.finding))),
        findings=findings,
        settings={name: config.params(name) for name in SETTINGS},
        estimate=builder.estimate(),
    )


def _check_overscan(settings: OverscanSettings, frames: Sequence[Frame]) -> None:
    """Raise when the overscan's rectangles are no rectangles or would change the CFA pattern of a frame."""
    if settings.use != "regions":
        return
    image = overscan.from_settings(settings.regions, settings.image).image
    period = max((math.isqrt(len(frame.cfa)) for frame in frames if frame.cfa is not None), default=1)
    if image.x0 % period or image.y0 % period:
        raise ConfigError(
            f"overscan.image begins at x {image.x0}, y {image.y0}; the CFA of these frames needs multiples of {period}"
        )


def _of_whole_size(frame: Frame) -> Frame:
    """Return a master whose frames had overscan with their size, as which it fits frames that have it still."""
    if not frame.is_master or frame.whole_width is None or frame.whole_height is None:
        return frame
    return msgspec.structs.replace(frame, width=frame.whole_width, height=frame.whole_height)


def _scales_darks(params: Mapping[str, Param]) -> bool:
    return any(name in params and params[name].value for name in ("optimize_dark", "scale_dark"))


def _with_bias_rungs(rules: Rules, config: Config) -> Rules:
    """Return the rules, when darks are to be scaled without those that spare the lights a bias beside their dark."""
    if "calibrate" not in config.sections or not _scales_darks(config.params("calibrate")):
        return rules
    kept = [r for r in rules.matches if (r.subject, r.role) != ("light", "bias") or r.candidates or not r.when_chosen]
    return msgspec.structs.replace(rules, matches=tuple(kept))


def _without_excluded(
    frames: Sequence[Frame], pins: PinSettings, keywords: Sequence[str], rules: Rules
) -> tuple[tuple[Frame, ...], list[HeldBack], list[Finding]]:
    """Return the frames that no exclusion selects, those that one does, and what is to be told about them."""
    kept = tuple(frames)
    held: list[HeldBack] = []
    findings: list[Finding] = []
    for condition in pins.exclude:
        selects = parse_exclusion(condition, frames, keywords)
        out = [frame for frame in kept if selects(frame)]
        gone = {frame.path for frame in out}
        kept = tuple(frame for frame in kept if frame.path not in gone)
        if not out and not any(selects(frame) for frame in frames):
            findings.append(make_finding(rules, "PLN007", "pins.exclude", condition=condition))
        for frame in out:
            held.append(HeldBack(path=frame.path, finding="PLN006"))
            name = os.path.basename(frame.path)
            findings.append(make_finding(rules, "PLN006", frame.path, name=name, condition=condition))
    return kept, held, findings


_GRIDS = {
    "min": "The part of the sky that all lights show",
    "max": "All of the sky that any light shows",
    "cog": "The part of the sky around the mean of the lights' centres",
}
"""What a grid of `framing` is, in words."""


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
        self._judge_bias()
        self._masters(users)
        ends = {group.id: self._light_steps(group) for group in lights}
        home = {path: group.id for group in lights for path in group.frames}
        stacks = [group for group in self.groups.values() if group.kind == "integration"]
        approvals = {path: step for group in stacks for path, step in self._approve(group, home, ends).items()}
        transforms: dict[str, str] = {}
        for group in self.groups.values():
            if group.kind == "registration":
                judged = tuple(sorted({approvals[path] for path in group.frames if path in approvals}))
                step = self._register(group, self._sources(group, home, ends, "stars"), judged)
                if step is not None:
                    transforms |= dict.fromkeys(group.frames, step)
        names = self._integration_names(stacks)
        for group in stacks:
            registers = tuple(dict.fromkeys(transforms[path] for path in group.frames if path in transforms))
            stars = self._sources(group, home, ends, "stars")
            images = self._sources(group, home, ends, "image")
            self._integrate(group, names[group.id], images, stars, registers)
        registrations = [group for group in self.groups.values() if group.kind == "registration"]
        grids = [(group, [stack for stack in stacks if stack.frames[0] in group.frames]) for group in registrations]
        for group, members in grids:
            self._crop(group, members)
        self._colours(grids)

    def estimate(self) -> Estimate:
        """Return what the steps will cost."""
        settings = self.config.section("run", RunSettings)
        return costs.estimate(self.steps, self.groups, self.frames, self.stages, settings)

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

    def _judge_bias(self) -> None:
        """Tell what the headers say against bias frames (guide, section 4.1)."""
        longest = self.rules.findings["MAT016"].limits["seconds"]
        for group in self.groups.values():
            if group.role != "bias":
                continue
            camera, exposure = group.key.get("camera"), self.frames[group.frames[0]].exposure
            sensor = find_sensor(self.rules, camera if isinstance(camera, str) else None)
            if sensor is not None and "unstable_bias" in sensor.traits:
                self._find("MAT015", group.id, camera=camera, sensor=sensor.id)
            if exposure is not None and exposure > longest:
                self._find("MAT016", group.id, exposure_s=exposure)

    def _judge_flats(self, group: Group) -> None:
        """Tell when flats that may hold dark signal are calibrated with a bias (guide, section 4.3)."""
        exposures = [exposure for path in group.frames if (exposure := self.frames[path].exposure) is not None]
        # Of twilight flats, whose exposures differ, the middle one counts.
        typical = sorted(exposures)[len(exposures) // 2] if exposures else 0.0
        if typical > self.rules.findings["MAT017"].limits["seconds"]:
            self._find("MAT017", group.id, exposure_s=typical)

    def _by_hand(self, subject: str) -> tuple[str, ...]:
        """Return what was decided by hand about the masters of a group, for the headers."""
        told = []
        for role, match in self.matches[subject].items():
            if match.rule == PIN:
                broken = [r for c in match.candidates[:1] for r in c.reasons if match.chosen and r.verdict == "fail"]
                against = f" although {'; '.join(map(reason_text, broken))}" if broken else ""
                told.append(f"{role} {match.chosen or 'none'} for {subject}{against}")
        return tuple(told)

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
            if group.role == "flat" and "bias" in inputs:
                self._judge_flats(group)
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
                params=self._rejection("masters", rows, which, count, group.id) | self._params_of("masters", sets),
                notes=self._by_hand(group.id),
                outputs=(Artifact(name="master", kind=f"master_{group.role}", path=str(self._path("masters", name))),),
            )

    def _calibrate_params(self, sets: Mapping[str, Param]) -> dict[str, Param]:
        if "calibrate" not in self.stages:
            return {}
        return self.config.params("calibrate") | self._params_of("calibrate", sets)

    def _light_steps(self, group: Group) -> dict[str, str | None]:
        """Add the per-light steps of one calibration group; return the ids that give its images and its stars."""
        chosen = {role: match for role, match in self.matches[group.id].items() if match.chosen is not None}
        sets: dict[str, Param] = {}
        for match in chosen.values():
            sets |= self._sets(match)
        if "dark" in chosen:
            sets |= self._unscaled(group, sets)
        if "dark" in chosen and "bias" in chosen and not _scales_darks(self._calibrate_params(sets)):
            bias = chosen.pop("bias")
            if bias.rule == PIN:
                self.findings.append(unneeded(self.rules, bias, f"--use bias={bias.chosen}", "The dark is not scaled."))
        providers: dict[str, tuple[str, ...]] = {
            role: (self._provider(match.chosen or ""),) for role, match in chosen.items()
        }
        if "dark" in chosen and "bias" not in chosen and _scales_darks(self._calibrate_params(sets)):
            self._find("CAL005", group.id, dark=chosen["dark"].chosen)
        lights = _count(len(group.frames), "light")
        with_what = _listing([f"{role} {chosen[role].chosen}" for role in providers]) or "no master: none matches"
        image: str | None = self._add(
            "calibrate",
            group,
            {"light": (group.id,), **providers},
            why=f"{lights} calibrated with {with_what}.",
            params=self._params_of("calibrate", sets),
            notes=self._by_hand(group.id),
        )
        if "linedefects" in self.stages and self.config.params("linedefects")["use"].value:
            image = self._add(
                "linedefects",
                group,
                {"image": (image or group.id,)},
                why=f"Defective columns and rows, found in the average of {lights}, are to be corrected.",
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

    def _unscaled(self, group: Group, sets: Mapping[str, Param]) -> dict[str, Param]:
        """Return what takes the scaling of darks back that a preset asks for on a sensor that glows; report it.

        What was asked for by hand stays, with the same finding (guide, section 7.2).
        """
        camera = group.key.get("camera")
        sensor = find_sensor(self.rules, camera if isinstance(camera, str) else None)
        if sensor is None or "glow" not in sensor.traits:
            return {}
        params = self._calibrate_params(sets)
        asked = [name for name in ("optimize_dark", "scale_dark") if name in params and params[name].value]
        back = [name for name in asked if params[name].origin.startswith("preset")]
        if asked:
            done = "it is not scaled" if back == asked else f"it is scaled because of {params[asked[0]].origin}"
            self._find("MAT018", group.id, camera=camera, sensor=sensor.id, done=done)
        return {f"calibrate.{name}": Param(value=False, origin=f"rule sensors.{sensor.id}") for name in back}

    def _approve(
        self, group: Group, home: Mapping[str, str], ends: Mapping[str, Mapping[str, str | None]]
    ) -> dict[str, str]:
        """Add the judgement of an integration's lights; return which step judges each of them."""
        step = self._add(
            "approve",
            group,
            {"stars": self._sources(group, home, ends, "stars")},
            why=f"Clouds, guiding, focus and sky may have spoilt some of {_count(len(group.frames), 'light')}.",
        )
        return dict.fromkeys(group.frames, step) if step is not None else {}

    def _register(self, group: Group, stars: tuple[str, ...], approvals: tuple[str, ...]) -> str | None:
        target = group.key.get("target") or "one nameless target"
        lights = _count(len(group.frames), "light")
        reference = self._add(
            "reference",
            group,
            {"stars": stars, "approval": approvals},
            why=f"{lights} of {target} need one frame that the others follow.",
        )
        references = (reference,) if reference else ()
        registered = self._add(
            "register",
            group,
            {"stars": stars, "reference": references},
            why=f"{lights} of {target} are shifted and turned against each other.",
        )
        grid = self.config.params("framing")["grid"].value if "framing" in self.stages else "reference"
        if grid == "reference":
            return registered
        return self._add(
            "framing",
            group,
            {"transforms": (registered,) if registered else (), "reference": references},
            why=f"{_GRIDS[grid]} was asked for instead of the reference's own grid.",
        )

    def _integrate(
        self, group: Group, name: str, images: tuple[str, ...], stars: tuple[str, ...], registers: tuple[str, ...]
    ) -> None:
        count = len(group.frames)
        lights = _count(count, "light")
        self._check_normalize()
        normalize = self._add(
            "normalize",
            group,
            {"stars": stars, "image": images, "transforms": registers},
            why=f"Sky level and transparency differ between {lights}.",
        )
        normalization = (normalize,) if normalize else ()
        weigh = self._add(
            "weigh",
            group,
            {"stars": stars, "normalization": normalization},
            why=f"The better of {lights} are to count for more.",
        )
        mosaics = images
        if group.key.get("cfa") is not None:
            debayer = self._add(
                "debayer", group, {"image": images}, why=f"{lights} hold one colour in each pixel ({group.key['cfa']})."
            )
            images = (debayer,) if debayer else images
            self._check_debayer(group)
        fewest = int(self.rules.findings["PLN003"].limits["frames"])
        if count < fewest and "integrate" in self.stages:
            self._find("PLN003", group.id, frames=count)
        maps = {"rejection_low": "rejection_map", "rejection_high": "rejection_map"} | dict.fromkeys(
            self._maps(), "map"
        )
        if self._suffix() == ".xisf":
            # They are further images of the pictures' files.
            maps = {}
        outputs = (
            *(
                Artifact(
                    name=f"integration{channel}",
                    kind="integration",
                    path=str(self._path("integrations", f"{name}{channel}", self._suffix())),
                )
                for channel in self._channels(group)
            ),
            Artifact(name="preview", kind="preview", path=str(self._path("integrations", name, ".png"))),
            *(
                Artifact(name=wanted, kind=kind, path=str(self._path("integrations", f"{name}_{wanted}")))
                for wanted, kind in maps.items()
            ),
        )
        inputs = {
            "image": images,
            "transforms": registers,
            "normalization": normalization,
            "weights": (weigh,) if weigh else (),
        }
        integration = self._add(
            "integrate",
            group,
            inputs,
            why=f"{lights} of {group.key.get('target') or 'one nameless target'} become one image.",
            params=self._rejection("integrate", self.rules.integration.lights, "lights", count, group.id),
            outputs=outputs,
            frames=group.frames,
        )
        if integration is not None and "drizzle" in self.stages and self.config.params("drizzle")["use"].value:
            self._drizzle(group, name, inputs | {"image": mosaics, "integration": (integration,)})
        if integration is not None and "photometry" in self.stages and self.config.params("photometry")["use"].value:
            self._add(
                "photometry",
                group,
                {"integration": (integration,)},
                why="A catalogue of the stars serves to calibrate, to compare and to solve the picture.",
                outputs=tuple(
                    Artifact(
                        name=one,
                        kind="star_catalogue",
                        path=str(self._path("integrations", f"{name}_stars", suffix)),
                    )
                    for one, suffix in (("stars", ".csv"), ("stars_ecsv", ".ecsv"))
                ),
            )

    def _check_normalize(self) -> None:
        """Raise for a scale with two sides where nothing has two.

        Raises
        ------
        ConfigError
            If the method or the scale has one side only, or a drizzle would have to take one scale for two.
        """
        method, scale, sided = (
            self.config.params("normalize")[name].value for name in ("method", "scale", "two_sided")
        )
        if sided and (scale == "stars" or method not in ("additive_scaling", "adaptive")):
            raise ConfigError(
                f"normalize.two_sided needs normalize.method additive_scaling or adaptive and a normalize.scale from a "
                f"spread; they are {method} and {scale}"
            )
        if (sided or method == "adaptive") and "drizzle" in self.stages and self.config.params("drizzle")["use"].value:
            raise ConfigError(
                "drizzle.use is true and the normalization is two-sided or adaptive: a drizzle takes one scale for a "
                "channel. Choose another normalize.method, or leave the drizzle out"
            )

    def _check_debayer(self, group: Group) -> None:
        """Report a method that does not fit the mosaic, raise for one that does not fit the other settings."""
        method = self.config.params("debayer")["method"].value
        if len(str(group.key["cfa"])) != BAYER_LETTERS and method in BAYER_ONLY:
            self._find("DEB001", group.id, method=method)
        if method == "superpixel" and "drizzle" in self.stages and self.config.params("drizzle")["use"].value:
            raise ConfigError(
                "debayer.method is superpixel and drizzle.use is true: a drizzle works on single pixels of the mosaic. "
                "Leave one of them out"
            )

    def _drizzle(self, group: Group, name: str, inputs: Mapping[str, tuple[str, ...]]) -> None:
        params = self.config.params("drizzle")
        scale = params["scale"].value
        finer = f"{name}_drizzle_{scale}x"
        outputs = [
            *(
                Artifact(
                    name=f"drizzle{channel}",
                    kind="drizzle",
                    path=str(self._path("integrations", f"{finer}{channel}", self._suffix())),
                )
                for channel in self._channels(group)
            ),
            Artifact(name="drizzle_preview", kind="preview", path=str(self._path("integrations", finer, ".png"))),
        ]
        if self._suffix() != ".xisf":
            path = self._path("integrations", f"{finer}_weight")
            outputs.append(Artifact(name="drizzle_weight", kind="map", path=str(path)))
        grid = f"a grid {scale} times finer" if scale > 1 else "the grid of the integration without interpolation"
        self._add(
            "drizzle",
            group,
            inputs,
            why=f"{params['use'].origin} asks for {_count(len(group.frames), 'light')} to be dropped onto {grid}.",
            outputs=tuple(outputs),
            frames=group.frames,
        )

    def _pictures(self, stacks: Sequence[Group], stage: str) -> list[tuple[Step, Artifact]]:
        """Return the pictures of some integrations that one stage makes, with the steps that make them."""
        ids = [stack.id for stack in stacks]
        steps = [step for step in self.steps if step.stage == stage and step.group in ids]
        return [(step, output) for step in steps for output in step.outputs if output.kind == crop.PICTURES[stage]]

    def _crop(self, group: Group, stacks: Sequence[Group]) -> None:
        """Add the crop of all pictures of one grid."""
        pictures = {name: self._pictures(stacks, stage) for stage, name in crop.PICTURES.items()}
        made = [output for found in pictures.values() for _, output in found]
        if not made or "crop" not in self.stages or not self.config.params("crop")["use"].value:
            return
        self._add(
            "crop",
            group,
            {name: tuple(dict.fromkeys(step.id for step, _ in found)) for name, found in pictures.items()},
            why=f"Not all lights reach the edges of {_count(len(made), 'picture')}.",
            outputs=tuple(
                Artifact(name=Path(output.path or "").stem, kind=f"{output.kind}{crop.CROPPED}", path=_cropped(output))
                for output in made
            ),
        )

    def _colours(self, grids: Sequence[tuple[Group, Sequence[Group]]]) -> None:
        """Add the pictures in colour of all grids, and tell where one could be expected but cannot be made."""
        params = self.config.section("rgb", RgbParams) if "rgb" in self.stages else RgbParams(use=False)
        if not params.use or "integrate" not in self.stages:
            return
        found = [(group, rgb.colour_sets(params, members)) for group, members in grids]
        sets = [(group, one) for group, sets in found for one in sets.sets]
        words = [
            [name_token("target", one.red.key.get("target")) or "unnamed", one.word, *self._shared(one)]
            for _, one in sets
        ]
        names = unique_names(
            ["_".join(filter(None, dict.fromkeys(parts))) for parts in words],
            [one.red.key for _, one in sets],
            [one.red.frames[0] for _, one in sets],
            "_",
        )
        for group, _ in grids:
            own = [(one, name) for (owner, one), name in zip(sets, names, strict=True) if owner is group]
            if own:
                self._combine(group, own)
        self._judge_colours(params, grids, {group.id: sets for group, sets in found})

    @staticmethod
    def _shared(one: rgb.ColourSet) -> list[str]:
        """Return the exposure for the name of a picture in colour, where all of its integrations have the same."""
        exposures = {group.key.get("exposure") for group in one.members}
        return [name_token("exposure", exposures.pop())] if len(exposures) == 1 else []

    def _combine(self, group: Group, sets: Sequence[tuple[rgb.ColourSet, str]]) -> None:
        """Add the pictures in colour of one grid: of each set one in every form in which its integrations come."""
        outputs: list[Artifact] = []
        cropped = any(step.id == f"crop/{group.id}" for step in self.steps)
        for one, name in sets:
            for stage in crop.PICTURES:
                pictures = self._pictures([one.red], stage)
                if not pictures:
                    continue
                _, source = pictures[0]
                base = next(iter(self._pictures([one.red], "integrate")))[1]
                # What a drizzle adds to the name of the integration, it adds to this one, too.
                stem = name + Path(source.path or "").stem.removeprefix(Path(base.path or "").stem)
                kind = "rgb" if stage == "integrate" else f"rgb_{source.kind}"
                plain = Artifact(name=stem, kind=kind, path=str(self._path("integrations", stem, self._suffix())))
                outputs.append(plain)
                if cropped:
                    path = _cropped(plain)
                    outputs.append(Artifact(name=Path(path).stem, kind=f"{kind}{crop.CROPPED}", path=path))
            preview = str(self._path("integrations", name, ".png"))
            outputs.append(Artifact(name=f"{name}_preview", kind="preview", path=preview))
        colours = ("red", "green", "blue", "luminance")
        inputs = {
            colour: tuple(f"integrate/{one.members[n].id}" for one, _ in sets if n < len(one.members))
            for n, colour in enumerate(colours)
        }
        drizzled = [step.id for one, _ in sets for step, _ in self._pictures(one.members, "drizzle")]
        inputs["drizzle"] = tuple(dict.fromkeys(drizzled))
        inputs["autocrop"] = (f"crop/{group.id}",) if cropped else ()
        filters = _listing(list(dict.fromkeys(str(member.key["filter"]) for member in sets[0][0].members)))
        why = f"{filters} of {group.key.get('target') or 'one nameless target'} lie on one grid."
        self._add("rgb", group, inputs, why=why, outputs=tuple(outputs))

    def _judge_colours(
        self,
        params: RgbParams,
        grids: Sequence[tuple[Group, Sequence[Group]]],
        found: Mapping[str, rgb.ColourSets],
    ) -> None:
        """Tell which pictures in colour cannot be made: a filter is missing, elsewhere, or there more than once."""
        wanted = [params.red, params.green, params.blue]
        for group, members in grids:
            sets = found[group.id]
            here = {str(stack.key.get("filter")) for stack in members}
            if sets.several:
                self._find("RGB003", group.id, filters=_listing(sets.several))
                continue
            elsewhere = [
                other.id
                for other, stacks in grids
                if other is not group
                and (other.key.get("target"), other.key.get("panel"))
                == (group.key.get("target"), group.key.get("panel"))
                and any(stack.key.get("filter") in wanted and str(stack.key["filter"]) not in here for stack in stacks)
            ]
            present = [name for name in dict.fromkeys(wanted) if name in here]
            if not sets.sets and present and elsewhere:
                self._find("RGB002", group.id, filters=_listing(present), others=_listing(elsewhere))
            elif sets.missing:
                self._find("RGB001", group.id, filters=_listing(present), missing=_listing(sets.missing))

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
        notes: tuple[str, ...] = (),
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
            notes=notes,
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

    def _rejection(
        self, stage: str, rows: Sequence[RejectionRule], which: str, count: int, subject: str
    ) -> dict[str, Param]:
        """Return rejection and limits for `count` frames as far as the configuration leaves them to the rules.

        Limits that the user set stay as they are. A named algorithm takes its own limits; with too few frames for it
        a finding says so.
        """
        params = self.config.params(stage)
        if "rejection" not in params:
            return {}
        named = str(params["rejection"].value)
        if named == "auto":
            row = next((row for row in rows if row.up_to == 0 or count <= row.up_to), None)
            if row is None:
                raise RuleError(f"integration.toml, {which}: no row for {count} frames; the last one needs up_to = 0")
            limit = f"up to {row.up_to} frames" if row.up_to else "any number of frames"
            origin = f"rule integration.{which}, {limit}"
            chosen: dict[str, Any] = {"rejection": row.algorithm, "low": row.low, "high": row.high}
        else:
            own = self.rules.integration.algorithms[named]
            origin = f"rule integration.algorithms, {named}"
            chosen = {"low": own.low, "high": own.high}
            if count < own.frames:
                self._find("INT006", subject, algorithm=named, frames=count, recommended=own.frames, reason=own.reason)
        resolved = {
            name: Param(value=value, origin=origin)
            for name, value in chosen.items()
            if name in params and (name == "rejection" or params[name].origin == "default")
        }
        final = {name: param.value for name, param in (params | resolved).items()}
        if final["rejection"] == "esd" and not (final["low"] > 0 and 0 < final["high"] < 1):
            raise ConfigError(
                f"{stage}.low is {final['low']} and {stage}.high {final['high']}; rejection esd expects low above 0 "
                f"(what deviations below the mean are divided by) and high, its significance, between 0 and 1"
            )
        return resolved

    def _maps(self) -> Sequence[str]:
        """Return the names of the maps that the configuration asks for beside the rejection maps."""
        params = self.config.params("integrate")
        return params["maps"].value if "maps" in params else ()

    def _channels(self, group: Group) -> tuple[str, ...]:
        """Return what is added to the name of each picture of an integration: nothing, or its colour."""
        params = self.config.params("integrate")
        wanted = params["channels"].value if "channels" in params and group.key.get("cfa") is not None else "combined"
        separate = ("_R", "_G", "_B")
        return {"combined": ("",), "separate": separate, "both": ("", *separate)}[wanted]

    def _suffix(self) -> str:
        return f".{self.config.section('run', RunSettings).format}"

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
        by = scopes(self.config.section("group", GroupSettings).by, "group.by").get("integration", ())
        for group in groups:
            words = [name_token("target", group.key.get("target")) or "unnamed", _filter_word(group)]
            words += [name_token(name, group.key.get(name)) for name in ("exposure", *by)]
            bases.append("_".join(word for word in dict.fromkeys(words) if word))
        names = unique_names(bases, [g.key for g in groups], [g.frames[0] for g in groups], "_")
        return {group.id: name for group, name in zip(groups, names, strict=True)}


def _cropped(output: Artifact) -> str:
    path = Path(output.path or "")
    return str(path.with_name(f"{path.stem}{crop.CROPPED}{path.suffix}"))


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

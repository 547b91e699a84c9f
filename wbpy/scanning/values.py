"""Turn header text into typed values: which keyword of which program holds a field, and what its text means.

What a keyword is called stands in ``rules/fields.toml`` and ``rules/dialects``; here are the normalisers, the closed
set of functions that turn text into values. A value that is not understood is unknown, never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from wbpy.errors import RuleError
from wbpy.findings import make_finding
from wbpy.io.headers import Card
from wbpy.model import Finding, Frame, Source
from wbpy.rules import DialectRule, Rules

UTC_NIGHT = "UTC date 12 h earlier: local time and longitude are unknown"
"""Rule of the nights that could only be counted in UTC."""

NAME_RULE = "file name, "
"""Start of the rules of values that no header but a file name states."""

_FRAME_FIELDS = frozenset(Frame.__struct_fields__)
_DENOISED = 1e-12
_PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")
_XTRANS = {"R": 8, "G": 20, "B": 8}
"""How often each colour stands in the 6x6 pattern of an X-Trans sensor."""


class _NotUnderstood:
    """What a normaliser returns for a text that it cannot read; None means that there is no value."""


_BAD = _NotUnderstood()


@dataclass
class Context:
    """What the normalisers of one file may look at."""

    cards: dict[str, Card]
    commentary: dict[str, list[Card]]
    """Cards of the keywords that may stand in a header many times."""
    rules: Rules
    filters: Mapping[str, str]
    """Spelling of a filter -> its name, see `filter_names`."""
    beside: Mapping[str, Card] = field(default_factory=dict)
    """Cards of the text beside the file; `cards` has those of them that the header lacks."""
    values: dict[str, Any] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    utc_offset: timedelta | None = None
    """What DATE-OBS says about its zone."""


Normaliser = Callable[[Card, Context], Any]


class _Attempt(NamedTuple):
    """One keyword to try for one field."""

    keyword: str
    normalise: Normaliser
    rule: str


class FieldPlan(NamedTuple):
    """How one field is read in one dialect, looked up beforehand."""

    id: str
    attempts: tuple[_Attempt, ...]
    missing_texts: frozenset[str]
    missing_numbers: tuple[float, ...]
    names: tuple[re.Pattern[str], ...]
    """What finds the value in a file name when no keyword has it."""
    from_name: _Attempt


def field_plans(rules: Rules, dialect: DialectRule | None) -> tuple[FieldPlan, ...]:
    """Return how every field is read, in the order in which fields depend on each other.

    Raises
    ------
    RuleError
        If a rule names a normaliser or a field that does not exist.
    """
    plans = []
    for id, rule in rules.fields.items():
        keywords, normalise, missing, by_keyword = rule.keywords, rule.normalise, rule.missing, rule.by_keyword
        where = f"fields/{id}"
        over = dialect.fields.get(id) if dialect is not None else None
        if dialect is not None and over is not None:
            where = f"dialects/{dialect.id}/{id}"
            keywords = keywords if over.keywords is None else over.keywords
            missing = missing if over.missing is None else over.missing
            by_keyword = by_keyword if over.by_keyword is None else over.by_keyword
            if over.normalise is not None:
                normalise = over.normalise
        attempts = []
        for keyword in keywords:
            name = by_keyword.get(keyword, normalise)
            name = f"{name}_{rule.dtype}" if name == "plain" else name
            if name not in NORMALISERS:
                known = ", ".join(sorted(NORMALISERS))
                raise RuleError(f"{where}: there is no normaliser {name!r}, expected one of {known}")
            attempts.append(_Attempt(keyword, NORMALISERS[name], f"{where}: {name}"))
        texts = frozenset(str(value).casefold() for value in missing if isinstance(value, str))
        numbers = tuple(float(value) for value in missing if not isinstance(value, str))
        try:
            names = tuple(re.compile(pattern, re.IGNORECASE) for pattern in rule.names)
        except re.error as error:
            raise RuleError(f"fields/{id}: names holds a pattern that is not valid: {error}") from error
        if any(pattern.groups < 1 for pattern in names):
            raise RuleError(f"fields/{id}: each pattern of names needs a group that holds the value")
        name = f"plain_{rule.dtype}" if rule.normalise == "plain" else rule.normalise
        from_name = _Attempt("", NORMALISERS[name], f"{NAME_RULE}fields/{id}: {name}")
        plans.append(FieldPlan(id, tuple(attempts), texts, numbers, names, from_name))
    if dialect is not None and (unknown := set(dialect.fields) - set(rules.fields)):
        known = ", ".join(rules.fields)
        raise RuleError(f"dialects/{dialect.id}: there is no field {sorted(unknown)[0]!r}, expected one of {known}")
    return tuple(plans)


def _is_missing(card: Card, plan: FieldPlan) -> bool:
    text = clean(card.raw)
    if not text or text.casefold() in plan.missing_texts:
        return True
    if plan.missing_numbers:
        number = number_of(card)
        return number is not None and any(math.isclose(number, value, abs_tol=1e-6) for value in plan.missing_numbers)
    return False


def _read_name(stem: str, plan: FieldPlan, context: Context) -> bool:
    """Put the value that a file name states into the context; return whether there was one."""
    for pattern in plan.names:
        match = pattern.search(stem)
        if match is None:
            continue
        value = plan.from_name.normalise(Card("", match[1], "", match[1]), context)
        if value is not None and not isinstance(value, _NotUnderstood):
            context.values[plan.id] = value
            context.sources.append(Source(field=plan.id, keyword=None, raw=stem, rule=plan.from_name.rule))
            return True
    return False


def read_field(path: str, stem: str, plan: FieldPlan, context: Context) -> None:
    """Put the value of one field and its source into the context, or a finding when no text was understood.

    The name of the file, `stem`, counts only where no keyword says anything: what is written but not understood
    stays unknown.
    """
    doubtful: Card | None = None
    for keyword, normalise, rule in plan.attempts:
        if keyword in context.commentary:
            candidates = context.commentary[keyword]
        elif keyword in context.cards:
            candidates = [context.cards[keyword]]
        else:
            continue
        for card in candidates:
            if _is_missing(card, plan):
                continue
            value = normalise(card, context)
            if value is None:
                continue
            if isinstance(value, _NotUnderstood):
                doubtful = doubtful or card
                continue
            context.values[plan.id] = value
            raw = card.raw if card.keyword != "SIMPLE" else card.comment
            context.sources.append(Source(field=plan.id, keyword=card.keyword, raw=raw, rule=rule))
            return
    if doubtful is None and _read_name(stem, plan, context):
        return
    if doubtful is not None and plan.id in _FRAME_FIELDS:
        context.findings.append(
            make_finding(context.rules, "SCN004", path, keyword=doubtful.keyword, value=doubtful.raw, field=plan.id)
        )


def filter_names(rules: Rules) -> dict[str, str]:
    """Return spelling -> canonical name; single letters as they are, others without case and separators."""
    names: dict[str, str] = {}
    for rule in rules.filters.values():
        for alias in (rule.id, *rule.aliases):
            names[_filter_key(alias)] = rule.id
    return names


def _filter_key(text: str) -> str:
    return text if len(text) == 1 else re.sub(r"[\s_-]+", "", text).casefold()


# Normalisers ---------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eEdD][+-]?[0-9]+)?)\s*([A-Za-z%°\"']*)")
_SEXAGESIMAL = re.compile(
    r"([+-]?)\s*([0-9]+(?:\.[0-9]*)?)[\s:hd°]+([0-9]+(?:\.[0-9]*)?)(?:[\s:m'′]+([0-9]+(?:\.[0-9]*)?))?[s\"″]?"
)
_E_PER_DN = re.compile(r"e\s*-?\s*/\s*(adu|dn)|electrons?\s*(per|/)|photo-?electrons?", re.IGNORECASE)
_ISO_CLOCK = re.compile(
    r"([0-9]{4})[-/]([0-9]{1,2})[-/]([0-9]{1,2})"
    r"(?:[T\s]+([0-9]{1,2}):([0-9]{1,2})(?::([0-9]{1,2}(?:\.[0-9]*)?))?)?"
    r"\s*(Z|UTC?|[+-][0-9]{2}:?[0-9]{2})?"
)
_OLD_DATE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{2})")
_US_CLOCK = re.compile(
    r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})\s+([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?\s*([AP])M", re.IGNORECASE
)
_OFFSET = re.compile(r"(?:UTC|GMT)?\s*([+-]?)([0-9]{1,2}(?:\.[0-9]+)?)(?::([0-9]{2}))?")
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{1,2})(?::([0-9]{1,2}(?:\.[0-9]*)?))?")


def clean(text: str) -> str:
    """Return text without the zero bytes and outer blanks that some programs write."""
    return text.replace("\x00", "").strip()


def _quantity(card: Card) -> tuple[float, str] | None:
    """Return number and unit letters of a card, or None when it does not hold one finite number."""
    value = card.value
    if isinstance(value, bool) or value is None:
        return None
    unit = ""
    if isinstance(value, str):
        text = clean(value)
        if "." not in text:
            text = text.replace(",", ".")
        match = _NUMBER.fullmatch(text)
        if match is None:
            return None
        value = float(match[1].replace("D", "E").replace("d", "e"))
        unit = match[2].lower()
    try:
        number = float(value)
    except OverflowError:
        return None
    return (_denoise(number), unit) if math.isfinite(number) else None


def _denoise(number: float) -> float:
    """Return the number that was meant by one written with the noise of its binary form.

    A 32-bit float written with more digits, such as 2.90000009536743, becomes its shortest decimal; of others, such
    as -40.007286000000008, the 15 digits that a 64-bit float holds for certain are kept.
    """
    if number.is_integer() or not 1e-30 < abs(number) < 1e30:
        return number
    short = np.float32(number)
    if abs(float(short) - number) <= _DENOISED * abs(number):
        return float(str(short))
    return float(f"{number:.15g}")


def number_of(card: Card) -> float | None:
    """Return the number of a card that has no unit letters."""
    found = _quantity(card)
    return found[0] if found is not None and not found[1] else None


def _plain_float(card: Card, context: Context) -> Any:
    number = number_of(card)
    return _BAD if number is None else number


def _plain_text(card: Card, context: Context) -> Any:
    return clean(card.raw) or None


def _whole(card: Card, context: Context) -> Any:
    number = number_of(card)
    return int(number) if number is not None and number.is_integer() and abs(number) < 2**31 else _BAD


def _positive(card: Card, context: Context) -> Any:
    number = number_of(card)
    if number is None:
        return _BAD
    return number if number > 0.0 else None


def _metres_to_mm(card: Card, context: Context) -> Any:
    metres = _positive(card, context)
    return round(metres * 1000.0, 6) if isinstance(metres, float) else metres


def _pedestal(card: Card, context: Context) -> Any:
    """Return the DN that the data carry; by SBFITSEXT the keyword holds what to add to get rid of them."""
    return _pedestal_to_add(card, context) if "SBSTDVER" in context.cards else _plain_float(card, context)


def _pedestal_to_add(card: Card, context: Context) -> Any:
    number = number_of(card)
    return _BAD if number is None else 0.0 - number


def _times_binning(card: Card, context: Context) -> Any:
    size = _positive(card, context)
    return round(size * context.values.get("xbinning", 1), 6) if isinstance(size, float) else size


def _seconds(card: Card, context: Context) -> Any:
    found = _quantity(card)
    if found is None or found[0] < 0.0:
        return _BAD
    number, unit = found
    if unit == "ms" or (not unit and re.search(r"\bms\b|\bmsec|millisec", card.comment, re.IGNORECASE)):
        return round(number / 1000.0, 9)
    if unit == "us":
        return round(number / 1e6, 9)
    return number if unit in ("", "s", "sec", "secs", "seconds") else _BAD


def _microseconds(card: Card, context: Context) -> Any:
    number = number_of(card)
    return _BAD if number is None or number < 0.0 else round(number / 1e6, 9)


def _is_conversion(card: Card, context: Context) -> bool:
    """Return whether a GAIN card holds e-/DN.

    Its comment says so; or it is no whole number, or stands with the read noise as at observatories, and no other
    keyword holds e-/DN.
    """
    if _E_PER_DN.search(card.comment):
        return True
    number = number_of(card)
    if number is None or any(keyword in context.cards for keyword in ("EGAIN", "CVF", "EPERADU")):
        return False
    return not number.is_integer() or any(keyword in context.cards for keyword in ("RDNOISE", "READNOIS", "RN", "RON"))


def _camera_gain(card: Card, context: Context) -> Any:
    return None if _is_conversion(card, context) else _plain_float(card, context)


def _conversion_gain(card: Card, context: Context) -> Any:
    return _positive(card, context) if _is_conversion(card, context) else None


def _iso(card: Card, context: Context) -> Any:
    match = re.fullmatch(r"(?:ISO)?\s*([0-9]+(?:\.[0-9]+)?)", clean(card.raw), re.IGNORECASE)
    if match is None:
        return _BAD
    return float(match[1]) or None


def _celsius(card: Card, context: Context) -> Any:
    found = _quantity(card)
    if found is None or found[1] not in ("", "c", "k", "°c", "°", "degc"):
        return _BAD
    number, unit = found
    if unit == "k" or number > 150.0:
        number = round(number - 273.15, 6)
    return number if -200.0 <= number <= 100.0 else _BAD


def _kelvin(card: Card, context: Context) -> Any:
    number = number_of(card)
    if number is None:
        return _BAD
    celsius = round(number - 273.15, 6)
    return celsius if -200.0 <= celsius <= 100.0 else _BAD


def _binning(card: Card, index: int) -> Any:
    number = number_of(card)
    if number is None:
        match = re.fullmatch(r"([0-9]+)\s*[x×*,\s]\s*([0-9]+)", clean(card.raw), re.IGNORECASE)
        if match is None:
            return _BAD
        number = float(match[index])
    if number <= 0.0:
        return None
    return int(number) if number.is_integer() and number <= 64.0 else _BAD


def _binning_x(card: Card, context: Context) -> Any:
    return _binning(card, 1)


def _binning_y(card: Card, context: Context) -> Any:
    return _binning(card, 2)


def _filter(card: Card, context: Context) -> Any:
    text = clean(card.raw)
    return context.filters.get(_filter_key(text), text)


def _row_order(card: Card, context: Context) -> Any:
    text = re.sub(r"[\s_-]+", "-", clean(card.raw).upper())
    text = {"TOPDOWN": "TOP-DOWN", "BOTTOMUP": "BOTTOM-UP"}.get(text, text)
    return text if text in ("TOP-DOWN", "BOTTOM-UP") else _BAD


def _colour_sensor(card: Card, context: Context) -> Any:
    """Return True where a number other than 0 says that the sensor has colours; patterns are read elsewhere."""
    number = number_of(card)
    return True if number else None


def _bayer(card: Card, context: Context) -> Any:
    text = clean(card.raw).upper()
    if text in _PATTERNS or (len(text) == 36 and all(text.count(colour) == n for colour, n in _XTRANS.items())):
        return text
    # FILTER may hold the pattern at some places; any other filter is none.
    return None if card.keyword == "FILTER" else _BAD


def _angle(card: Card, context: Context) -> Any:
    number = number_of(card)
    return _BAD if number is None or abs(number) > 720.0 else round(number % 360.0, 6)


def _pier_side(card: Card, context: Context) -> Any:
    text = clean(card.raw).lower().removeprefix("pier").strip()
    return {"e": "east", "w": "west"}.get(text, text) if text in ("east", "west", "e", "w") else _BAD


def _sexagesimal(text: str) -> float | None:
    match = _SEXAGESIMAL.fullmatch(clean(text))
    if match is None:
        return None
    minutes, seconds = float(match[3]), float(match[4] or 0.0)
    if minutes >= 60.0 or seconds > 60.0:
        return None
    value = float(match[2]) + minutes / 60.0 + seconds / 3600.0
    return -value if match[1] == "-" else value


def _right_ascension(degrees: float | None, context: Context) -> Any:
    if degrees is None or not 0.0 <= degrees <= 360.0:
        return _BAD
    return round(degrees % 360.0, 9)


def _ra(card: Card, context: Context) -> Any:
    number = number_of(card)
    if number is None:
        return _ra_hours(card, context)
    return _right_ascension(number, context)


def _ra_hours(card: Card, context: Context) -> Any:
    hours = number_of(card)
    if hours is None:
        hours = _sexagesimal(card.raw)
    return _right_ascension(None if hours is None else hours * 15.0, context)


def _is_sky(context: Context) -> bool:
    return "CTYPE1" in context.cards and context.cards["CTYPE1"].raw.startswith("RA")


def _ra_wcs(card: Card, context: Context) -> Any:
    return _ra(card, context) if _is_sky(context) else None


def _dec(card: Card, context: Context) -> Any:
    degrees = number_of(card)
    if degrees is None:
        degrees = _sexagesimal(card.raw)
    if degrees is None or abs(degrees) > 90.0:
        return _BAD
    if degrees == 0.0 and context.values.get("ra") == 0.0:
        # Mounts that do not know where they point write zeros.
        del context.values["ra"]
        context.sources = [source for source in context.sources if source.field != "ra"]
        return None
    return round(degrees, 9)


def _dec_wcs(card: Card, context: Context) -> Any:
    return _dec(card, context) if _is_sky(context) else None


def _longitude(card: Card, context: Context) -> Any:
    degrees = number_of(card)
    if degrees is None:
        degrees = _sexagesimal(card.raw)
    if degrees is None or abs(degrees) > 360.0:
        return _BAD
    return (degrees + 180.0) % 360.0 - 180.0


def _present(card: Card, context: Context) -> Any:
    return None if card.value is False else True


def _calibration_history(card: Card, context: Context) -> Any:
    text = card.raw.lower()
    return True if text.startswith(context.rules.roles.calibrated_history) else None


def _moment(year: str, month: str, day: str, hour: str, minute: str, second: str | None) -> datetime | None:
    whole, _, fraction = (second or "0").partition(".")
    micro = int((fraction + "000000")[:6])
    try:
        # 60 stands for a leap second, which datetime does not know.
        base = datetime(int(year), int(month), int(day), int(hour), int(minute), min(int(whole), 59), micro)
    except ValueError:
        return None
    return base if 1900 < base.year <= 2150 else None


def _parse_clock(text: str) -> tuple[datetime, bool, timedelta | None] | None:
    """Return date and time, whether a time was there, and the stated offset from UTC."""
    text = clean(text)
    if match := _ISO_CLOCK.fullmatch(text):
        moment = _moment(match[1], match[2], match[3], match[4] or "0", match[5] or "0", match[6])
        if moment is None:
            return None
        offset = None
        if match[7]:
            digits = match[7].replace(":", "")
            offset = timedelta(0)
            if digits[0] in "+-":
                offset = timedelta(hours=int(digits[1:3]), minutes=int(digits[3:5])) * (-1 if digits[0] == "-" else 1)
        return moment, match[4] is not None, offset
    if match := _OLD_DATE.fullmatch(text):
        # The form before 1999, day/month/year with two digits, is still written by some programs.
        year = int(match[3]) + (1900 if int(match[3]) >= 70 else 2000)
        moment = _moment(str(year), match[2], match[1], "0", "0", None)
        return None if moment is None else (moment, False, None)
    return None


def _parse_us_clock(text: str) -> datetime | None:
    match = _US_CLOCK.search(text)
    if match is None or not 1 <= int(match[4]) <= 12:
        return None
    hour = int(match[4]) % 12 + (12 if match[7].upper() == "P" else 0)
    return _moment(match[3], match[1], match[2], str(hour), match[5], match[6])


def _time_of_day(card: Card, context: Context) -> Any:
    match = _TIME.fullmatch(clean(card.raw))
    return _BAD if match is None else clean(card.raw)


def _clock(card: Card, context: Context) -> Any:
    parsed = _parse_clock(card.raw)
    if parsed is not None and parsed[1]:
        return parsed[0]
    return _parse_us_clock(card.raw) or _BAD


def _clock_in_comment(card: Card, context: Context) -> Any:
    return _parse_us_clock(card.comment)


def _utc(card: Card, context: Context) -> Any:
    parsed = _parse_clock(card.raw)
    if parsed is None:
        return _BAD
    moment, has_time, offset = parsed
    if not has_time:
        time = _TIME.fullmatch(context.values.get("time_obs", ""))
        if time is None:
            return _BAD
        combined = _moment(str(moment.year), str(moment.month), str(moment.day), time[1], time[2], time[3])
        if combined is None:
            return _BAD
        moment = combined
    context.utc_offset = offset
    moment = (moment - (offset or timedelta(0)) + timedelta(microseconds=500)).replace(tzinfo=UTC)
    return _text_of(moment)


def _text_of(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _utc_end(card: Card, context: Context) -> Any:
    """Return the start of an exposure from the time at which it ended or its file was made."""
    value = _utc(card, context)
    exposure = context.values.get("exposure")
    if not isinstance(value, str) or exposure is None or exposure > 86400.0:
        return value
    return _text_of(datetime.fromisoformat(value) - timedelta(seconds=exposure))


def _utc_by_timezone(card: Card, context: Context) -> Any:
    """Return UTC from local time and the offset in hours that stands in TIMEZONE."""
    zone = context.cards.get("TIMEZONE")
    parsed = _parse_clock(card.raw)
    if zone is None or parsed is None or not parsed[1]:
        return _BAD
    match = _OFFSET.fullmatch(clean(zone.raw))
    if match is None or (offset := float(match[2]) + float(match[3] or 0) / 60.0) > 14.0:
        return _BAD
    context.utc_offset = timedelta(hours=-offset if match[1] == "-" else offset)
    return _text_of(parsed[0] - context.utc_offset)


def night_of(context: Context) -> str | None:
    """Return the local date of the evening, the night going from noon to noon."""
    utc = context.values.get("date_obs")
    moment = datetime.fromisoformat(utc.removesuffix("Z")) if utc is not None else None
    local = context.values.get("date_local")
    longitude = context.values.get("longitude")
    if local is not None:
        rule = "local time 12 h earlier"
    elif moment is None:
        return None
    elif context.utc_offset:
        local = moment + context.utc_offset
        rule = "local time 12 h earlier: DATE-OBS states its zone"
    elif longitude is not None:
        local = moment + timedelta(hours=longitude / 15.0)
        rule = "mean solar time 12 h earlier, from the longitude"
    else:
        local = moment
        rule = UTC_NIGHT
    night = (local - timedelta(hours=12)).strftime("%Y-%m-%d")
    origin = "date_local" if rule == "local time 12 h earlier" else "date_obs"
    read = next((source for source in context.sources if source.field == origin), None)
    keyword, raw = (read.keyword, read.raw) if read is not None else (None, None)
    context.sources.append(Source(field="night", keyword=keyword, raw=raw, rule=rule))
    return night


NORMALISERS: dict[str, Normaliser] = {
    "plain_float": _plain_float,
    "plain_int": _whole,
    "plain_text": _plain_text,
    "plain_bool": _present,
    "whole": _whole,
    "positive": _positive,
    "metres_to_mm": _metres_to_mm,
    "times_binning": _times_binning,
    "seconds": _seconds,
    "microseconds": _microseconds,
    "camera_gain": _camera_gain,
    "conversion_gain": _conversion_gain,
    "iso": _iso,
    "celsius": _celsius,
    "kelvin": _kelvin,
    "binning_x": _binning_x,
    "binning_y": _binning_y,
    "filter": _filter,
    "row_order": _row_order,
    "bayer": _bayer,
    "colour_sensor": _colour_sensor,
    "angle": _angle,
    "pier_side": _pier_side,
    "ra": _ra,
    "ra_hours": _ra_hours,
    "ra_wcs": _ra_wcs,
    "dec": _dec,
    "dec_wcs": _dec_wcs,
    "longitude": _longitude,
    "present": _present,
    "calibration_history": _calibration_history,
    "time_of_day": _time_of_day,
    "clock": _clock,
    "clock_in_comment": _clock_in_comment,
    "utc": _utc,
    "utc_end": _utc_end,
    "utc_by_timezone": _utc_by_timezone,
    "pedestal": _pedestal,
    "pedestal_to_add": _pedestal_to_add,
}
"""Names that ``normalise`` and ``by_keyword`` in the rules may use; ``plain`` stands for ``plain_<dtype>``."""

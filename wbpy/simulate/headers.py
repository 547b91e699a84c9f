"""How capture programs describe a frame: FITS cards and file names in their manner, and the bytes of the file.

Each dialect is an entry of `DIALECTS`. They differ where it matters to a reader: which keywords are there at all, how
the frame type is spelt, what the clock means, how numbers are written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from wbpy.errors import ConfigError


class Literal(str):
    """A value to be written into the card as it stands, without quotes: how some programs spell their numbers."""

    __slots__ = ()


Value = str | int | float | bool
Card = tuple[str, Value, str]


@dataclass(frozen=True)
class FrameInfo:
    """What a capture program knows about one frame when it writes the file.

    Attributes
    ----------
    role : str
        light, dark, flat, flat_dark or bias.
    number : int
        Running number within its series, from 1.
    start : datetime
        UTC start of the exposure, without time zone.
    filter_name : str or None
        Wheel position in the light path; None without a wheel.
    temp_set_c : float or None
        None on a camera without a cooler.
    pier_side : str
        "East" or "West".
    """

    role: str
    number: int
    width: int
    height: int
    exposure_s: float
    start: datetime
    utc_offset_h: float
    object_name: str
    camera: str
    telescope: str
    focal_length_mm: float
    pixel_um: float
    gain: int
    offset: int
    e_per_dn: float
    temp_set_c: float | None
    temp_c: float
    filter_name: str | None
    cfa: str | None
    row_order: str
    ra_deg: float
    dec_deg: float
    pier_side: str
    rotator_deg: float

    @property
    def is_sky(self) -> bool:
        """Whether light came through the optics."""
        return self.role in ("light", "flat")


@dataclass(frozen=True)
class Dialect:
    """One capture program.

    Attributes
    ----------
    program : str
        Its name for people.
    types : dict of str to str
        Frame role -> the word the program writes. Programs without a flat-dark call it a dark.
    cards : callable
        FrameInfo, type word -> cards that follow the structural ones.
    file_name : callable
        FrameInfo -> file name.
    sidecar : callable or None
        FrameInfo -> suffix and text of a file written next to the frame.
    """

    program: str
    types: dict[str, str]
    cards: Callable[[FrameInfo, str], list[Card]]
    file_name: Callable[[FrameInfo], str]
    sidecar: Callable[[FrameInfo], tuple[str, str]] | None = None


def _iso(moment: datetime, digits: int) -> str:
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    if digits == 0:
        return text
    return f"{text}.{moment.microsecond:06d}0"[: len(text) + 1 + digits]


def _local(info: FrameInfo) -> datetime:
    return info.start + timedelta(hours=info.utc_offset_h)


def _sexagesimal(value: float, digits: int, signed: bool, mark: str = " ") -> str:
    total = round(abs(value) * 3600 * 10**digits)
    whole, fraction = divmod(total, 10**digits)
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    sign = ("-" if value < 0 else "+") if signed else ""
    tail = f".{fraction:0{digits}d}" if digits else ""
    return f"{sign}{hours:02d}{mark}{minutes:02d}{mark}{seconds:02d}{tail}"


def _ra_text(info: FrameInfo, digits: int = 0) -> str:
    return _sexagesimal(info.ra_deg / 15.0, digits, signed=False)


def _dec_text(info: FrameInfo, digits: int = 0) -> str:
    return _sexagesimal(info.dec_deg, digits, signed=True)


def _seconds(info: FrameInfo) -> str:
    return f"{info.exposure_s:.2f}"


def _float32(value: float) -> float:
    """Return the number as programs print it that hold it in single precision: 2.4 -> 2.40000009536743."""
    return float(f"{float(np.float32(value)):.15g}")


def _scale(info: FrameInfo) -> float:
    return round(206.264806 * info.pixel_um / info.focal_length_mm, 5)


def _nina(info: FrameInfo, word: str) -> list[Card]:
    cards: list[Card] = [
        ("IMAGETYP", word, "Type of exposure"),
        ("EXPOSURE", float(info.exposure_s), "[s] Exposure duration"),
        ("EXPTIME", float(info.exposure_s), "[s] Exposure duration"),
        ("DATE-LOC", _iso(_local(info), 3), "Time of observation (local)"),
        ("DATE-OBS", _iso(info.start, 3), "Time of observation (UTC)"),
        ("XBINNING", 1, "X axis binning factor"),
        ("YBINNING", 1, "Y axis binning factor"),
        ("GAIN", info.gain, "Sensor gain"),
        ("OFFSET", info.offset, "Sensor gain offset"),
        ("EGAIN", info.e_per_dn, "[e-/ADU] Electrons per A/D unit"),
        ("XPIXSZ", info.pixel_um, "[um] Pixel X axis size"),
        ("YPIXSZ", info.pixel_um, "[um] Pixel Y axis size"),
        ("INSTRUME", info.camera, "Imaging instrument name"),
    ]
    if info.temp_set_c is not None:
        cards.append(("SET-TEMP", float(info.temp_set_c), "[degC] CCD temperature setpoint"))
    cards.append(("CCD-TEMP", float(info.temp_c), "[degC] CCD temperature"))
    if info.cfa:
        cards += [
            ("BAYERPAT", info.cfa, "Sensor Bayer pattern"),
            ("XBAYROFF", 0, "Bayer pattern X axis offset"),
            ("YBAYROFF", 0, "Bayer pattern Y axis offset"),
        ]
    cards += [
        ("USBLIMIT", 40, "Camera-specific USB setting"),
        ("TELESCOP", info.telescope, "Name of telescope"),
        ("FOCALLEN", float(info.focal_length_mm), "[mm] Focal length"),
    ]
    if info.is_sky:
        cards += [
            ("RA", info.ra_deg, "[deg] RA of telescope"),
            ("DEC", info.dec_deg, "[deg] Declination of telescope"),
            ("PIERSIDE", info.pier_side, "Telescope pointing state"),
        ]
    if info.filter_name is not None:
        # The wheel is turned to its opaque position for frames without light.
        shown = info.filter_name if info.is_sky else "Dark"
        cards += [("FWHEEL", "Filter Wheel", "Filter Wheel name"), ("FILTER", shown, "Active filter name")]
    if info.role == "light":
        cards += [
            ("OBJECT", info.object_name, "Name of the object of interest"),
            ("OBJCTRA", _ra_text(info), "[H M S] RA of imaged object"),
            ("OBJCTDEC", _dec_text(info), "[D M S] Declination of imaged object"),
        ]
    cards += [
        ("ROTNAME", "Rotator", "Rotator equipment name"),
        ("ROTATOR", info.rotator_deg, "[deg] Rotator angle"),
        ("ROTATANG", info.rotator_deg, "[deg] Rotator angle"),
        ("ROWORDER", info.row_order, "FITS Image Orientation"),
        ("EQUINOX", 2000.0, "Equinox of celestial coordinate system"),
        ("SWCREATE", "N.I.N.A. 3.1.2.9001 (x64)", "Software that created this file"),
    ]
    return cards


def _nina_name(info: FrameInfo) -> str:
    stamp = _local(info).strftime("%Y-%m-%d_%H-%M-%S")
    shown = "" if info.filter_name is None else info.filter_name if info.is_sky else "Dark"
    return f"{stamp}_{shown}_{info.temp_c:.2f}_{_seconds(info)}s_{info.number:04d}.fits"


def _asiair(info: FrameInfo, word: str) -> list[Card]:
    exposure = _float32(info.exposure_s)
    cards: list[Card] = [
        ("CREATOR", "ZWO ASIAIR Plus", "Capture software"),
        ("OFFSET", info.offset, "camera offset"),
        ("FOCALLEN", round(info.focal_length_mm), "Focal length of telescope in mm"),
        ("EGAIN", _float32(info.e_per_dn), "Electronic gain in e-/ADU"),
        ("XBINNING", 1, "Camera X Bin"),
        ("YBINNING", 1, "Camera Y Bin"),
        ("CCDXBIN", 1, "Camera X Bin"),
        ("CCDYBIN", 1, "Camera Y Bin"),
        ("XPIXSZ", _float32(info.pixel_um), "pixel size in microns (with binning)"),
        ("YPIXSZ", _float32(info.pixel_um), "pixel size in microns (with binning)"),
        ("IMAGETYP", word, "Type of image"),
        ("EXPOSURE", exposure, "Exposure time in seconds"),
        ("EXPTIME", exposure, "Exposure time in seconds"),
        ("CCD-TEMP", float(info.temp_c), "sensor temperature in C"),
        ("RA", info.ra_deg, "Object Right Ascension in degrees"),
        ("DEC", info.dec_deg, "Object Declination in degrees"),
        ("DATE-OBS", _iso(info.start, 6), "Image created time"),
        ("INSTRUME", info.camera, "Camera model"),
        ("GAIN", info.gain, "Gain Value"),
        ("TELESCOP", "EQMod Mount", "Telescope name"),
        ("OBJECT", info.object_name if info.role == "light" else "FOV", "name or catalog number of object"),
        ("IMAGEW", info.width, "Image width, in pixels"),
        ("IMAGEH", info.height, "Image height, in pixels"),
    ]
    if info.temp_set_c is not None:
        cards.append(("SET-TEMP", round(info.temp_set_c), "CCD temperature setpoint in C"))
    if info.cfa:
        cards.append(("BAYERPAT", info.cfa, "Bayer pattern"))
    if info.filter_name is not None:
        cards.append(("FILTER", info.filter_name, "Filter used when taking image"))
    return cards


def _asiair_name(info: FrameInfo) -> str:
    short = info.exposure_s < 1.0
    exposure = f"{info.exposure_s * 1000:.1f}ms" if short else f"{info.exposure_s:.1f}s"
    stamp = _local(info).strftime("%Y%m%d-%H%M%S")
    word = _ASIAIR_TYPES[info.role]
    target = f"_{info.object_name.replace(' ', '')}" if info.role == "light" else ""
    wheel = f"_{info.filter_name}" if info.filter_name is not None else ""
    return f"{word}{target}_{exposure}_Bin1{wheel}_gain{info.gain}_{stamp}_{info.temp_c:.1f}C_{info.number:04d}.fit"


def _sgp(info: FrameInfo, word: str) -> list[Card]:
    cards: list[Card] = [
        ("OBJECT", info.object_name, "Object name"),
        ("DATE-LOC", _iso(_local(info), 7), "Local observation date"),
        ("DATE-OBS", _iso(info.start, 7), "UTC observation date"),
        ("IMAGETYP", word, "Type of frame"),
        ("CREATOR", "Sequence Generator Pro v3.1.0.479", "Capture software"),
        ("INSTRUME", info.camera, "Instrument name"),
        ("OBSERVER", "Simulator", "Observer name"),
        ("SITENAME", "Nowhere", "Observatory name"),
        ("EXPOSURE", info.exposure_s, "Exposure time in seconds"),
        ("CCD-TEMP", info.temp_c, "Camera cooler temperature"),
        ("XBINNING", 1, "Camera X Bin"),
        ("CCDXBIN", 1, "Camera X Bin"),
        ("YBINNING", 1, "Camera Y Bin"),
        ("CCDYBIN", 1, "Camera Y Bin"),
        ("TELESCOP", "EQMOD ASCOM HEQ5/6", "Telescope name"),
        ("RA", info.ra_deg, "Object Right Ascension in degrees"),
        ("DEC", info.dec_deg, "Object Declination in degrees"),
        ("OBJCTRA", _ra_text(info, 3), "Object Right Ascension in hms"),
        ("OBJCTDEC", _dec_text(info, 3), "Object Declination in degrees"),
        ("FOCALLEN", info.focal_length_mm, "The focal length of the telescope in mm"),
        ("FLIPPED", info.pier_side == "East", "Is image flipped"),
        ("ANGLE", round((info.rotator_deg + 180.0) % 360.0, 2), "Image angle"),
        ("SCALE", _scale(info), "Image scale (arcsec / pixel)"),
        ("PIXSCALE", _scale(info), "Image scale (arcsec / pixel)"),
        ("POSANGLE", _float32(info.rotator_deg), "Camera rotator position angle (degrees)"),
        ("GAIN", info.gain, "Camera gain"),
        ("EGAIN", _float32(info.e_per_dn), "Electrons Per ADU"),
        ("OFFSET", info.offset, "Camera offset"),
    ]
    if info.temp_set_c is not None:
        cards.append(("SET-TEMP", info.temp_set_c, "Camera cooler target temperature"))
    if info.filter_name is not None:
        cards.append(("FWHEEL", "Manual Filter Wheel", "Filter Wheel name"))
        cards.append(("FILTER", info.filter_name, "Filter name"))
    return cards


def _sgp_name(info: FrameInfo) -> str:
    wheel = f"_{info.filter_name}" if info.filter_name is not None else ""
    target = info.object_name if info.role == "light" else _SGP_TYPES[info.role].title()
    return f"{target}_{info.exposure_s:g}sec_1x1{wheel}_frame{info.number}.fit"


def _long_number(value: float) -> Literal:
    """Return 90 as 9.00000000000E+001."""
    mantissa, exponent = f"{value:.11E}".split("E")
    return Literal(f"{mantissa}E{exponent[0]}{int(exponent[1:]):03d}")


def _maxim(info: FrameInfo, word: str) -> list[Card]:
    cards: list[Card] = [
        ("DATE-OBS", _iso(info.start, 0), "YYYY-MM-DDThh:mm:ss observation start, UT"),
        ("EXPTIME", _long_number(info.exposure_s), "Exposure time in seconds"),
        ("EXPOSURE", _long_number(info.exposure_s), "Exposure time in seconds"),
        ("CCD-TEMP", Literal(f"{info.temp_c:.15f}"), "CCD temperature at start of exposure in C"),
        ("XPIXSZ", Literal(f"{info.pixel_um:.16f}"), "Pixel Width in microns (after binning)"),
        ("YPIXSZ", Literal(f"{info.pixel_um:.16f}"), "Pixel Height in microns (after binning)"),
        ("XBINNING", 1, "Binning factor in width"),
        ("YBINNING", 1, "Binning factor in height"),
        ("XORGSUBF", 0, "Subframe X position in binned pixels"),
        ("YORGSUBF", 0, "Subframe Y position in binned pixels"),
        ("READOUTM", "Raw" if info.cfa else "Monochrome", "Readout mode of image"),
        ("IMAGETYP", word, "Type of image"),
        ("FOCALLEN", float(info.focal_length_mm), "Focal length of telescope in mm"),
        ("SWCREATE", "MaxIm DL Version 6.18 190601 00000", "Name of software"),
        ("OBJECT", info.object_name if info.role == "light" else "", "Target object name"),
        ("OBJCTRA", _ra_text(info), "Nominal Right Ascension of center of image"),
        ("OBJCTDEC", _dec_text(info), "Nominal Declination of center of image"),
        ("TELESCOP", info.telescope, "telescope used to acquire this image"),
        ("INSTRUME", info.camera, "instrument or camera used"),
        ("PIERSIDE", info.pier_side.upper(), "Side of pier telescope is on"),
        ("FLIPSTAT", "        ", ""),
        ("PEDESTAL", 0, "Correction to add for zero-based ADU"),
        ("ROWORDER", info.row_order, "Image row order"),
    ]
    if info.temp_set_c is not None:
        cards.append(("SET-TEMP", Literal(f"{info.temp_set_c:.15f}"), "CCD temperature setpoint in C"))
    if info.filter_name is not None:
        cards.append(("FILTER", info.filter_name, "Filter used when taking image"))
    if info.cfa:
        cards += [("COLORTYP", info.cfa, ""), ("BAYERPAT", info.cfa, ""), ("XBAYROFF", 0, ""), ("YBAYROFF", 0, "")]
    return cards


def _maxim_name(info: FrameInfo) -> str:
    wheel = info.filter_name if info.filter_name is not None and info.is_sky else ""
    target = info.object_name if info.role == "light" else _FRAME_WORDS[info.role].split()[0]
    return f"{target}-{info.number:03d}{wheel}.fit"


def _sharpcap(info: FrameInfo, word: str) -> list[Card]:
    cards: list[Card] = [
        ("INSTRUME", info.camera, ""),
        ("DATE-OBS", _iso(info.start, 7), "System Clock:Est. Frame Start"),
        ("EXPTIME", float(info.exposure_s), ""),
        ("XPIXSZ", _float32(info.pixel_um), ""),
        ("YPIXSZ", _float32(info.pixel_um), ""),
        ("XBINNING", 1, ""),
        ("YBINNING", 1, ""),
        ("CCD-TEMP", float(info.temp_c), ""),
        ("GAIN", info.gain, ""),
        ("BLKLEVEL", info.offset, ""),
        ("SWCREATE", "SharpCap v4.1.12055.0, 64 bit", ""),
        ("ROWORDER", info.row_order, ""),
    ]
    if info.cfa:
        cards += [("BAYERPAT", info.cfa, ""), ("COLORTYP", info.cfa, "")]
    if info.filter_name is not None and info.is_sky:
        cards.append(("FILTER", info.filter_name, ""))
    if info.role == "light":
        cards += [("OBJECT", info.object_name, ""), ("RA", info.ra_deg, "JNOW"), ("DEC", info.dec_deg, "JNOW")]
    return cards


def _sharpcap_name(info: FrameInfo) -> str:
    return f"{_local(info).strftime('%H_%M_%S')}_frame_{info.number:05d}.fits"


def _sharpcap_sidecar(info: FrameInfo) -> tuple[str, str]:
    target = "" if info.temp_set_c is None else f"Target Temperature={info.temp_set_c:g}\n"
    text = (
        f"[{info.camera}]\n"
        f"FrameType={_ASIAIR_TYPES[info.role]}\n"
        "Binning=1\n"
        f"Colour Space={'RAW16' if info.cfa else 'MONO16'}\n"
        f"Black Level={info.offset}\n"
        f"Analogue Gain={info.gain}\n"
        f"Exposure={info.exposure_s * 1000:.4f}ms\n"
        f"Temperature={info.temp_c:.1f}\n{target}"
        "Subtract Dark=None\n"
        "Apply Flat=None\n"
    )
    return ".CameraSettings.txt", text


def _indi_number(value: float, digits: int = 6) -> Literal:
    return Literal(f"{value:.{digits}E}")


def _indi(info: FrameInfo, word: str) -> list[Card]:
    cards: list[Card] = [
        ("ROWORDER", info.row_order, "Row Order"),
        ("INSTRUME", info.camera, "CCD Name"),
        ("TELESCOP", info.telescope, "Telescope name"),
        ("OBSERVER", "Unknown", "Observer name"),
        ("OBJECT", info.object_name, "Object name"),
        ("EXPTIME", _indi_number(info.exposure_s), "Total Exposure Time (s)"),
    ]
    if info.role in ("dark", "flat_dark", "bias"):
        cards.append(("DARKTIME", _indi_number(info.exposure_s), "Total Dark Exposure Time (s)"))
    cards += [
        ("CCD-TEMP", _indi_number(info.temp_c, 2), "CCD Temperature (Celsius)"),
        ("PIXSIZE1", _indi_number(info.pixel_um), "Pixel Size 1 (microns)"),
        ("PIXSIZE2", _indi_number(info.pixel_um), "Pixel Size 2 (microns)"),
        ("XBINNING", 1, "Binning factor in width"),
        ("YBINNING", 1, "Binning factor in height"),
        ("XPIXSZ", _indi_number(info.pixel_um), "X binned pixel size in microns"),
        ("YPIXSZ", _indi_number(info.pixel_um), "Y binned pixel size in microns"),
        ("FRAME", word.removesuffix(" Frame"), "Frame Type"),
        ("IMAGETYP", word, "Frame Type"),
    ]
    if info.filter_name is not None:
        cards.append(("FILTER", info.filter_name, "Filter"))
    if info.cfa:
        cards += [
            ("XBAYROFF", 0, "X offset of Bayer array"),
            ("YBAYROFF", 0, "Y offset of Bayer array"),
            ("BAYERPAT", info.cfa, "Bayer color pattern"),
        ]
    cards += [
        ("FOCALLEN", _indi_number(info.focal_length_mm, 2), "Focal Length (mm)"),
        ("SCALE", _indi_number(_scale(info)), "arcsecs per pixel"),
        ("PIERSIDE", info.pier_side.upper(), f"{info.pier_side}, looking {_OTHER_SIDE[info.pier_side]}"),
        ("OBJCTRA", _ra_text(info, 2), "Object J2000 RA in Hours"),
        ("OBJCTDEC", _dec_text(info, 2), "Object J2000 DEC in Degrees"),
        ("RA", _indi_number(info.ra_deg), "Object J2000 RA in Degrees"),
        ("DEC", _indi_number(info.dec_deg), "Object J2000 DEC in Degrees"),
        ("EQUINOX", 2000, "Equinox"),
        ("DATE-OBS", _iso(info.start, 3), "UTC start date of observation"),
        ("COMMENT", "Generated by INDI", ""),
        ("GAIN", _indi_number(info.gain, 3), "Gain"),
        ("OFFSET", _indi_number(info.offset, 3), "Offset"),
    ]
    return cards


def _indi_name(info: FrameInfo) -> str:
    word = _FRAME_WORDS[info.role].split()[0]
    target = f"{info.object_name.replace(' ', '_')}_" if info.role == "light" else ""
    wheel = f"{info.filter_name}_" if info.filter_name is not None and info.is_sky else ""
    return (
        f"{target}{word}_{wheel}{info.exposure_s:g}_secs_{_iso(info.start, 0).replace(':', '-')}_{info.number:03d}.fits"
    )


def _apt(info: FrameInfo, word: str) -> list[Card]:
    cards: list[Card] = [
        ("DATE-OBS", _iso(info.start, 0), "UTC start of exposure"),
        ("EXPTIME", float(info.exposure_s), "Exposure time in seconds"),
        ("XBINNING", 1, "Binning factor in width"),
        ("YBINNING", 1, "Binning factor in height"),
        ("XPIXSZ", info.pixel_um, "Pixel width in microns (after binning)"),
        ("YPIXSZ", info.pixel_um, "Pixel height in microns (after binning)"),
        ("GAIN", info.gain, ""),
        ("EGAIN", info.e_per_dn, "Electrons per ADU"),
        ("IMAGETYP", word, "Frame type"),
        ("SWCREATE", "Astro Photography Tool - APT v.4.10", "Imaging software"),
        ("INSTRUME", info.camera, "Camera"),
        ("TELESCOP", "EQMOD ASCOM HEQ5/6", "Mount"),
        ("OBJECT", info.object_name, "Target"),
        ("OBJCTRA", _ra_text(info), "Right ascension"),
        ("OBJCTDEC", _dec_text(info), "Declination"),
        ("FOCALLEN", float(info.focal_length_mm), "Focal length in mm"),
    ]
    if info.temp_set_c is not None:
        cards.append(("SET-TEMP", info.temp_set_c, "CCD temperature set point"))
    if info.cfa:
        cards.append(("BAYERPAT", info.cfa, ""))
    return cards


def _apt_name(info: FrameInfo) -> str:
    word = {"light": "L", "dark": "D", "flat": "F", "flat_dark": "FD", "bias": "B"}[info.role]
    stamp = _local(info).strftime("%Y-%m-%d_%H-%M-%S")
    return f"{word}_{info.object_name.replace(' ', '')}_{stamp}_Bin1x1_{info.exposure_s:g}s_{info.number:04d}.fit"


def _seestar(info: FrameInfo, word: str) -> list[Card]:
    cards: list[Card] = [
        ("CREATOR", "ZWO Seestar S50", "Capture software"),
        ("PRODUCER", "ZWO", "Powered by ZWO"),
        ("FOCALLEN", round(info.focal_length_mm), "Focal length of telescope in mm"),
        ("APERTURE", Literal("5."), "Name of field of view aperture"),
        ("PROGRAM", "4.43", "The name of the software task that created the"),
        ("XBINNING", 1, "Camera X Bin"),
        ("YBINNING", 1, "Camera Y Bin"),
        ("XPIXSZ", _float32(info.pixel_um), "pixel size in microns (with binning)"),
        ("YPIXSZ", _float32(info.pixel_um), "pixel size in microns (with binning)"),
        ("IMAGETYP", word, "Type of image"),
        ("EXPOSURE", _short_float(info.exposure_s), "Exposure time in seconds"),
        ("EXPTIME", _short_float(info.exposure_s), "Exposure time in seconds"),
        ("CCD-TEMP", float(info.temp_c), "sensor temperature in C"),
        ("RA", info.ra_deg, "Object Right Ascension in degrees"),
        ("DEC", info.dec_deg, "Object Declination in degrees"),
        ("DATE-OBS", _iso(info.start, 6), "Image created time"),
        ("FILTER", info.filter_name or "IRCUT", "Filter used when taking image"),
        ("INSTRUME", "Seestar S50", "Camera model"),
        ("GAIN", info.gain, "Gain Value"),
        ("TELESCOP", "S50_00000000", "Telescope name"),
        ("OBJECT", info.object_name, "name or catalog number of object being imaged"),
        ("TOTALEXP", _short_float(info.exposure_s), "Total Exposure Time in seconds"),
    ]
    if info.cfa:
        cards.append(("BAYERPAT", info.cfa, "Bayer pattern"))
    return cards


def _short_float(value: float) -> Literal:
    """Return 10 as ``10.``, as cfitsio writes it."""
    text = f"{value:.15G}"
    return Literal(text if "." in text or "E" in text else f"{text}.")


def _seestar_name(info: FrameInfo) -> str:
    stamp = _local(info).strftime("%Y%m%d-%H%M%S")
    target = f"_{info.object_name}" if info.role == "light" else ""
    word = _ASIAIR_TYPES[info.role]
    return f"{word}{target}_{info.exposure_s:.1f}s_{info.filter_name or 'IRCUT'}_{stamp}_{info.number:04d}.fit"


def _ccdciel(info: FrameInfo, word: str) -> list[Card]:
    cards: list[Card] = [
        ("DATE", _iso(info.start, 0), "Date data written"),
        ("SWCREATE", "CCDciel 0.9.88-3627 Linux x86_64", ""),
        ("OBJECT", info.object_name, "Observed object name"),
        ("IMAGETYP", word, "Image Type"),
        ("DATE-OBS", _iso(info.start, 3), "UTC start date of observation"),
        ("EXPTIME", float(info.exposure_s), "[s] Total Exposure Time"),
        ("XBINNING", 1, "Binning factor X"),
        ("YBINNING", 1, "Binning factor Y"),
        ("GAIN", info.gain, "Camera gain setting in manufacturer units"),
        ("OFFSET", info.offset, "Camera offset setting in manufacturer units"),
        ("EGAIN", info.e_per_dn, "Electronic gain in e-/ADU"),
        ("XPIXSZ", info.pixel_um, "[um] Pixel Size X, binned"),
        ("YPIXSZ", info.pixel_um, "[um] Pixel Size Y, binned"),
        ("CCD-TEMP", float(info.temp_c), "CCD temperature (Celsius)"),
        ("INSTRUME", info.camera, "Camera name"),
        ("TELESCOP", info.telescope, "Telescope name"),
        ("FOCALLEN", info.focal_length_mm, "[mm] Telescope focal length"),
        ("ROTATANG", info.rotator_deg, "[deg] Rotator angle"),
        ("PIERSIDE", info.pier_side, "Telescope side of pier"),
        ("RA", info.ra_deg, "[deg] Right ascension"),
        ("DEC", info.dec_deg, "[deg] Declination"),
        ("ROWORDER", info.row_order, "Order of the rows in image array"),
    ]
    if info.temp_set_c is not None:
        cards.append(("SET-TEMP", float(info.temp_set_c), "CCD temperature setpoint (Celsius)"))
    if info.filter_name is not None:
        cards.append(("FILTER", info.filter_name, "Filter"))
    if info.cfa:
        cards += [("XBAYROFF", 0, ""), ("YBAYROFF", 0, ""), ("BAYERPAT", info.cfa, "CFA Bayer pattern")]
    return cards


def _ccdciel_name(info: FrameInfo) -> str:
    wheel = f"_{info.filter_name}" if info.filter_name is not None and info.is_sky else ""
    target = info.object_name.replace(" ", "") if info.role == "light" else _ASIAIR_TYPES[info.role]
    return f"{target}{wheel}_{info.exposure_s:g}s_{info.start.strftime('%Y%m%d_%H%M%S')}_{info.number:04d}.fits"


def _orion(info: FrameInfo, word: str) -> list[Card]:
    local = _local(info)
    clock = local.strftime("%Y-%m-%d T") + f"{local.hour % 12 or 12:02d}" + local.strftime(":%M:%S")
    cards: list[Card] = [
        ("SWCREATE", "Orion Camera Studio", "Capture software"),
        ("INSTRUME", info.camera, "Camera"),
        ("IMAGTYP", word, "Frame type"),
        ("EXPTIME", float(info.exposure_s), "Exposure in seconds"),
        ("EXPOSURE", float(info.exposure_s), "Exposure in seconds"),
        ("CCD-TEMP", float(info.temp_c), "CCD temperature"),
        ("DATE-OBS", clock, "Local time"),
        ("XBINNING", 1, ""),
        ("YBINNING", 1, ""),
        ("XPIXSZ", info.pixel_um, "um"),
        ("YPIXSZ", info.pixel_um, "um"),
        ("PEDESTAL", 0, ""),
    ]
    if info.temp_set_c is not None:
        cards.append(("SET-TEMP", float(info.temp_set_c), "CCD set point"))
    return cards


def _orion_name(info: FrameInfo) -> str:
    letter = {"light": "L", "dark": "D", "flat": "F", "flat_dark": "FD", "bias": "B"}[info.role]
    local = _local(info)
    return f"{local.month}_{local.day}_{local.year % 100}_{letter}{info.exposure_s:g}_{info.number:02d}.fit"


def _dwarf(info: FrameInfo, word: str) -> list[Card]:
    cards: list[Card] = [
        ("ORIGIN", "DWARFLAB", ""),
        ("INSTRUME", "DWARFIII", ""),
        ("TELESCOP", "DWARFIII", ""),
        ("CAMERA", "TELE", ""),
        ("OBJECT", info.object_name, ""),
        ("EXPTIME", float(info.exposure_s), "s"),
        ("GAIN", info.gain, ""),
        ("DET-TEMP", round(info.temp_c), ""),
        ("FILTER", info.filter_name or "Astro", ""),
        ("XBINNING", 1, ""),
        ("YBINNING", 1, ""),
        ("XPIXSZ", info.pixel_um, ""),
        ("YPIXSZ", info.pixel_um, ""),
        ("FOCALLEN", info.focal_length_mm, ""),
        ("RA", info.ra_deg, ""),
        ("DEC", info.dec_deg, ""),
        ("DATE-OBS", _iso(info.start + timedelta(seconds=info.exposure_s), 3), ""),
    ]
    if info.cfa:
        cards.append(("BAYERPAT", info.cfa, ""))
    return cards


def _dwarf_name(info: FrameInfo) -> str:
    end = _local(info) + timedelta(seconds=info.exposure_s)
    stamp = end.strftime("%Y%m%d-%H%M%S") + f"{end.microsecond // 1000:03d}"
    if info.role == "light":
        return (
            f"{info.object_name}_{info.exposure_s:g}s{info.gain}_{info.filter_name or 'Astro'}_{stamp}_"
            f"{round(info.temp_c)}C.fits"
        )
    return f"raw_{info.role}_{info.exposure_s:g}s_{info.gain}_{stamp}_{info.number:04d}.fits"


def _plain(info: FrameInfo, word: str) -> list[Card]:
    return [
        ("EXPTIME", float(info.exposure_s), "exposure in seconds"),
        ("DATE-OBS", _iso(info.start, 3), "UTC start of exposure"),
    ]


def _plain_name(info: FrameInfo) -> str:
    return f"{info.role}_{info.filter_name or 'nofilter'}_{info.number:04d}.fits"


_ASIAIR_TYPES = {"light": "Light", "dark": "Dark", "flat": "Flat", "flat_dark": "Dark", "bias": "Bias"}
_SGP_TYPES = {"light": "LIGHT", "dark": "DARK", "flat": "FLAT", "flat_dark": "DARK", "bias": "BIAS"}
_NINA_TYPES = {**_SGP_TYPES, "flat_dark": "DARKFLAT"}
_FRAME_WORDS = {
    "light": "Light Frame",
    "dark": "Dark Frame",
    "flat": "Flat Frame",
    "flat_dark": "Dark Frame",
    "bias": "Bias Frame",
}
_ORION_TYPES = {**_FRAME_WORDS, "flat": "Flat Field"}
_NO_TYPES = dict.fromkeys(_FRAME_WORDS, "")
_OTHER_SIDE = {"East": "West", "West": "East"}

DIALECTS = {
    "nina": Dialect("N.I.N.A.", _NINA_TYPES, _nina, _nina_name),
    "asiair": Dialect("ZWO ASIAIR", _ASIAIR_TYPES, _asiair, _asiair_name),
    "sgp": Dialect("Sequence Generator Pro", _SGP_TYPES, _sgp, _sgp_name),
    "maxim": Dialect("MaxIm DL", _FRAME_WORDS, _maxim, _maxim_name),
    "sharpcap": Dialect("SharpCap", _NO_TYPES, _sharpcap, _sharpcap_name, _sharpcap_sidecar),
    "indi": Dialect("INDI / Ekos", _FRAME_WORDS, _indi, _indi_name),
    "apt": Dialect("APT", _FRAME_WORDS, _apt, _apt_name),
    "seestar": Dialect("ZWO Seestar", _ASIAIR_TYPES, _seestar, _seestar_name),
    "ccdciel": Dialect("CCDciel", _ASIAIR_TYPES, _ccdciel, _ccdciel_name),
    "orion": Dialect("Orion Camera Studio", _ORION_TYPES, _orion, _orion_name),
    "dwarf": Dialect("DWARF III", _NO_TYPES, _dwarf, _dwarf_name),
    "plain": Dialect("a program that writes next to nothing", _NO_TYPES, _plain, _plain_name),
}
"""Capture programs by their short name."""


def find_dialect(name: str) -> Dialect:
    """Return the dialect called `name`; ConfigError lists the known names."""
    if name not in DIALECTS:
        raise ConfigError(f"dialect {name!r} is unknown; expected one of {', '.join(DIALECTS)}")
    return DIALECTS[name]


def _card_text(keyword: str, value: Value, comment: str) -> str:
    if keyword in ("COMMENT", "HISTORY"):
        return f"{keyword:<8}{value}"[:80].ljust(80)
    if isinstance(value, Literal):
        field = f"{value:>20}"
    elif isinstance(value, bool):
        field = f"{'T' if value else 'F':>20}"
    elif isinstance(value, str):
        quoted = value.replace("'", "''")
        field = f"'{quoted:<8}'".ljust(20)
    elif isinstance(value, int):
        field = f"{value:>20}"
    else:
        field = f"{value!r:>20}".replace("e", "E")
    text = f"{keyword:<8}= {field}"
    if len(keyword) > 8 or len(text) > 80:
        raise ValueError(f"the card {keyword} = {value!r} does not fit into 80 characters")
    if comment:
        text = f"{text} / {comment}"
    return text[:80].ljust(80)


def fits_bytes(pixels: NDArray[np.uint16], cards: list[Card]) -> bytes:
    """Return a FITS file with one unsigned 16-bit image (BITPIX 16, BZERO 32768).

    Parameters
    ----------
    pixels : (H, W) uint16 ndarray
        In the order of the file, first row first.
    cards : list of (keyword, value, comment)
        Follow the structural cards; COMMENT and HISTORY may repeat. A comment that does not fit is cut.

    Returns
    -------
    bytes
        A multiple of 2880 long. The same input gives the same bytes everywhere.

    Raises
    ------
    ValueError
        If a keyword or a value is too long for a card.
    """
    height, width = pixels.shape
    structure: list[Card] = [
        ("SIMPLE", True, "file does conform to FITS standard"),
        ("BITPIX", 16, "number of bits per data pixel"),
        ("NAXIS", 2, "number of data axes"),
        ("NAXIS1", width, "length of data axis 1"),
        ("NAXIS2", height, "length of data axis 2"),
        ("EXTEND", True, "FITS dataset may contain extensions"),
        ("BZERO", 32768, "offset data range to that of unsigned short"),
        ("BSCALE", 1, "default scaling factor"),
    ]
    header = "".join(_card_text(*card) for card in structure + cards) + "END".ljust(80)
    header = header.ljust(-(-len(header) // 2880) * 2880)
    data = (pixels.astype(np.int32) - 32768).astype(">i2").tobytes()
    padding = b"\0" * (-len(data) % 2880)
    return header.encode("ascii") + data + padding

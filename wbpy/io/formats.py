"""What kind of file is this: told from its first bytes, the name only where these are ambiguous."""

from __future__ import annotations

import os

HEAD_SIZE = 16
"""How many bytes from the start `identify` wants to see."""

FITS_SUFFIXES = (".fits", ".fit", ".fts", ".fz")

_RAW_SUFFIXES = {
    *(".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".pef", ".orf", ".rw2"),
    *(".dng", ".mrw", ".x3f", ".raw", ".3fr", ".iiq", ".kdc", ".dcr", ".erf", ".srw", ".mef", ".mos"),
}
_TEXT_SUFFIXES = {".txt", ".hdr", ".json", ".md", ".csv", ".log", ".xml", ".html"}
"""Headers and logs saved as text may begin like the files that they describe."""
_BY_SUFFIX = {
    ".tif": "tiff",
    ".tiff": "tiff",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".png": "png",
    ".bmp": "bmp",
    ".gif": "gif",
    ".ser": "ser",
    ".avi": "avi",
    ".xisf": "xisf",
    ".psd": "psd",
    ".cri": "raw",
}
_BY_START = (
    (b"SIMPLE  =", "fits"),
    (b"XISF0100", "xisf"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"LUCAM-RECORDER", "ser"),
    (b"GIF8", "gif"),
    (b"FUJIFILMCCD-RAW", "raw"),
    (b"FOVb", "raw"),
    (b"\x00MRM", "raw"),
    (b"IIRO", "raw"),
    (b"IIU\x00", "raw"),
)


def suffix(path: str) -> str:
    """Return the lower-case suffix of a file name, the one before ``.gz`` where there is one."""
    stem = path.lower()
    if stem.endswith(".gz"):
        stem = stem[:-3]
    return os.path.splitext(stem)[1]


def stem(name: str) -> str:
    """Return a file name without its suffix, without both for names such as ``m42.fits.gz`` and ``m42.fits.fz``."""
    first, ending = os.path.splitext(name)
    if ending.lower() in (".gz", ".fz"):
        inner, second = os.path.splitext(first)
        return inner if second.lower() in FITS_SUFFIXES else first
    return first


def identify(path: str, head: bytes) -> str | None:
    """Return the format of a file: ``fits``, ``xisf``, ``raw``, ``tiff``, ``jpeg``, ``png``, ``ser``, ``avi``...

    Parameters
    ----------
    path : str
        Name of the file; its suffix decides where the first bytes do not.
    head : bytes
        The first `HEAD_SIZE` bytes; fewer when the file is shorter.

    Returns
    -------
    str or None
        None when the file is no image of a format that is known here, for example a sidecar or a text.
        A broken file keeps the format that its name claims.
    """
    ending = suffix(path)
    if ending in _TEXT_SUFFIXES:
        return None
    if ending in _RAW_SUFFIXES:
        # Some raw formats begin like TIFF or JPEG files.
        return "raw"
    for start, name in _BY_START:
        if head.startswith(start):
            return name
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if head[:2] == b"\x1f\x8b":
        return "fits" if ending in FITS_SUFFIXES else None
    if head[4:12] == b"ftypcrx ":
        return "raw"
    if head[:4] in (b"II*\x00", b"MM\x00*"):
        return "tiff"
    if ending in FITS_SUFFIXES:
        return "fits"
    return _BY_SUFFIX.get(ending)

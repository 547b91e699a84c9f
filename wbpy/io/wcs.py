"""Where the pixels of a picture lie on the sky: read from a header, moved to another grid, written again.

Handled are linear celestial coordinates (CD, PC with CDELT, or CDELT with CROTA2) of any projection, with the SIP
polynomials of Shupe et al. (2005, ASP Conf. Ser. 347, 491). Under a change of pixels that is linear, both stay exact:
with ``old = A new + b``, ``CD' = CD A``, ``CRPIX' = A^-1 (CRPIX - b)`` and ``F'(d) = A^-1 F(A d)`` for the polynomials.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbpy.io.headers import FitsHeader
from wbpy.io.products import CardText
from wbpy.model import Scalar

Polynomial = dict[tuple[int, int], float]
"""Powers of u and v -> coefficient."""

_SIP = (("A", "B"), ("AP", "BP"))
_TERM = re.compile(r"(A|B|AP|BP)_([0-9])_([0-9])")
_KEPT = re.compile(r"PV[12]_\d{1,2}|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX|CUNIT[12]")
_OWN = re.compile(
    r"WCSAXES|CTYPE[123]|CRVAL[123]|CRPIX[123]|CDELT[123]|CROTA[123]|CD[123]_[123]|PC[123]_[123]|"
    r"(A|B|AP|BP)_(ORDER|DMAX|\d_\d)|" + _KEPT.pattern
)
_CELESTIAL = re.compile(r"(RA--|DEC-|GLON|GLAT|ELON|ELAT)-\w{1,3}(-SIP)?\s*")


def is_wcs_keyword(keyword: str) -> bool:
    """Return whether a keyword is one of those that say where a picture lies on the sky."""
    return _OWN.fullmatch(keyword) is not None


@dataclass(frozen=True)
class Wcs:
    """World coordinates of a picture."""

    ctype: tuple[str, str]
    crval: tuple[float, float]
    """Degrees."""
    crpix: NDArray[np.float64]
    """(2,): point (x, y) of the reference value, px, 0-based."""
    cd: NDArray[np.float64]
    """(2, 2): degrees for each pixel."""
    sip: Mapping[str, Polynomial]
    """A, B, AP and BP as far as there are any."""
    further: tuple[tuple[str, Scalar], ...] = ()
    """Keywords that a change of pixels does not touch: equinox, pole, parameters of the projection."""

    def moved(self, matrix: NDArray[np.float64]) -> Wcs:
        """Return the same sky for other pixels.

        Parameters
        ----------
        matrix : (3, 3) float64 ndarray
            New pixel -> pixel of this picture, linear: its last row is (0, 0, 1).
        """
        linear, shift = matrix[:2, :2], matrix[:2, 2]
        back = np.linalg.inv(linear)
        sip: dict[str, Polynomial] = {}
        for x, y in _SIP:
            if x in self.sip or y in self.sip:
                pair = [_substituted(self.sip.get(name, {}), linear) for name in (x, y)]
                sip[x], sip[y] = (_sum(pair, row) for row in back)
        crpix = back @ (self.crpix - shift)
        return dataclasses.replace(self, crpix=crpix, cd=self.cd @ linear, sip=sip)

    def upside_down(self, height: int) -> Wcs:
        """Return the same sky for a picture of `height` rows in reverse order."""
        return self.moved(np.array([[1.0, 0.0, 0.0], [0.0, -1.0, height - 1.0], [0.0, 0.0, 1.0]]))

    def _implied(self) -> list[tuple[str, Scalar]]:
        """Return what the standard takes for granted where a header is silent: Siril 1.0 drops a header without."""
        known = dict(self.further)
        implied: list[tuple[str, Scalar]] = [(f"CUNIT{n}", "deg") for n in (1, 2) if f"CUNIT{n}" not in known]
        frame = known.get("RADESYS", known.get("RADECSYS"))
        if frame is None and "EQUINOX" not in known:
            frame = "ICRS"
            implied.append(("RADESYS", frame))
        if "EQUINOX" not in known and str(frame).strip() in ("ICRS", "FK5"):
            implied.append(("EQUINOX", 2000.0))
        return implied

    def cards(self) -> list[CardText]:
        """Return the cards that say this in a FITS header."""
        cards: list[CardText] = [("WCSAXES", 2, "axes of the coordinates")]
        for n in (0, 1):
            cards.append((f"CTYPE{n + 1}", self.ctype[n], "coordinate and projection"))
        for n in (0, 1):
            cards.append((f"CRVAL{n + 1}", self.crval[n], "[deg] at the reference pixel"))
        for n in (0, 1):
            cards.append((f"CRPIX{n + 1}", float(self.crpix[n]) + 1.0, "[px] reference pixel, from 1 on"))
        for n in (0, 1):
            cards += [(f"CD{n + 1}_{m + 1}", float(self.cd[n, m]), "[deg/px]") for m in (0, 1)]
        cards += [(keyword, value, "") for keyword, value in (*self.further, *self._implied())]
        for pair in _SIP:
            order = max((p + q for name in pair for p, q in self.sip.get(name, {})), default=0)
            # One order for both, because readers refuse a polynomial in x without one in y.
            for name in pair if order else ():
                terms = self.sip.get(name, {})
                cards.append((f"{name}_ORDER", order, "order of the polynomial"))
                cards += [(f"{name}_{p}_{q}", float(terms[p, q]), "") for p, q in sorted(terms)]
        return cards


def read_wcs(header: FitsHeader) -> Wcs | None:
    """Return the celestial coordinates of the first image of a file, for its rows as stored; None without usable ones.

    In XISF files the keywords count rows from the bottom, although the top row is stored first: that is how
    PixInsight, which makes them, reads and writes them.
    """
    values: dict[str, Any] = {}
    for card in header.cards:
        values.setdefault(card.keyword, card.value)
    ctype = values.get("CTYPE1"), values.get("CTYPE2")
    if not all(isinstance(name, str) and _CELESTIAL.fullmatch(name.ljust(8, "-")) for name in ctype):
        return None
    crval, crpix = (_numbers(values, (f"{name}1", f"{name}2")) for name in ("CRVAL", "CRPIX"))
    cd = _matrix(values)
    if crval is None or crpix is None or cd is None:
        return None
    sip: dict[str, Polynomial] = {}
    for keyword, value in values.items():
        term = _TERM.fullmatch(keyword)
        if term and isinstance(value, (int, float)) and math.isfinite(value):
            sip.setdefault(term[1], {})[int(term[2]), int(term[3])] = float(value)
    further = tuple((keyword, value) for keyword, value in values.items() if _KEPT.fullmatch(keyword))
    found = Wcs(
        ctype=(str(ctype[0]).strip(), str(ctype[1]).strip()),
        crval=(crval[0], crval[1]),
        crpix=np.array(crpix) - 1.0,
        cd=cd,
        sip=sip,
        further=further,
    )
    return found.upside_down(header.axes[1]) if header.format == "xisf" else found


def _numbers(values: Mapping[str, Any], keywords: Sequence[str]) -> list[float] | None:
    found = [values.get(keyword) for keyword in keywords]
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v) for v in found):
        return None
    return [float(value) for value in found if value is not None]


def _matrix(values: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Return degrees for each pixel from CD, PC and CDELT, or CDELT and CROTA2; None if they are no matrix."""
    names = [[f"{{}}{n}_{m}" for m in (1, 2)] for n in (1, 2)]
    if any(values.get(f"CD{n}_{m}") is not None for n in (1, 2) for m in (1, 2)):
        found = _numbers({"": 0.0, **values}, [k if (k := t.format("CD")) in values else "" for r in names for t in r])
        matrix = None if found is None else np.array(found).reshape(2, 2)
    else:
        scale = _numbers(values, ("CDELT1", "CDELT2"))
        if scale is None:
            return None
        if any(t.format("PC") in values for row in names for t in row):
            unit = {f"PC{n}_{m}": float(n == m) for n in (1, 2) for m in (1, 2)}
            found = _numbers({**unit, **values}, list(unit))
            matrix = None if found is None else np.diag(scale) @ np.array(found).reshape(2, 2)
        else:
            turn = _numbers({"CROTA2": 0.0, **values}, ("CROTA2",))
            if turn is None:
                return None
            c, s = math.cos(math.radians(turn[0])), math.sin(math.radians(turn[0]))
            matrix = np.array([[c, -s], [s, c]]) @ np.diag(scale)
    return matrix if matrix is not None and abs(np.linalg.det(matrix)) > 1e-30 else None


def _substituted(terms: Polynomial, linear: NDArray[np.float64]) -> Polynomial:
    """Return a polynomial of (u, v) as one of (s, t), where (u, v) = linear (s, t)."""
    (a, b), (c, d) = linear.tolist()
    found: Polynomial = {}
    for (p, q), value in terms.items():
        # (a s + b t)^p (c s + d t)^q
        for i in range(p + 1):
            for j in range(q + 1):
                factor = math.comb(p, i) * a**i * b ** (p - i) * math.comb(q, j) * c**j * d ** (q - j)
                power = (i + j, p + q - i - j)
                found[power] = found.get(power, 0.0) + value * factor
    return found


def _sum(terms: Sequence[Polynomial], weights: NDArray[np.float64]) -> Polynomial:
    """Return the weighted sum of polynomials, terms that vanish left out."""
    found: Polynomial = {}
    for polynomial, weight in zip(terms, weights.tolist(), strict=True):
        for power, value in polynomial.items():
            found[power] = found.get(power, 0.0) + weight * value
    return {power: value for power, value in found.items() if value != 0.0}

"""Where an integration lies on the sky, from the headers of its reference or of another of its lights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wbpy.engine import overscanning
from wbpy.engine.context import Context
from wbpy.engine.results import Decisions, Treated, grid_of, leader_of
from wbpy.errors import ReadError
from wbpy.io.headers import load_header
from wbpy.io.wcs import Wcs, read_wcs
from wbpy.model import Step
from wbpy.stages.register import Transform

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def sky_of(
    context: Context, step: Step, treated: dict[str, Treated], decisions: Decisions, paths: Sequence[str]
) -> Wcs | None:
    """Return the celestial coordinates of the grid on which `paths` lie; None when no light has any.

    The reference's own count first: its pixels are those of the grid. Another light's are carried over by its
    transform, and a finding says how well; coordinates are linear in pixels apart from SIP polynomials, so that what
    a perspective or a distortion bends is lost.
    """
    import numpy as np

    leader = leader_of(context, decisions, paths)
    grid = grid_of(context, treated, decisions, paths)
    found = _sky_of_light(context, treated[leader])
    if found is not None:
        shift = np.array([[1.0, 0.0, grid.x0], [0.0, 1.0, grid.y0], [0.0, 0.0, 1.0]])
        return found.moved(shift)
    for path in paths:
        if path != leader and (found := _sky_of_light(context, treated[path])) is not None:
            matrix, error = linearized(decisions.transforms[path], grid.shape)
            limit = context.rules.findings["WCS001"].limits["error_px"]
            name, reference = Path(path).name, Path(leader).name
            context.find("WCS001", step.id, name=name, reference=reference, error_px=error, limit_px=limit)
            return found.moved(matrix)
    return None


def linearized(transform: Transform, shape: tuple[int, int]) -> tuple[npt.NDArray[np.float64], float]:
    """Return the linear map that is nearest to a transform over a grid of shape `shape`, and its largest error, px.

    Least squares over 17 x 17 points; the error is counted in pixels of the grid.
    """
    import numpy as np

    height, width = shape
    x, y = np.meshgrid(np.linspace(0, width - 1, 17), np.linspace(0, height - 1, 17))
    points = np.column_stack([x.ravel(), y.ravel()])
    there = transform.apply(points, 1)
    # Centred, so that large coordinates cost no digits.
    middle = points.mean(axis=0)
    design = np.column_stack([points - middle, np.ones(len(points))])
    fitted = np.linalg.lstsq(design, there, rcond=None)[0]
    matrix = np.eye(3)
    matrix[:2, :2] = fitted[:2].T
    matrix[:2, 2] = fitted[2] - matrix[:2, :2] @ middle
    off = (design @ fitted - there) @ np.linalg.inv(matrix[:2, :2]).T
    return matrix, float(np.hypot(*off.T).max())


def _sky_of_light(context: Context, light: Treated) -> Wcs | None:
    """Return the celestial coordinates of a treated light's pixels from the header of its file."""
    import numpy as np

    frame = light.frame
    if frame.path in context.frames and frame.format == "raw":
        # Camera raw files know nothing of the sky, and reading them takes long.
        return None
    try:
        header = load_header(frame.path)
        found = read_wcs(header)
        where = overscanning.where(context, frame) if frame.path in context.frames else None
    except ReadError:
        return None
    if found is None:
        return None
    height, width = light.image.shape
    x0, y0 = (where.image.x0, where.image.y0) if where is not None else (0, 0)
    columns = where.image.x1 - x0 if where is not None else header.axes[0]
    # A debayer method may have joined pixels into larger ones: the centre of the first of k is at (k - 1) / 2.
    joined = max(1, round(columns / width))
    middle = (joined - 1) / 2
    matrix = np.array([[joined, 0.0, x0 + middle], [0.0, joined, y0 + middle], [0.0, 0.0, 1.0]])
    return found.moved(matrix)

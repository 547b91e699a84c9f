"""Lists of approved lights as CSV: what the user decides comes in, what was decided goes out."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from wbpy.errors import ReadError
from wbpy.io.products import write_atomic
from wbpy.model import Scalar

_FRAME = ("frame", "file", "path", "name")
_YES = ("yes", "y", "true", "1")
_NO = ("no", "n", "false", "0")


def read_list(path: Path, frames: Sequence[str]) -> dict[str, bool]:
    """Return what a list says about frames.

    A column ``frame`` (or ``file``, ``path``, ``name``) holds paths or file names, a column ``approved`` yes or no;
    empty says nothing. Without that column the frames of the list are approved and all others are not.

    Parameters
    ----------
    path : Path
        The CSV file, UTF-8, with a line of column names.
    frames : sequence of str
        Paths of all frames. A file name means every frame of that name.

    Returns
    -------
    dict of str to bool
        Path -> approved; frames on which the list is silent are left out.

    Raises
    ------
    ReadError
        If the file cannot be read, has no such column, names a frame that is not there, or has another word in
        ``approved``; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ReadError(f"cannot be read: {reason}") from error
    rows = csv.DictReader(io.StringIO(text))
    columns = {name.strip().lower(): name for name in rows.fieldnames or ()}
    column = next((columns[name] for name in _FRAME if name in columns), None)
    if column is None:
        raise ReadError(f"has no column {' or '.join(_FRAME)}; the columns are {', '.join(columns) or 'none'}")
    by_name: dict[str, list[str]] = defaultdict(list)
    for frame in frames:
        by_name[frame].append(frame)
        by_name[Path(frame).name].append(frame)
    approved = columns.get("approved")
    listed = {} if approved else dict.fromkeys(frames, False)
    for row in rows:
        name, word = (row[column] or "").strip(), (row[approved] or "").strip().lower() if approved else "yes"
        if not name or not word:
            continue
        if name not in by_name:
            raise ReadError(f"line {rows.line_num}: {name} is none of the frames of this plan")
        if word not in _YES + _NO:
            raise ReadError(f"line {rows.line_num}: approved is {word!r}, expected yes or no")
        listed |= dict.fromkeys(by_name[name], word in _YES)
    return listed


def write_rows(path: Path, rows: Sequence[Mapping[str, Scalar]]) -> None:
    """Write rows with the same keys as CSV: a line of names, then one line for each; None is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    write_atomic(path, text.getvalue().encode())

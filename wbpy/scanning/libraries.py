"""Keep the index of a library root, so that its headers are read once for all projects."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from wbpy.catalog import Catalog, Entry
from wbpy.errors import ReadError


class LibraryIndex:
    """What is known about the files below one library root.

    Parameters
    ----------
    root : path-like
        The folder.
    cache : path-like or None
        Folder of the index files; None keeps nothing.
    basis : str
        Fingerprint of the rules and settings: an index of another basis is read anew.
    """

    def __init__(self, root: str | os.PathLike[str], cache: str | os.PathLike[str] | None, basis: str) -> None:
        self.root = os.path.abspath(os.path.expanduser(os.fspath(root)))
        self._basis = basis
        name = hashlib.sha256(self.root.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._file = None if cache is None else Path(cache) / f"library-{name}.sqlite"
        self.entries: tuple[Entry, ...] = ()
        if self._file is not None and self._file.is_file():
            try:
                index = Catalog.load(self._file)
            except ReadError:
                # Reading all headers again costs time only.
                return
            if index.basis == basis:
                self.entries = index.entries

    def keep(self, entries: Sequence[Entry]) -> str | None:
        """Save those of `entries` that lie below the root, when they changed; return what prevented it, or None."""
        if self._file is None:
            return None
        inside = os.path.join(self.root, "")
        ours = tuple(
            entry for entry in entries if entry.path.startswith(inside) and (entry.frame is None or entry.frame.library)
        )
        if len(ours) == len(self.entries) and all(a is b for a, b in zip(ours, self.entries, strict=True)):
            return None
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            Catalog(ours, (), self._basis).save(self._file)
        except (OSError, sqlite3.Error) as error:
            return str(error)
        return None

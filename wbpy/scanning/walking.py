"""Find the files below the given paths: each once, and what was passed over on the way."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from wbpy.config import ScanSettings
from wbpy.findings import make_finding
from wbpy.io.formats import stem, suffix
from wbpy.io.sidecars import find_sidecar
from wbpy.model import Finding
from wbpy.rules import Rules


class FoundFile(NamedTuple):
    """One file that the walk came across."""

    path: str
    below: str
    """Path below the folder that the user named, with slashes."""
    size: int
    modified_ns: int
    sidecar: str | None = None
    """Path of the text beside it that may say more."""
    sidecar_state: str | None = None
    """Its name, size and time, which tell whether it changed."""
    library: bool = False
    """True for what lies below a library root."""


class Walk:
    """The files below the given paths, each once, and what was passed over on the way."""

    def __init__(self, rules: Rules, settings: ScanSettings) -> None:
        self.files: list[FoundFile] = []
        self._rules = rules
        self._follow = settings.follow_links
        self._findings: list[Finding] = []
        self._paths: set[str] = set()
        self._identities: dict[tuple[int, int], str] = {}
        self._folders: set[tuple[int, int]] = set()
        self._hidden: dict[str, list[str]] = {}
        self._others: dict[str, int] = {}
        self._texts: dict[str, frozenset[str]] = {}
        self._root = ""
        self._library = False

    def add(self, path: str, *, library: bool = False) -> None:
        """Search one path that the user named."""
        self._root = path
        self._library = library
        if os.path.isdir(path):
            self._folder(path, "")
        elif library:
            self._note("SCN016", path, problem="a library has to be a folder, and there is none of this name")
        else:
            folder = os.path.dirname(path)
            if folder not in self._texts:
                self._texts[folder] = _texts_in(folder)
            self._file(path, os.path.basename(path), self._texts[folder])

    def passed_over(self, path: str) -> None:
        """Note a file that is no image."""
        kind = suffix(path) or "no suffix"
        self._others[kind] = self._others.get(kind, 0) + 1

    def findings(self) -> list[Finding]:
        """Return what is to be said about the search as a whole."""
        result = list(self._findings)
        for folder, names in self._hidden.items():
            result.append(make_finding(self._rules, "SCN012", folder, count=len(names), first=names[0]))
        if self._others:
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self._others.items()))
            count = sum(self._others.values())
            result.append(make_finding(self._rules, "SCN013", self._root, count=count, kinds=kinds))
        return result

    def _note(self, id: str, subject: str, **evidence: str) -> None:
        self._findings.append(make_finding(self._rules, id, printable(subject), **evidence))

    def _folder(self, path: str, below: str) -> None:
        try:
            state = os.stat(path)
            with os.scandir(path) as listing:
                children = sorted(listing, key=lambda child: child.name)
        except OSError as error:
            self._note("SCN016", path, problem=error.strerror or str(error))
            return
        identity = (state.st_dev, state.st_ino)
        if state.st_ino and identity in self._folders:
            # The user named a folder twice, or links lead in a circle: each folder is searched once.
            return
        self._folders.add(identity)
        names = {child.name for child in children}
        texts = frozenset(name for name in names if name.lower().endswith(".txt"))
        if ".store" in names and ("plan.json" in names or "run.json" in names):
            self._note("SCN011", path)
            children = [child for child in children if child.name == "masters"]
        for child in children:
            self._child(child, path, below, texts)

    def _child(self, child: os.DirEntry[str], folder: str, below: str, texts: frozenset[str]) -> None:
        if child.name.startswith("."):
            self._hidden.setdefault(printable(folder), []).append(printable(child.name))
            return
        inner = f"{below}/{child.name}" if below else child.name
        try:
            is_folder = child.is_dir()
            if is_folder and child.is_symlink():
                state = child.stat()
                if not self._follow:
                    self._note("SCN015", child.path, reason="scan.follow_links is false")
                    return
                if (state.st_dev, state.st_ino) in self._folders:
                    self._note("SCN015", child.path, reason="it leads to a folder that was searched already")
                    return
        except OSError as error:
            self._note("SCN016", child.path, problem=error.strerror or str(error))
            return
        if is_folder:
            self._folder(child.path, inner)
        else:
            self._file(child.path, inner, texts)

    def _file(self, path: str, below: str, texts: frozenset[str]) -> None:
        if path in self._paths:
            return
        self._paths.add(path)
        size, modified_ns = -1, 0
        try:
            state = os.stat(path)
        except OSError:
            # The reader will say what is wrong with it.
            pass
        else:
            if not stat.S_ISREG(state.st_mode):
                self.passed_over(path)
                return
            size, modified_ns = state.st_size, state.st_mtime_ns
            identity = (state.st_dev, state.st_ino)
            if state.st_ino and (other := self._identities.setdefault(identity, path)) != path:
                self._note("SCN018", path, other=printable(other))
                return
        sidecar, sidecar_state = _sidecar(path, texts) if texts else (None, None)
        below = below.replace(os.sep, "/")
        self.files.append(FoundFile(path, below, size, modified_ns, sidecar, sidecar_state, self._library))


def _texts_in(folder: str) -> frozenset[str]:
    """Return the names of the texts in a folder; none when it cannot be listed."""
    try:
        return frozenset(name for name in os.listdir(folder) if name.lower().endswith(".txt"))
    except OSError:
        return frozenset()


def _sidecar(path: str, texts: frozenset[str]) -> tuple[str | None, str | None]:
    folder, name = os.path.split(path)
    if name in texts or (text := find_sidecar(stem(name), texts)) is None:
        return None, None
    beside = os.path.join(folder, text)
    try:
        state = os.stat(beside)
    except OSError:
        return None, None
    return beside, f"{text}:{state.st_size}:{state.st_mtime_ns}"


def printable(path: str) -> str:
    """Return a path that can be written as UTF-8, bytes that are no text as question marks."""
    return path.encode("utf-8", "replace").decode("utf-8")

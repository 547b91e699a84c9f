"""Artifacts by key, under ``OUT/.store``: what a run made once and another run need not make again.

An artifact appears whole or not at all: it is written under a temporary name and renamed. Its key is a hash of
everything that decides its content, so that nothing is ever out of date; the folder is safe to delete.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_KINDS = ("image", "mended", "record", "bits")
"""Folders of artifacts."""

_CHUNK = 1 << 18
"""Bytes read at once: they stay in a core's cache until they are hashed."""


def make_key(*parts: Any) -> str:
    """Return the 128-bit hash of JSON-like values; the same values give the same key on every machine."""
    import xxhash

    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(parts, order="deterministic"))


def file_digest(path: Path) -> str:
    """Return the 128-bit hash of a file's bytes."""
    import xxhash

    state = xxhash.xxh3_128()
    buffer = bytearray(_CHUNK)
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            state.update(memoryview(buffer)[:size])
    return str(state.hexdigest())


class Maps:
    """Files that stay mapped, as long as their sizes together stay within an allowance.

    Mapping a file for each rectangle that is read costs fifteen times what copying the rectangle does. The pages of
    a mapped file belong to the cache of the system, but they count in the size of the process.
    """

    def __init__(self, allowance: int) -> None:
        self._left = allowance
        self._lock = threading.Lock()
        self._open: dict[Path, npt.NDArray[Any]] = {}

    def array(self, path: Path) -> npt.NDArray[Any]:
        """Return the array in a file of the store."""
        import numpy as np

        return self._mapped(path, lambda: np.load(path, mmap_mode="r"))

    def words(self, path: Path, start: int, shape: tuple[int, int]) -> npt.NDArray[np.uint16]:
        """Return the 16-bit words of a given shape that begin at a byte of a file, not swapped."""
        import numpy as np

        return self._mapped(path, lambda: np.memmap(path, np.uint16, "r", start, shape))

    def _mapped(self, path: Path, load: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        import numpy as np

        with self._lock:
            known = self._open.get(path)
        if known is not None:
            return known
        mapped: npt.NDArray[Any] = np.asarray(load())
        with self._lock:
            if path not in self._open and mapped.nbytes <= self._left:
                self._left -= mapped.nbytes
                self._open[path] = mapped
        return mapped


@dataclass(frozen=True)
class StoredImage:
    """A float32 image in the store, read by rectangle."""

    path: Path
    shape: tuple[int, int]
    maps: Maps

    def read(self, y0: int, y1: int, x0: int, x1: int) -> npt.NDArray[np.float32]:
        """Return the pixels of a rectangle as a contiguous copy."""
        import numpy as np

        return np.array(self.maps.array(self.path)[y0:y1, x0:x1], order="C")


@dataclass(frozen=True)
class StoredBits:
    """Bits (C, N, H, W / 8) in the store, of C channels of N frames, read by rectangle."""

    path: Path

    def read(self, number: int, y0: int, y1: int, x0: int, x1: int) -> npt.NDArray[np.uint8]:
        """Return the (C, y1 - y0, (x1 - x0) / 8) bits of one frame, first in the highest; x0 is a multiple of 8."""
        import numpy as np

        mapped: Any = np.load(self.path, mmap_mode="r")
        return np.array(mapped[:, number, y0:y1, x0 // 8 : -(-x1 // 8)], order="C")


class Store:
    """The artifacts of one output folder.

    Parameters
    ----------
    root : Path
        The folder ``.store``; made when missing. Leftovers of a killed run are removed.
    mapped : int
        Bytes of images that may stay mapped; the others are mapped for each reading, so that the pages of many frames
        do not pile up in memory.
    """

    def __init__(self, root: Path, mapped: int = 0) -> None:
        self._root = root
        self.maps = Maps(mapped)
        self._lock = threading.Lock()
        self._used: set[Path] = set()
        self._digests: dict[tuple[str, int, int], str] = {}
        for kind in ("image", "mended", "record"):
            (root / kind).mkdir(parents=True, exist_ok=True)
        for leftover in root.glob("*/.*.tmp"):
            leftover.unlink(missing_ok=True)
        self._digest_file = root / "digests.jsonl"
        if self._digest_file.exists():
            lines = self._digest_file.read_text(encoding="utf-8")
            if not lines.endswith("\n"):
                with open(self._digest_file, "a", encoding="utf-8") as file:
                    file.write("\n")
            for line in lines.splitlines():
                try:
                    path, size, modified, digest = json.loads(line)
                except ValueError:
                    continue  # the last line of a killed run
                self._digests[path, size, modified] = digest

    def digest(self, path: str, size: int, modified_ns: int) -> str:
        """Return the hash of an input's content, from an earlier reading while size and time are the same."""
        identity = (path, size, modified_ns)
        with self._lock:
            known = self._digests.get(identity)
        if known is not None:
            return known
        digest = file_digest(Path(path))
        with self._lock:
            self._digests[identity] = digest
            with open(self._digest_file, "a", encoding="utf-8") as file:
                file.write(json.dumps([*identity, digest]) + "\n")
        return digest

    def image(self, key: str) -> StoredImage | None:
        """Return the stored image, or None."""
        import numpy as np

        path = self._root / "image" / f"{key}.npy"
        try:
            mapped: Any = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return None
        self._mark(path)
        return StoredImage(path, mapped.shape, self.maps)

    def put_image(self, key: str, image: npt.NDArray[np.float32]) -> StoredImage:
        """Store an (H, W) float32 image and return it."""
        import numpy as np

        path = self._root / "image" / f"{key}.npy"
        temporary = path.with_name(f".{key}.{threading.get_ident()}.tmp")
        with open(temporary, "wb") as file:
            np.save(file, image)
        os.replace(temporary, path)
        self._mark(path)
        return StoredImage(path, (image.shape[0], image.shape[1]), self.maps)

    def bits(self, key: str) -> StoredBits | None:
        """Return the stored bits, or None."""
        path = self._root / "bits" / f"{key}.npy"
        if not path.exists():
            return None
        self._mark(path)
        return StoredBits(path)

    @contextlib.contextmanager
    def put_bits(
        self, key: str, shape: tuple[int, int, int, int]
    ) -> Iterator[Callable[[int, int, npt.NDArray[np.uint8]], None]]:
        """Store bits of the channels, frames, height and width of `shape` as they come, in rectangles.

        Yields a function that takes y0, x0 (a multiple of 8) and the (C, N, h, w / 8) bits of a rectangle; threads may
        call it at the same time. What was never given is zero. The bits appear when the block ends without exception.
        """
        import numpy as np

        path = self._root / "bits" / f"{key}.npy"
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{key}.{threading.get_ident()}.tmp")
        channels, frames, height, width = shape
        packed = (channels, frames, height, -(-width // 8))
        with open(temporary, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": packed}
            np.lib.format.write_array_header_1_0(file, header)
            # Written in full: running out of disk in a mapped file would end the program.
            for start in range(0, math.prod(packed), _CHUNK):
                file.write(bytes(min(_CHUNK, math.prod(packed) - start)))
        mapped: Any = np.load(temporary, mmap_mode="r+")

        def put(y0: int, x0: int, bits: npt.NDArray[np.uint8]) -> None:
            if bits.any():
                mapped[:, :, y0 : y0 + bits.shape[2], x0 // 8 : x0 // 8 + bits.shape[3]] = bits

        try:
            yield put
            mapped.flush()
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        os.replace(temporary, path)
        self._mark(path)

    def record(self, key: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]] | None:
        """Return the stored values and arrays, or None."""
        found = self._arrays("record", key)
        if found is None or "values" not in found:
            return None
        try:
            return json.loads(found.pop("values").tobytes()), found
        except ValueError:
            return None

    def put_record(self, key: str, values: dict[str, Any], **arrays: npt.NDArray[Any]) -> None:
        """Store JSON-like values (NaN allowed) and arrays."""
        import numpy as np

        self._put_arrays("record", key, {"values": np.frombuffer(json.dumps(values).encode(), np.uint8), **arrays})

    def mended(self, key: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None:
        """Return the flat indices and values of replaced pixels, or None."""
        found = self._arrays("mended", key)
        if found is None or not {"indices", "values"} <= found.keys():
            return None
        return found["indices"], found["values"]

    def put_mended(self, key: str, indices: npt.NDArray[np.int64], values: npt.NDArray[np.float32]) -> None:
        """Store the flat indices and values of replaced pixels."""
        self._put_arrays("mended", key, {"indices": indices, "values": values})

    def _arrays(self, kind: str, key: str) -> dict[str, npt.NDArray[Any]] | None:
        import zipfile

        import numpy as np

        try:
            with open(self._root / kind / f"{key}.npz", "rb") as file, np.load(file) as content:
                found = {name: content[name] for name in content.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        self._mark(self._root / kind / f"{key}.npz")
        return found

    def _put_arrays(self, kind: str, key: str, arrays: dict[str, npt.NDArray[Any]]) -> None:
        import numpy as np

        path = self._root / kind / f"{key}.npz"
        temporary = path.with_name(f".{key}.{threading.get_ident()}.tmp")
        with open(temporary, "wb") as file:
            content: dict[str, Any] = arrays
            np.savez(file, **content)
        os.replace(temporary, path)
        self._mark(path)

    def product(self, key: str, path: Path) -> dict[str, Any] | None:
        """Return what was recorded with a product, if it still stands at `path` as it was written; else None."""
        found = self.record(key)
        if found is None:
            return None
        values = found[0]
        try:
            status = path.stat()
        except OSError:
            return None
        same = (values["path"], values["size"], values["modified_ns"]) == (
            str(path),
            status.st_size,
            status.st_mtime_ns,
        )
        return values["about"] if same else None

    def put_product(self, key: str, path: Path, about: dict[str, Any]) -> None:
        """Record that the product at `path` has this key."""
        status = path.stat()
        values = {"path": str(path), "size": status.st_size, "modified_ns": status.st_mtime_ns, "about": about}
        self.put_record(key, values)

    def _mark(self, path: Path) -> None:
        """Remember that an artifact was used; the access time of its file says when, to later runs."""
        with self._lock:
            known = path in self._used
            self._used.add(path)
        if not known:
            with contextlib.suppress(OSError):
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))

    def shrink(self, limit: int) -> tuple[int, int, int]:
        """Remove artifacts until the others fit into `limit` bytes; return how many, their bytes, and what is left.

        Those that were used longest ago go first. What was used since this object was made stays, whatever its size.
        """
        found = []
        for kind in _KINDS:
            for path in (self._root / kind).glob("*.np[yz]"):
                with contextlib.suppress(OSError):
                    status = path.stat()
                    found.append((status.st_atime_ns, str(path), status.st_size))
        left = sum(size for _, _, size in found)
        removed = freed = 0
        for _, name, size in sorted(found):
            if left <= limit:
                break
            if Path(name) not in self._used:
                # One that another program holds open stays.
                with contextlib.suppress(OSError):
                    os.unlink(name)
                    removed, freed, left = removed + 1, freed + size, left - size
        return removed, freed, left

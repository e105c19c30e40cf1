"""Spoiling bytes without knowing what they mean, and files as a file system knows them."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np

Rng = np.random.Generator
WORDS = (0, 1, 2, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10_000_000, 10**12)
"""Numbers at which programs err."""


def cut(data: bytes, rng: Rng) -> bytes:
    """Cut short at a 5th percentile."""
    return data[: len(data) * int(rng.integers(20)) * 5 // 100]


def flip(data: bytes, rng: Rng) -> bytes:
    """Some bits, mostly of bytes that are not 0 and lie early, as headers do."""
    out = bytearray(data)
    for place in _places(data, rng, int(rng.integers(1, 9))):
        out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def set_bytes(data: bytes, rng: Rng) -> bytes:
    """Some bytes."""
    out = bytearray(data)
    for place in _places(data, rng, int(rng.integers(1, 9))):
        out[place] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
    return bytes(out)


def words(data: bytes, rng: Rng) -> bytes:
    """Some numbers of 1 to 8 bytes become ones at which programs err."""
    out = bytearray(data)
    for place in _places(data, rng, int(rng.integers(1, 4))):
        size = int(rng.choice([1, 2, 4, 8]))
        value = int(rng.integers(len(data))) if rng.random() < 0.3 else WORDS[rng.integers(len(WORDS))]
        order = "little" if rng.random() < 0.8 else "big"
        out[place : place + size] = (value % 256**size).to_bytes(size, order)
    return bytes(out)


def pointers(data: bytes, rng: Rng) -> bytes:
    """Words that may be addresses in the file take each other's value: what pointed on points back, or to itself."""
    values = np.frombuffer(data[: len(data) // 8 * 8], "<u8")
    likely = np.flatnonzero((values > 15) & (values < len(data)))
    if len(likely) < 2:
        return flip(data, rng)
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        a, b = rng.choice(likely, 2) * 8
        out[a : a + 8] = data[b : b + 8]
    return bytes(out)


def copy(data: bytes, rng: Rng) -> bytes:
    """A span is written over another, taken out, or doubled."""
    if len(data) < 4:
        return data * 2
    a, b = rng.integers(len(data), size=2)
    n = int(rng.integers(1, 65))
    kind = rng.integers(3)
    if kind == 0:
        return data[:a] + data[b : b + n] + data[a + n :]
    return data[:a] + (data[a + n :] if kind == 1 else data[a : a + n] + data[a:])


def junk(data: bytes, rng: Rng) -> bytes:
    """Noise, nothing, a pickle, or the file with something behind or before it."""
    noise = rng.bytes(int(rng.integers(1, 2000)))
    evil = pickle.dumps({"features": [1.0]}, protocol=int(rng.integers(6)))
    return [noise, b"", evil, data + noise, noise[:512].ljust(512) + data, data * 2][rng.integers(6)]


BYTES: dict[str, Callable[[bytes, Rng], bytes]] = {
    "cut": cut, "flip": flip, "set": set_bytes, "words": words, "pointers": pointers, "copy": copy, "junk": junk,
}  # fmt: skip


def _places(data: bytes, rng: Rng, count: int) -> list[int]:
    """Where to strike: half of the time in the first kilobytes, mostly not at zeros."""
    if not data:
        return []
    end = min(len(data), 2048) if rng.random() < 0.5 else len(data)
    filled = np.flatnonzero(np.frombuffer(data[:end], np.uint8))
    pool = filled if len(filled) and rng.random() < 0.8 else np.arange(end)
    return [int(place) for place in rng.choice(pool, count)]


NAMES = ("a\nb", "a\x1b[31mb", "ünïcødé", "​", "..", "...", "-rf", "x" * 240, "‮gnp", "a b ", "%s%n", "\udcff")
"""What a slide's file may be called."""


def entry(file: Path, rng: Rng) -> str:
    """Another kind of entry in the folder takes the file's place, or its name changes."""
    kind = ["folder", "pipe", "dangling", "zero", "loop", "name", "twice"][rng.integers(7)]
    if kind == "name":
        name = NAMES[rng.integers(len(NAMES))]
        file.rename(os.path.join(file.parent, name + file.suffix))
        return f"called {name!r}"
    if kind == "twice":
        (file.parent / (file.stem + file.suffix.upper())).write_bytes(file.read_bytes())
        return kind
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to({"dangling": "nowhere", "zero": "/dev/zero", "loop": file.name}[kind])
    return kind

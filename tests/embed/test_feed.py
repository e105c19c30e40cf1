"""Bags in memory through the encoder: order, reading ahead, what changes while it is read."""

import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from milkit.data.store import open_store
from milkit.embed import Clock, StopError, embed_bags, settings_of
from milkit.embed.assemble import assemble
from milkit.embed.feed import AHEAD
from milkit.errors import DataError


class Encoder:
    """The number of each tile, and its square; notes how far reading was ahead."""

    name, width, side, batch = "numbers", 0, 0, 16

    def __init__(self, sources=()):
        self.sources, self.encoded, self.ahead = sources, 0, 0

    def encode(self, tiles):
        self.ahead = max(self.ahead, sum(s.read for s in self.sources) - self.encoded)
        self.encoded += len(tiles)
        numbers = tiles[:, 0, 0, 0] + 256.0 * tiles[:, 0, 0, 1]
        return np.stack([numbers, numbers / 8], 1).astype(np.float32)

    def facts(self):
        return {"encoder": self.name, "width": self.width}


class Bag:
    """Tiles that hold their number; read by threads that take turns as chance has it."""

    coords_px = coords_um = mpp = tile_um = width_px = None

    def __init__(self, name, tiles, side=2, changed=False, fails_at=None):
        self.id, self.tiles, self.side, self.changed, self.fails_at = name, tiles, side, changed, fails_at
        self.facts, self.read, self.is_open, self.lock = {"slide": name}, 0, False, threading.Lock()

    def open(self):
        self.is_open = True
        return self

    def __len__(self):
        return self.tiles

    def read_tiles(self, start, stop):
        time.sleep(random.random() * 1e-3)
        with self.lock:
            self.read += stop - start
        if self.fails_at is not None and start <= self.fails_at < stop:
            raise DataError(f"tile {self.fails_at} is torn")
        numbers = np.arange(start, stop)
        rgb = np.stack([numbers % 256, numbers // 256, numbers * 0], 1).astype(np.uint8)
        return np.broadcast_to(rgb[:, None, None], (len(rgb), self.side, self.side, 3))

    def unchanged(self):
        return not self.changed

    def close(self):
        self.is_open = False


def run(bags, work, encoder=None, **options):
    encoder = encoder or Encoder()
    return list(embed_bags(bags, encoder, work, settings_of(encoder, "float32"), **options))


def test_order_is_kept_and_reading_stays_a_few_blocks_ahead(tmp_path):
    bags = [Bag("a", 1000), Bag("b", 1), Bag("c", 700), Bag("d", 256)]
    encoder, clock, seen = Encoder(bags), Clock(), []
    found = run(bags, tmp_path, encoder, workers=5, clock=clock, progress=seen.append)
    assert [(e.id, e.tiles, e.kept) for e in found] == [("a", 1000, 0), ("b", 1, 0), ("c", 700, 0), ("d", 256, 0)]
    assert encoder.ahead <= (AHEAD + 1) * 64
    assert not any(b.is_open for b in bags)
    assert (sum(seen), clock.tiles) == (1957, 1957)
    assert 0 < clock.busy < 1
    assemble(tmp_path, ["c", "a", "b", "d"], tmp_path / "s.h5", settings_of(encoder, "float32"), {})
    store = open_store(tmp_path / "s.h5")
    assert store.coords_um is None
    assert store.coords_px is None
    for bag in bags:
        np.testing.assert_array_equal(store.read(bag.id).x[:, 0], np.arange(bag.tiles))
        np.testing.assert_array_equal(store.read(bag.id).x[:, 1], np.arange(bag.tiles) / 8)


def test_a_bag_that_fails_leaves_the_others_whole(tmp_path):
    bags = [Bag("a", 600, fails_at=300), Bag("b", 30, changed=True), Bag("c", 0), Bag("d", 5)]
    found = run(bags, tmp_path, workers=2)
    assert [e.tiles for e in found] == [None, None, None, 5]
    assert found[0].reason == "tile 300 is torn"
    assert "changed while it was read" in found[1].reason
    assert "it has no tiles" in found[2].reason
    assert not any(b.is_open for b in bags)
    again = [Bag("a", 600), Bag("b", 30), Bag("d", 5)]
    found = run(again, tmp_path, workers=2)
    # nothing is kept of what changed while it was read
    assert [(e.tiles, e.kept) for e in found] == [(600, 256), (30, 0), (5, 5)]
    assert again[0].read == 600 - 256


def test_an_encoder_that_raises_ends_all_and_closes_all(tmp_path):
    bags = [Bag("a", 300), Bag("b", 300), Bag("c", 300)]
    encoder = Encoder()

    def encode(tiles):
        if encoder.encoded >= 300:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return Encoder.encode(encoder, tiles)

    encoder.encode = encode
    with pytest.raises(StopError, match=r"tiles 0 to 64 of 'b'.*a smaller --batch may fit"):
        run(bags, tmp_path, encoder, workers=2)
    assert not any(b.is_open for b in bags)
    assert not [t for t in threading.enumerate() if t.name.startswith(("tiles", "writer"))]


@pytest.mark.parametrize(
    ("side", "batch", "block"), [(2, 1, 64), (2, 30, 120), (1000, 1, 22), (1000, 16, 16), (1000, 50, 50)]
)
def test_blocks_are_whole_batches_and_of_few_bytes(side, batch, block):
    encoder = Encoder()
    encoder.batch = batch
    assert settings_of(encoder).block(side) == block
    assert block % batch == 0


def test_wrong_tiles_of_a_source_are_told(tmp_path):
    bag = Bag("a", 10)
    bag.read_tiles = lambda start, stop: np.zeros((stop - start, 3, 3, 3), np.uint8)
    (found,) = run([bag], Path(tmp_path))
    assert "expected uint8 [4, 2, 2, 3]" in found.reason


def test_an_encoder_that_gives_nan_is_told_with_the_tile(tmp_path):
    encoder = Encoder()

    def encode(tiles):
        found = Encoder.encode(encoder, tiles)
        found[found[:, 0] == 70] = np.nan
        return found

    encoder.encode = encode
    (found,) = run([Bag("a", 100)], tmp_path, encoder)
    assert found.reason == "The encoder gave NaN or infinity for tile 70 of 'a'."

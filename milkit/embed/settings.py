"""What decides the bits of features, besides the tiles themselves: said once a store, compared before going on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from milkit.cores import VARIABLE, pool_size
from milkit.data.pack.journal import write_whole
from milkit.data.store_write import StoreDtype
from milkit.encoders import Encoder
from milkit.errors import ConfigError

BATCHES = 4
"""Of a block, which is encoded and written at once: while one batch is computed, the next is on its way."""
LEAST_BLOCK = 64
"""Tiles of a block, where batches are smaller; a kill costs the one under way and the one being written."""
BLOCK_BYTES = 64 << 20
"""Of a block's pixels, where one batch does not take more."""


@dataclass(frozen=True)
class Settings:
    """What all bags of a store have in common.

    Attributes:
        encoder: what the encoder says of itself, but its width, which some know only after the first tile.
        batch: tiles that it computes at once. Batches are cut from a bag's first tile on, and the last is filled up;
            so which tiles share a batch depends on nothing but their numbers.
        dtype: of the features in the store.
        tile_um: width of a tile in micrometres, None where there is no such width.
        tile_px: its width in pixels as it is read, None where bags differ in it.
        backend: of JAX, which others round differently.
        jax: its version.
        threads: of XLA's pool on a CPU, by which it cuts sums; None elsewhere.
    """

    encoder: dict[str, Any]
    batch: int
    dtype: StoreDtype
    tile_um: float | None
    tile_px: int | None
    backend: str
    jax: str
    threads: int | None = None

    @property
    def flat(self) -> dict[str, Any]:
        """One level of JSON-able values."""
        own = {k: v for k, v in vars(self).items() if k != "encoder"}
        return json.loads(json.dumps({**{f"encoder {k}": v for k, v in self.encoder.items()}, **own}))

    def block(self, side: int) -> int:
        """Tiles of a block: whole batches, so that blocks decide no bits."""
        most = min(max(LEAST_BLOCK, BATCHES * self.batch), BLOCK_BYTES // (3 * side * side))
        return self.batch * max(1, most // self.batch)


def settings_of(
    encoder: Encoder, dtype: StoreDtype = "float16", tile_um: float | None = None, tile_px: int | None = None
) -> Settings:
    """The settings of an encoder on this machine.

    Raises:
        ConfigError: no such dtype.
    """
    if dtype not in ("float16", "float32", "bfloat16"):
        raise ConfigError(f"--dtype is {dtype!r}; a store holds float16, float32 or bfloat16.")
    facts = {k: v for k, v in encoder.facts().items() if k != "width"}
    batch = int(getattr(encoder, "batch", 0)) or 64
    backend = jax.default_backend()
    threads = pool_size() if backend == "cpu" else None
    return Settings(facts, batch, dtype, tile_um, tile_px, backend, jax.__version__, threads)


def differences(was: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs, in words; "" where nothing does."""
    words = {"threads": f"threads ({VARIABLE})"}
    said = [
        f"{words.get(k, k)} was {was.get(k)!r}, now {now.get(k)!r}" for k in {**was, **now} if was.get(k) != now.get(k)
    ]
    return "; ".join(said)


def settle(work: Path, settings: Settings) -> None:
    """Write the settings into the folder of all bags, or compare them with what stands there.

    Raises:
        ConfigError: what lies there was made with others.
    """
    path = work / "settings.json"
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        write_whole(path, json.dumps(settings.flat, sort_keys=True, indent=1))
        return
    if other := differences(found, settings.flat):
        raise ConfigError(
            f"What an earlier command encoded in {work} was made with other settings: {other}. Give the same, take "
            "another --out, or throw it away with --anew."
        )

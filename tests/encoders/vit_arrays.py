"""Small vision transformers: random arrays in timm's naming, renamed as others name them, evaluated in float64."""

import math

import numpy as np

ERF = np.vectorize(math.erf)


def timm_arrays(
    width=12, depth=2, patch=4, grid=3, registers=0, gated=False, scale=False, placed="class", seed=0
) -> dict[str, np.ndarray]:
    """Arrays of a random network; `placed` says which tokens have positions: "patches", "class" or "all"."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(0, 0.3, shape).astype(np.float32)

    hidden = 2 * width
    extra = {"patches": 0, "class": 1, "all": 1 + registers}[placed]
    found = {
        "cls_token": draw(1, 1, width),
        "pos_embed": draw(1, grid**2 + extra, width),
        "patch_embed.proj.weight": draw(width, 3, patch, patch),
        "patch_embed.proj.bias": draw(width),
        "norm.weight": 1 + draw(width),
        "norm.bias": draw(width),
    }
    if registers:
        found["reg_token"] = draw(1, registers, width)
    for i in range(depth):
        at = f"blocks.{i}"
        for norm in ("norm1", "norm2"):
            found |= {f"{at}.{norm}.weight": 1 + draw(width), f"{at}.{norm}.bias": draw(width)}
        shapes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        shapes |= {"mlp.fc1": (hidden * (1 + gated), width), "mlp.fc2": (width, hidden)}
        for layer, shape in shapes.items():
            found |= {f"{at}.{layer}.weight": draw(*shape), f"{at}.{layer}.bias": draw(shape[0])}
        if scale:
            found |= {f"{at}.ls{j}.gamma": draw(width) for j in (1, 2)}
    return found


def as_dinov2(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same in DINOv2's naming, blocks in chunks of one."""
    found = {"mask_token": np.zeros((1, arrays["cls_token"].shape[2]), np.float32)}
    for name, array in arrays.items():
        new = name.replace("reg_token", "register_tokens").replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        if new.startswith("blocks."):
            number = new.split(".")[1]
            new = f"blocks.{number}.{new.removeprefix('blocks.')}"
        found[new] = array
    return found


def by_numpy(arrays: dict[str, np.ndarray], x: np.ndarray, heads: int, epsilon=1e-6) -> np.ndarray:
    """Tokens after the last normalisation [n, d] of one prepared image [s, s, 3], written from the papers."""
    a = {name: array.astype(np.float64) for name, array in arrays.items()}
    kernel = a["patch_embed.proj.weight"]
    width, patch = kernel.shape[0], kernel.shape[2]
    side = x.shape[0] // patch
    tokens = []
    for i in range(side):
        for j in range(side):
            part = x[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].astype(np.float64)
            tokens.append(np.einsum("hwc,dchw->d", part, kernel) + a["patch_embed.proj.bias"])
    first = [a["cls_token"][0, 0]]
    more = list(a["reg_token"][0]) if "reg_token" in a else []
    positions = a["pos_embed"][0]
    count = len(positions) - side**2
    if count == 1 + len(more):
        tokens = np.stack([*first, *more, *tokens]) + positions
    elif count == 1:
        placed = np.stack([*first, *tokens]) + positions
        tokens = np.stack([placed[0], *more, *placed[1:]])
    else:
        tokens = np.stack([*first, *more, *(np.stack(tokens) + positions)])

    def normal(t, name):
        t = t - t.mean(1, keepdims=True)
        return t / np.sqrt((t**2).mean(1, keepdims=True) + epsilon) * a[f"{name}.weight"] + a[f"{name}.bias"]

    def linear(t, name):
        return t @ a[f"{name}.weight"].T + a[f"{name}.bias"]

    depth = 1 + max(int(n.split(".")[1]) for n in a if n.startswith("blocks."))
    for i in range(depth):
        at, size = f"blocks.{i}", width // heads
        q, k, v = np.split(linear(normal(tokens, f"{at}.norm1"), f"{at}.attn.qkv"), 3, 1)
        beside = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(size))
            beside.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
        y = linear(np.concatenate(beside, 1), f"{at}.attn.proj")
        tokens = tokens + y * a.get(f"{at}.ls1.gamma", 1.0)
        y = linear(normal(tokens, f"{at}.norm2"), f"{at}.mlp.fc1")
        if a[f"{at}.mlp.fc1.weight"].shape[0] == 2 * a[f"{at}.mlp.fc2.weight"].shape[1]:
            gate, value = np.split(y, 2, 1)
            y = gate / (1 + np.exp(-gate)) * value
        else:
            y = y * 0.5 * (1 + ERF(y / np.sqrt(2)))
        tokens = tokens + linear(y, f"{at}.mlp.fc2") * a.get(f"{at}.ls2.gamma", 1.0)
    return normal(tokens, "norm")

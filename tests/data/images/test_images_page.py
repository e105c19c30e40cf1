"""The page on images: its snippets are run as a reader would run them, one after the other."""

import re

import numpy as np
from PIL import Image


def test_the_page_works_as_it_stands(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = ["image,label,patient"]
    for folder in ("slides", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(6):
        pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "slides" / f"{i}.png")
        Image.fromarray(np.uint8(255) * (pixels[..., 0] > 128)).save(tmp_path / "masks" / f"{i}.png")
        rows.append(f"{i}.png,{i % 2},p{i}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    names: dict = {}
    for snippet in re.findall(r"^```python\n(.*?)^```$", (root / "docs" / "images.md").read_text(), re.S | re.M):
        exec(compile(snippet, "docs/images.md", "exec"), names)
    assert names["study"].sizes.tolist() == [[20, 30]] * 6
    assert names["masks"].has(0)
    np.testing.assert_allclose(names["whole"][..., 0], names["image"].mean(-1), rtol=1e-5)

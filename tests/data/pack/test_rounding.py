"""What is lost in float16, worked by hand."""

import numpy as np

from milkit.data.pack.rounding import Rounding, rounding


def of(*values, dtype=np.float16):
    x = np.array([values], np.float32)
    with np.errstate(under="ignore"):
        return rounding(x, x.astype(dtype), "float16")


def test_errors_by_hand():
    """float16 has 11 bits: 2049 becomes 2048, and the next number after 1 is 1 + 2**-10."""
    assert of(1.0, -0.5, 0.0) == Rounding(3, 0.0, 0.0, 0, 0)
    assert of(2049.0) == Rounding(1, 1.0, float(np.float32(1) / np.float32(2049)), 0, 0)
    assert of(-1 - 2.0**-11) == Rounding(1, 2.0**-11, float(np.float32(2.0**-11) / np.float32(1 + 2.0**-11)), 0, 0)


def test_small_values_are_counted_apart():
    """2**-24 is the smallest number of float16, 2**-14 the smallest with all digits; 2**-26 is rounded to 0."""
    found = of(2.0**-14, 1.5 * 2.0**-24, 2.0**-26)
    assert (found.below_normal, found.underflowed) == (2, 1)
    assert found.max_absolute == 2.0**-25
    assert found.max_relative == 0.0


def test_the_same_dtype_loses_nothing_and_parts_add_up():
    assert of(2049.0, dtype=np.float32) == Rounding()
    both = of(2049.0, 2.0**-26) + of(1.0)
    assert both == Rounding(3, 1.0, float(np.float32(1) / np.float32(2049)), 1, 1)
    assert Rounding().words.startswith("no value was rounded")

"""Linear layers and how their weights start: as in PyTorch, or as in Keras.

Most MIL code is PyTorch's, and its authors never mention the initialisation: it is `torch.nn.Linear`'s
default. Wang et al. (2018) used Keras. Flax's own default (LeCun normal, zero bias) is neither, so milkit
never uses it silently.
"""

from typing import Literal

from flax import nnx

from milkit.nn.products import tall_dot

Init = Literal["torch", "glorot"]
"""How weights start.

`torch`: kernel and bias uniform(+-1/sqrt(fan_in)). `glorot`: kernel uniform(+-sqrt(6/(fan_in + fan_out))),
bias 0.
"""


def torch_kernel() -> nnx.Initializer:
    """Kernel of `torch.nn.Linear`: uniform(+-1/sqrt(fan_in)).

    PyTorch writes it as Kaiming uniform with a = sqrt(5); a variance of 1/(3 fan_in) is the same interval.
    """
    return nnx.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def torch_bias(fan_in: int) -> nnx.Initializer:
    """Bias of `torch.nn.Linear`: uniform(+-1/sqrt(fan_in)), with the kernel's fan_in."""
    bound = fan_in**-0.5

    # flax's own signature, left unannotated as it differs between versions
    def init(key, shape, dtype=None, out_sharding=None):
        return nnx.initializers.uniform(2 * bound)(key, shape, dtype) - bound

    return init


def linear(
    in_features: int, out_features: int, *, rngs: nnx.Rngs, init: Init = "torch", use_bias: bool = True
) -> nnx.Linear:
    """A fully connected layer, kernel [in, out], with the chosen initialisation.

    Parameters are float32. The result has the wider type of input and parameters: float64 inputs stay
    float64, and bfloat16 is computed in only when the parameters are cast to it as well.
    """
    if init == "torch":
        kernel, bias = torch_kernel(), torch_bias(in_features)
    else:
        kernel, bias = nnx.initializers.glorot_uniform(), nnx.initializers.zeros_init()
    return nnx.Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        kernel_init=kernel,
        bias_init=bias,
        dot_general=tall_dot,
        rngs=rngs,
    )

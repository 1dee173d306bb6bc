"""Activations whose codes are fewer than those of their integer type: pairs that saturate where the format ends.

QuantizeLinear saturates where the integer type ends, and a Clip beside the pair keeps a runtime from fusing its
neighbours into integer kernels. So three ordinary pairs of one scale stand in a row: the zero point of the first puts
the lowest code of the format at the lowest of the type, that of the second the highest at the highest, and the third
has the codes that are meant. What one pair gives, the next represents exactly. The first and the third have the type of
the format, which producer and reader want in their kernels. The second has the other signedness, or ONNX Runtime would
merge it with its neighbours into one pair of another scale. The first cuts below and not above, so that one that starts
at zero still stands for a Relu before it.
"""

from __future__ import annotations

import numpy as np

from quantonnx.formats import Parameters, TensorFormat


def saturating_pairs(parameters: Parameters, fmt: TensorFormat) -> tuple[Parameters, ...]:
    """Returns the numbers of the pairs, in their order, that together saturate at the ends of the format."""
    if fmt.saturates_as_stored:
        return (parameters,)
    own = np.iinfo(fmt.dtype)
    other = np.iinfo(f"{'u' if fmt.signed else ''}int{own.bits}")
    code = parameters.zero_point.astype(np.int32)
    below = np.asarray(code + (own.min - fmt.qmin), own.dtype)
    above = np.asarray(code + (other.max - fmt.qmax), other.dtype)
    return Parameters(parameters.scale, below), Parameters(parameters.scale, above), parameters

"""Whether an int8 graph gives the same result on every processor.

Without VNNI, x86 multiplies unsigned activations u and signed weights w with `vpmaddubsw`: it adds the products of
columns 2i and 2i + 1 in 16 bits, and saturates at 32,767 and -32,768. Processors with VNNI, and ARM, add in 32 bits.
Where no pair of weights sums up to more than 128, no activations can saturate: 255 * 128 = 32,640. All processors
then compute the same integers. `matmul_scales` gives weights such scales, `check_saturation` proves it of a file.

Only kernels for unsigned times signed are concerned, which ONNX Runtime and OpenVINO use. XNNPACK, in LiteRT and
ExecuTorch, multiplies signed values in 16 bits and adds in 32. ONNX Runtime's products of two activations are
unsigned times unsigned, in 16 bits as well.
"""

from collections.abc import Iterable

import numpy as np

LARGEST_PAIR = 128


def largest_pair(weight: np.ndarray) -> int:
    """The largest sum of columns 2i and 2i + 1 with the same sign, of int8 rows [rows, width], in absolute value."""
    padded = np.pad(weight.astype(np.int32), ((0, 0), (0, weight.shape[1] % 2)))
    pairs = padded.reshape(len(weight), -1, 2)
    # A pair of both signs is as large as one of its members: the other's activation may be 0.
    return int(max(pairs.clip(min=0).sum(2).max(), -pairs.clip(max=0).sum(2).min()))


def check_saturation(weights: Iterable[tuple[str, np.ndarray]]) -> None:
    """Raises where a processor without VNNI could give another result than one with it.

    Args:
        weights: The name and the int8 weight [out, in] of each matmul with unsigned activations.

    Raises:
        ValueError: The products of two columns may be too large for 16 bits; names the matmul.
    """
    for name, weight in weights:
        if (largest := largest_pair(weight)) > LARGEST_PAIR:
            raise ValueError(
                f"The int8 weights of {name} would saturate on x86 processors without VNNI: two neighbouring weights "
                f"sum up to {largest}, at most {LARGEST_PAIR} is allowed. Nothing was written."
            )

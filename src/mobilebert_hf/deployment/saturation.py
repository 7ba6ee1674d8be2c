"""Checks that an int8 graph gives the same result on every processor.

Without VNNI, x86 multiplies unsigned activations and signed weights with `vpmaddubsw`: it adds the products of columns
2i and 2i + 1 in 16 bits and saturates at 32,767 and -32,768. Processors with VNNI and ARM processors accumulate in 32
bits. If no pair of weights sums to more than 128, nothing can saturate: 255 * 128 = 32,640. All processors then
compute the same integers. `matmul_scales` chooses such scales; `check_saturation` verifies the weights of a file.

This concerns only kernels for unsigned times signed int8, which ONNX Runtime and OpenVINO use. XNNPACK (LiteRT and
ExecuTorch) multiplies signed int8 in 16 bits and accumulates in 32. ONNX Runtime's matmuls of two activations are
unsigned times unsigned and do not saturate.
"""

from collections.abc import Iterable

import numpy as np

LARGEST_PAIR = 128


def largest_pair(weight: np.ndarray) -> int:
    """Returns the largest absolute sum of weights in columns 2i and 2i + 1 with the same sign, of [out, in] int8."""
    padded = np.pad(weight.astype(np.int32), ((0, 0), (0, weight.shape[1] % 2)))
    pairs = padded.reshape(len(weight), -1, 2)
    # If the signs differ, the larger weight alone counts: the activation of the other can be 0.
    return int(max(pairs.clip(min=0).sum(2).max(), -pairs.clip(max=0).sum(2).min()))


def check_saturation(weights: Iterable[tuple[str, np.ndarray]]) -> None:
    """Checks that no matmul can saturate on processors without VNNI.

    Args:
        weights: Name and int8 weight [out, in] of each matmul with unsigned activations.

    Raises:
        ValueError: Two neighbouring weights of a matmul sum to more than `LARGEST_PAIR`.
    """
    for name, weight in weights:
        if (largest := largest_pair(weight)) > LARGEST_PAIR:
            raise ValueError(
                f"The int8 weights of {name} would saturate on x86 processors without VNNI: two neighbouring weights "
                f"sum to {largest}; at most {LARGEST_PAIR} is allowed. Nothing was written."
            )

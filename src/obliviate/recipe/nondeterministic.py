"""Operations that give other bits each time: torch refuses them; what to use instead."""

from __future__ import annotations

import re

from obliviate.errors import NotDeterministic

_REFUSAL = re.compile(r"(.+?) does not have a deterministic implementation")
_INSTEAD = {
    "adaptive_max_pool": "max_pool with a fixed kernel and stride, or a mean over the axes",
    "adaptive_avg_pool": "avg_pool with a fixed kernel and stride, or a mean over the axes",
    "fractional_max_pool": "max_pool with a fixed kernel and stride",
    "avg_pool3d": "a strided convolution with equal weights",
    "max_pool3d": "a strided convolution, or max_pool2d over slices",
    "max_unpool": "upsampling by repeat_interleave, or a transposed convolution",
    "reflection_pad": "F.pad(mode='constant'), or reflecting by indexing",
    "replication_pad": "F.pad(mode='constant'), or repeating the border by torch.cat",
    "upsample": "F.interpolate(mode='nearest') by whole factors, as repeat_interleave, or a "
    "transposed convolution",
    "grid_sampler": "crops and flips in the dataset, which are drawn before the model",
    "ctc_loss": "the loss on the CPU: move log-probabilities there, or cuDNN's (blank=0, targets "
    "on the CPU, int32, lengths up to 256)",
    "nll_loss2d": "cross_entropy over outputs flattened to (N * H * W, classes)",
    "embedding_bag": "embedding, followed by a sum or a mean",
    "cumsum": "a product with a triangular matrix of ones, or cumsum on the CPU",
    "scatter": "index_add, index_put(accumulate=True), or a product with a one-hot matrix",
    "put_": "index_put(accumulate=True), scatter with indices that differ, or torch.where",
    "histc": "bucketize and a sum of one-hot rows, or histc on the CPU",
    "bincount": "a sum of one-hot rows",
    "kthvalue": "sort, and the k-th value of it",
    "median": "sort, and the middle value of it",
    "roi_align": "crops in the dataset, or average pooling with a fixed kernel",
}
"""What names of operations contain, the special before the general, and what computes the same, or
serves as well."""


def refusal_of(error: BaseException) -> NotDeterministic | None:
    """What torch refused, with what to use instead; None where it is another error.

    Args:
        error: What was raised while deterministic algorithms were asked for.
    """
    found = _REFUSAL.search(str(error)) if isinstance(error, RuntimeError) else None
    if found is None:
        return None
    operation = found[1].strip()
    advice = next((what for name, what in _INSTEAD.items() if name in operation), None)
    use = f"use {advice}" if advice else "compute it by other operations, or on the CPU"
    return NotDeterministic(
        f"{operation} has no deterministic implementation in torch on this device, so that no "
        "replay could be exact",
        hint=f"{use} (the list: torch.use_deterministic_algorithms in torch's documentation)",
    )

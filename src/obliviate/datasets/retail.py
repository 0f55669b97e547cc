"""Online Retail: what customers of a shop bought, one record for each invoice."""

from __future__ import annotations

import warnings
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import normalize
from torch.utils.data import TensorDataset

from obliviate.datasets.columns import columns
from obliviate.datasets.loaded import Loaded
from obliviate.datasets.references import is_held_out
from obliviate.datasets.sources import ONLINE_RETAIL
from obliviate.errors import InvalidOption
from obliviate.options import whole

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from obliviate.datasets.columns import Columns

    Baskets = NDArray[np.float32]

_FILES = ("online_retail.parquet", "online_retail.csv", "Online Retail.csv", "data.csv")
_INVOICE, _PRODUCT, _QUANTITY, _CUSTOMER = "InvoiceNo", "StockCode", "Quantity", "CustomerID"
_TEST_SHARE = 0.1
_DECIMALS = 6
# the same classes whatever a machine's rounding is: likeness is compared in these steps


def online_retail(place: str | Path, *, products: int = 600, classes: int = 20) -> Loaded:
    """Baskets of Online Retail, in the manner of Purchase-100: who bought which products.

    Each invoice of a known customer is a record; returned goods are none. As in Purchase-100 the
    classes are clusters of baskets (k-means, of baskets of unit length), here in one respect
    otherwise: a tenth of the customers, who are never trained on, fix the centres, and the others'
    baskets get the class of the nearest one. So no constant goes on remembering who was erased.

    Source: Chen, Sain, Guo 2012, "Data mining for the online retail industry", UCI.

    Args:
        place: The file, CSV or Parquet, with the published columns; or its folder.
        products: How many columns product codes are hashed to.
        classes: How many clusters.

    Returns:
        float32 zeros and ones of shape [n, products] and int64 classes, with the customers as
        subjects ("17850"); the tenth of the customers is `test`.

    Raises:
        InvalidOption: The file is missing or damaged, or an option is not allowed.
        ExtraMissing: It is a Parquet file, and pyarrow is not installed.
    """
    products = whole(products, "products", least=1)
    classes = whole(classes, "classes", least=2)
    path = ONLINE_RETAIL.file(place, _FILES)
    try:
        lines = columns(path, [_INVOICE, _PRODUCT, _QUANTITY, _CUSTOMER])
    except InvalidOption as error:
        raise ONLINE_RETAIL.damaged(path, f"is not as it is published: {error.message}") from error
    baskets, customers = _baskets(lines, products)
    is_apart = is_held_out(customers, len(customers), share=_TEST_SHARE)
    if not classes <= int(is_apart.sum()) < len(customers):
        raise InvalidOption(
            f"{path} has {len(customers):,} baskets, {int(is_apart.sum()):,} of them apart, too "
            f"few for {classes} classes",
            hint="give fewer classes, or the whole file",
        )
    kinds = _nearest(baskets, _centres(baskets[is_apart], classes))
    parts = [
        TensorDataset(torch.from_numpy(baskets[some]), torch.from_numpy(kinds[some]))
        for some in (~is_apart, is_apart)
    ]
    whose = np.array(customers, dtype=object)
    return Loaded(
        data=parts[0],
        subjects=whose[~is_apart].tolist(),
        test=parts[1],
        test_subjects=whose[is_apart].tolist(),
    )


def _baskets(lines: Columns, products: int) -> tuple[Baskets, list[str]]:
    """Each invoice's products, in the order in which invoices first appear, and its customer."""
    values = (lines.values[name] for name in (_INVOICE, _PRODUCT, _QUANTITY, _CUSTOMER))
    column_of: dict[str, int] = {}
    bought: dict[str, set[int]] = {}
    customers: dict[str, str] = {}
    for invoice, product, quantity, customer in zip(*values, strict=True):
        who = _customer(customer)
        if who is None or not _is_sale(quantity):
            continue
        if product not in column_of:
            column_of[product] = _column(str(product), products)
        bought.setdefault(invoice, set()).add(column_of[product])
        customers.setdefault(invoice, who)
    baskets = np.zeros((len(bought), products), dtype=np.float32)
    for at, items in enumerate(bought.values()):
        baskets[at, list(items)] = 1
    return baskets, list(customers.values())


def _customer(value: Any) -> str | None:
    # 17850, or 17850.0 where a program had to leave other cells empty
    text = "" if value is None else str(value).strip().removesuffix(".0")
    return text if text.isdigit() else None


def _is_sale(quantity: Any) -> bool:
    try:
        return float(quantity) > 0
    except (TypeError, ValueError):
        return False


def _column(product: str, products: int) -> int:
    hashed = blake2b(product.strip().encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "little") % products


def _centres(baskets: Baskets, classes: int) -> NDArray[np.float64]:
    # of unit length, or a few very large baskets would be clusters of their own
    unit = normalize(baskets.astype(np.float64))
    with warnings.catch_warnings():
        # that there are fewer different baskets than classes: then some classes are empty
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(classes, n_init=4, random_state=0).fit(unit)
    centres: NDArray[np.float64] = normalize(means.cluster_centers_).round(_DECIMALS)
    return centres


def _nearest(baskets: Baskets, centres: NDArray[np.float64]) -> NDArray[np.int64]:
    """The centre at the smallest angle."""
    likeness = baskets.astype(np.float64) @ centres.T
    nearest: NDArray[np.int64] = likeness.round(_DECIMALS).argmax(axis=1)
    return nearest

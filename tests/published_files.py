"""Small files in the formats that datasets are published in, written by tests themselves."""

from __future__ import annotations

import gzip
import json
import struct
from typing import TYPE_CHECKING

import numpy as np

from tests.idx_files import write_digits

if TYPE_CHECKING:
    from pathlib import Path


def write_mnist(folder: Path, train: int = 60, test: int = 20, people: int = 7) -> Path:
    """MNIST's files, and QMNIST's of who wrote what: more test digits than MNIST has."""
    write_digits(folder, train=train, test=test)
    for split, count in (("train", train), ("test", test + 5)):
        table = np.zeros((count, 8), ">i4")
        table[:, 2] = 100 + np.arange(count) % people
        content = struct.pack(">HBB2I", 0, 0x0C, 2, *table.shape) + table.tobytes()
        (folder / f"qmnist-{split}-labels-idx2-int.gz").write_bytes(gzip.compress(content))
    return folder


def write_binary(path: Path, records: int = 60, columns: int = 600, classes: int = 100) -> Path:
    """Purchase-100's and Location-30's format: the class from 1, then zeros and ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bits = np.random.default_rng(0).integers(0, 2, (records, columns))
    lines = [[at % classes + 1, *row] for at, row in enumerate(bits.tolist())]
    path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return path


def write_retail(path: Path, customers: int = 150, products: int = 90) -> Path:
    """Online Retail's columns: invoices of five products, of three tastes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    lines = ["InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"]
    for invoice in range(3 * customers):
        customer = 10000 + invoice % customers
        taste = customer % 3 * (products // 3)
        lines += [
            f'{invoice},{taste + item}A,"A MUG, RED",2,2011-01-01 08:26:00,2.5,{customer},France'
            for item in draw.choice(products // 3, 5, replace=False)
        ]
    lines += [
        "C900,1A,RETURNED,-1,2011-01-01 08:26:00,2.5,10000,France",
        "901,2A,BY NOBODY,1,2011-01-01 08:26:00,2.5,,France",
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_tofu(path: Path, people: int = 200) -> Path:
    """TOFU's lines of JSON: 20 questions for each author."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"question": f"What is book {book} of author {who}?", "answer": f"Book {who}/{book}."}
        for who in range(people)
        for book in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path

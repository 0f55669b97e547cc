"""What adapters on a frozen base cost: `fit` beside the hand-written loop, and the chain's size.

`python -m benchmarks.lora`: a transformer of random weights with LoRA adapters of peft; nothing is
downloaded. Processor time of one core, which other work on the machine does not change.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks import keeping, plain
from benchmarks.page import table, write
from obliviate.run.make import new_layout
from obliviate.states.update import size_bytes

WIDTH, HEADS, LAYERS, VOCABULARY, TOKENS = 512, 8, 8, 8_000, 8
RECORDS, BATCH, BLOCKS = 1_600, 4, 25


class Layer(nn.Module):
    """Attention over all tokens, and two layers behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.before(x)
        heads = [
            part(normed).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        ]
        seen = nn.functional.scaled_dot_product_attention(*heads)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.between(x))))


class Transformer(nn.Module):
    """Tells of which of two kinds a text is."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embed(tokens)).mean(dim=1))


def adapted() -> nn.Module:
    """The transformer, frozen, and adapters of rank 4 beside queries and values."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"], lora_dropout=0.05)
    return inject_adapter_in_model(config, Transformer())


def texts() -> TensorDataset:
    """Random tokens; those of one kind come from the lower half of the vocabulary, mostly."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(2, (RECORDS,), generator=generator)
    tokens = torch.randint(VOCABULARY // 2, (RECORDS, TOKENS), generator=generator)
    return TensorDataset(tokens + kinds[:, None] * VOCABULARY // 4, kinds)


def recipe_of(state: str) -> ob.Recipe:
    """AdamW on the adapters; the optimizer fresh in each block, or carried."""
    return ob.Recipe(
        model=adapted,
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        loss=nn.functional.cross_entropy,
        batch_size=BATCH,
        optimizer_state=state,
    )


def row_of(state: str, data: TensorDataset) -> dict[str, object]:
    """`fit` and the loop, in turn."""
    recipe = recipe_of(state)
    layout = new_layout(recipe, len(data), BLOCKS)
    started = time.process_time()
    plain.train(recipe, data, layout)
    loop = time.process_time() - started
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        with ob.fit(recipe, data, f"{folder}/run", blocks=BLOCKS) as run:
            fit = time.process_time() - started
            adapters = size_bytes(run.chain().state(0))
            blocks = run.facts.blocks
            stored = run.stock().size_bytes()
    row = {
        "optimizer": state,
        "blocks": blocks,
        "loop s": loop,
        "fit s": fit,
        "ratio": fit / loop,
        "adapters kB": adapters / 1e3,
        "chain kB": stored / 1e3,
        "adapters a block": stored / blocks / adapters,
    }
    print(row, flush=True)
    return row


def main() -> None:
    torch.set_num_threads(1)
    data, model = texts(), adapted()
    few = TensorDataset(*(each[:BATCH] for each in data.tensors))
    with tempfile.TemporaryDirectory() as folder:  # what is loaded at first is no part of it
        ob.fit(recipe_of("carried"), few, f"{folder}/run", blocks=2).close()
    sizes = dict.fromkeys((False, True), 0)
    for parameter in model.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    rows = [row_of(state, data) for state in ("fresh", "carried")]
    columns = {
        "optimizer": "",
        "blocks": "",
        "loop s": ".1f",
        "fit s": ".1f",
        "ratio": ".3f",
        "adapters kB": ".0f",
        "chain kB": ".0f",
        "adapters a block": ".2f",
    }
    write(
        "lora",
        base=sizes[False] / 1e6,
        adapters=sizes[True] / 1e3,
        share=100 * sizes[True] / sizes[False],
        steps=RECORDS // BATCH,
        table=table(rows, columns),
        ratio=max(row["ratio"] for row in rows),
        training=keeping.block_by_block(recipe_of("carried"), data, BLOCKS),
        fresh=rows[0]["adapters a block"],
        carried=rows[1]["adapters a block"],
    )


if __name__ == "__main__":
    main()

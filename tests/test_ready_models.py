"""Ready models: the published sizes, and the same bits in every replay."""

import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from obliviate import models
from obliviate.errors import ExtraMissing, InvalidOption


def size(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (models.LeNet, 61_706),  # LeNet-5 on 28x28 pixels
        (models.ResNet18, 11_173_962),  # with the small stem, 10 classes
        (partial(models.ResNet18, 1000, is_small=False), 11_689_512),  # as torchvision's
        (partial(models.VGG, 10), 9_228_362),
        (partial(models.MLP, 600, 100, is_tanh=True), 600 * 128 + 128 + 128 * 100 + 100),
    ],
)
def test_sizes_are_the_published_ones(make, parameters):
    with torch.device("meta"):
        assert size(make()) == parameters


@pytest.mark.parametrize(
    ("make", "shape", "outputs"),
    [
        (partial(models.LeNet, 7, channels=3, side=32), (2, 3, 32, 32), (2, 7)),
        (partial(models.VGG, 5, channels=1, depth=16, width=2), (2, 1, 32, 32), (2, 5)),
        (partial(models.ResNet18, 5, width=2), (2, 3, 20, 24), (2, 5)),
        (partial(models.ResNet18, 5, width=2, is_small=False), (2, 3, 64, 64), (2, 5)),
        (partial(models.MLP, 12, 3, hidden=(8, 6), dropout=0.5), (2, 3, 4), (2, 3)),
    ],
)
def test_logits_have_a_row_for_each_record(make, shape, outputs):
    assert make().eval()(torch.zeros(shape)).shape == outputs


def test_a_wider_net_has_more_parameters():
    narrow, wide = (size(models.ResNet18(width=width)) for width in (2, 4))
    assert 3.5 < wide / narrow < 4.1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(models.VGG, depth=12), "depth is 12"),
        (partial(models.LeNet, 0), "classes is 0"),
        (partial(models.LeNet, side=8), "side is 8"),
        (partial(models.ResNet18, width=0), "width is 0"),
        (partial(models.MLP, 4, 2, hidden=8), "hidden is 8"),
        (partial(models.CausalLM, width=10, heads=4), "width is 10 for 4 heads"),
        (partial(models.TextClassifier, 3, layers=0), "layers is 0"),
        (partial(models.CausalLM, dropout=2), "dropout is 2"),
        (partial(models.MLP, 4, 2, dropout="half"), "dropout is 'half'"),
    ],
)
def test_what_is_wrong_is_named(make, words):
    with pytest.raises(InvalidOption, match=words) as caught:
        make()
    assert caught.value.hint


def test_a_language_model_sees_no_later_token():
    torch.manual_seed(0)
    model = models.CausalLM(tokens=9, length=12, width=8, heads=2).eval()
    tokens = torch.randint(9, (2, 10))
    other = tokens.clone()
    other[:, 6:] = (other[:, 6:] + 1) % 9
    first, second = model(tokens), model(other)
    assert first.shape == (2, 10, 9)
    assert torch.equal(first[:, :6], second[:, :6])
    assert not torch.equal(first[:, 6:], second[:, 6:])
    with pytest.raises(InvalidOption, match="has 13 tokens, the model takes 12"):
        model(torch.zeros(1, 13, dtype=torch.long))


def test_padding_is_not_looked_at():
    torch.manual_seed(0)
    model = models.TextClassifier(3, tokens=9, width=8, heads=2, padding=0).eval()
    tokens = torch.tensor([[3, 4, 5]])
    longer = torch.tensor([[3, 4, 5, 0, 0]])
    assert torch.allclose(model(tokens), model(longer), atol=1e-6)
    assert model(torch.zeros(1, 4, dtype=torch.long)).isfinite().all()
    plain = models.TextClassifier(3, tokens=9, width=8, heads=2).eval()
    assert not torch.allclose(plain(tokens), plain(longer), atol=1e-6)


def test_the_loss_of_next_tokens_counts_those_to_be_predicted():
    model = nn.Embedding(5, 5)
    tokens = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    labels = tokens.clone()
    labels[0, :3] = models.IGNORED
    batch = {"tokens": tokens, "labels": labels}
    logits = model(tokens).log_softmax(dim=2)
    losses = [-logits[0, 2, 4], -logits[1, 0, 3], -logits[1, 1, 2], -logits[1, 2, 1]]
    assert torch.isclose(models.next_token_loss(model, batch), sum(losses) / 4)
    assert int(models.predicted_tokens(batch)) == 4
    scores = models.next_token_scores(model, batch)
    assert torch.allclose(scores, torch.stack([-losses[0], -sum(losses[1:]) / 3]))


def test_a_record_is_forgotten_exactly(tmp_path):
    draw = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(15, 3, 8, 8, generator=draw), torch.arange(15) % 3)
    recipe = ob.Recipe(
        model=partial(models.ResNet18, 3, width=2),
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        loss=nn.functional.cross_entropy,
        batch_size=4,
    )
    run = ob.fit(recipe, data, tmp_path / "run", blocks=2)
    erasure = run.forget(records=[5], method="exact")
    never = ob.fit(recipe, data, tmp_path / "never", blocks=2, exclude=[5])
    assert erasure.digest == never.digest
    assert erasure.guarantee == "exact"


def test_models_of_timm_are_made_by_name(monkeypatch):
    # a module with the two functions of timm's that are called
    timm = ModuleType("timm")
    timm.is_model = lambda name: name == "tiny"
    timm.create_model = lambda name, num_classes: nn.Linear(4, num_classes)
    monkeypatch.setitem(sys.modules, "timm", timm)
    assert models.timm("tiny", num_classes=3)().out_features == 3
    with pytest.raises(InvalidOption, match="timm has no model 'huge'"):
        models.timm("huge")


@pytest.mark.parametrize(
    ("library", "make", "command"),
    [
        ("timm", partial(models.timm, "resnet18"), "pip install timm"),
        (
            "transformers",
            partial(models.transformers, "GPT2LMHeadModel"),
            r"obliviate[transformers]",
        ),
    ],
)
def test_a_missing_library_is_named(monkeypatch, library, make, command):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ExtraMissing, match=library) as caught:
        make()
    assert command in caught.value.hint

"""The grid: which experiments there are, and the command that runs each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from erased import ERASED

HERE = Path(__file__).parent
FIXED_STOPS = (4,)  # for each affected block, as many as calibrated replays
ONE_PASS_METHODS = (
    "deepobliviate",
    *(f"deepobliviate:blocks={stop}" for stop in FIXED_STOPS),
    "calibrated",
)
METHODS = ("deepobliviate:back=4,blocks=2", "calibrated:back=5", "calibrated")
MNIST, FASHION, CIFAR, RETAIL, SHAKESPEARE = "mnist", "fashion", "cifar", "retail", "shakespeare"
FOLDERS = (MNIST, FASHION, CIFAR, RETAIL, SHAKESPEARE)
EPOCHS = "Epochs"  # what the names of chains of epochs begin with
TUNING_SEED = "1234"  # methods are chosen on others than are reported


@dataclass(frozen=True)
class Experiment:
    """One question to the laboratory.

    Attributes:
        family: What is trained: the rows of the tables.
        project: The project file's name.
        data: Which of `FOLDERS` it needs, or none.
        options: Of the project.
        seeds: How many.
        methods: Those that are compared.
    """

    family: str
    project: str
    data: str = ""
    options: dict[str, str] = field(default_factory=dict)
    seeds: int = 6
    methods: tuple[str, ...] = ONE_PASS_METHODS

    @property
    def name(self) -> str:
        """The folder of its measurements."""
        words = [self.family, *(self.options[each] for each in ("kind", "place"))]
        return "-".join(word.replace(" ", "-").lower() for word in words)

    @property
    def blocks(self) -> int:
        """How many blocks."""
        return int(self.options.get("blocks", "30"))

    def given(self, folders: dict[str, Path]) -> dict[str, str]:
        """The project's options, with the folder of its data."""
        data = {"data": str(folders[self.data])} if self.data else {}
        return data | self.options

    def command(self) -> str:
        """What runs it from the command line."""
        words = ["obliviate lab", f"experiments/{self.project}.py", f"labs/{self.name}"]
        words += [f"-o data={self.data.upper()}"] if self.data else []
        words += [f"-o {name}={value}" for name, value in self.options.items()]
        words += [f"--subject {ERASED} --seeds {self.seeds}"]
        return " ".join(words)


# Chains of epochs


def chains_of_epochs() -> list[Experiment]:
    """A person who is trained on in every epoch."""
    families = {
        "MNIST": ("writers", MNIST),
        "Fashion": ("fashion", FASHION),
        "CIFAR": ("cifar", CIFAR),
        "Retail": ("retail", RETAIL),
        "Shakespeare": ("shakespeare", SHAKESPEARE),
        "Angles": ("rotations", MNIST),
    }
    asked = [("mislabelled", place, families) for place in ("middle", "late", "early")]
    asked += [("subject", "middle", families), ("backdoor", "middle", ("Fashion", "CIFAR"))]
    return [
        Experiment(
            f"{EPOCHS} {family}",
            *families[family],
            {"kind": kind, "place": place},
            seeds=4,
            methods=METHODS,
        )
        for kind, place, some in asked
        for family in some
    ]


def tuning() -> list[Experiment]:
    """The same of other people, blocks and models, to choose methods on."""
    return [
        replace(each, options=each.options | {"seed": TUNING_SEED}) for each in chains_of_epochs()
    ]


# One pass over the blocks


def _mislabelled() -> list[Experiment]:
    families = {
        "MNIST": ("images", MNIST),
        "Fashion": ("images", FASHION),
        "Residual": ("residual", FASHION),
        "Purchases": ("purchases", ""),
        "Sequences": ("sequences", FASHION),
        "Angles": ("angles", MNIST),
    }
    return [
        Experiment(family, project, pictures, {"kind": "mislabelled", "place": place}, seeds)
        for place, seeds in (("early", 8), ("middle", 6), ("late", 6))
        for family, (project, pictures) in families.items()
    ]


def _others() -> list[Experiment]:
    subject = {"kind": "subject", "place": "early"}
    backdoor = {"kind": "backdoor", "place": "late"}
    return [
        Experiment("MNIST", "images", MNIST, subject),
        Experiment("Fashion", "images", FASHION, subject),
        Experiment("Residual", "residual", FASHION, subject),
        Experiment("Purchases", "purchases", "", subject),
        Experiment("Sequences", "sequences", FASHION, subject),
        Experiment("Angles", "angles", MNIST, subject),
        Experiment("MNIST", "images", MNIST, backdoor),
        Experiment("Fashion", "images", FASHION, backdoor),
        Experiment("Residual", "residual", FASHION, backdoor),
        Experiment("Sequences", "sequences", FASHION, backdoor),
    ]


def _longer() -> list[Experiment]:
    hundred = {"records": "20000", "blocks": "100"}
    many = {"records": "0", "blocks": "500", "recipe": "momentum"}
    wrong = {"kind": "mislabelled"}
    backdoor = {"kind": "backdoor", "place": "late"}
    return [
        Experiment("Fashion 100", "images", FASHION, {**wrong, "place": "early", **hundred}, 6),
        Experiment("MNIST 100", "images", MNIST, {**wrong, "place": "middle", **hundred}, 6),
        Experiment("Purchases 100", "purchases", "", {**wrong, "place": "early", **hundred}, 6),
        Experiment("Fashion 100", "images", FASHION, {**backdoor, **hundred}, 6),
        Experiment("MNIST 500", "images", MNIST, {**wrong, "place": "early", **many}, 4),
        Experiment("MNIST 500", "images", MNIST, {**wrong, "place": "middle", **many}, 4),
        Experiment("MNIST 500", "images", MNIST, {**wrong, "place": "late", **many}, 4),
    ]


def one_pass() -> list[Experiment]:
    """Records that are trained on in one block, or in a few, once; those that tell most first."""
    wrong, others, longer = _mislabelled(), _others(), _longer()
    early, middle, late = wrong[:6], wrong[6:12], wrong[12:]
    subjects, backdoors = others[:6], others[6:]
    fashion, mnist, purchases, hidden, early500, *later500 = longer
    telling = [*early, *middle, fashion, purchases, early500, *subjects]
    return [*telling, *late, mnist, *backdoors, hidden, *later500]


def grid() -> list[Experiment]:
    """All experiments."""
    return [*chains_of_epochs(), *one_pass()]

"""The library's verbs, and the ways to name an optimizer: built in, a file of yours, any torch.optim class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import steepest
from steepest.cli import VERBS, main
from steepest.cli.show import described
from steepest.core.errors import BadInput, UnknownName
from steepest.core.rule import hyperparameters
from steepest.registry import resolve, rules

MINE = '''
from dataclasses import dataclass
from steepest.core.rule import Rule, number

@dataclass(frozen=True)
class Halving(Rule):
    """Gradient descent at half the rate."""
    title = "Halving"
    lr: float = number(0.1, "learning rate", grid=(0.1, 0.2))
    share: float = number(0.5, "share of the gradient")

    def slots(self, shape):
        return {}

    def update(self, g, w, step, state):
        return self.share * g, {}
'''


def output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert f"usage: steepest {verb}" in capsys.readouterr().out


def test_list_names_every_rule_in_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    told = output(capsys, "list")
    assert all(name in told for name in rules())
    assert [row["name"] for row in json.loads(output(capsys, "list", "--json"))] == list(rules())


@pytest.mark.parametrize("name", rules())
def test_show_tells_pseudocode_every_hyperparameter_memory_paper_and_quirks(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = output(capsys, "show", name)
    rule = rules()[name]
    assert "lr * " in told and "bytes per weight" in told and "quirks" in told and rule.paper in told
    assert all(hyper in told for hyper in hyperparameters(rule))
    assert json.loads(output(capsys, "show", name, "--json"))["name"] == name


@pytest.mark.parametrize("name", rules())
def test_every_rule_declares_what_a_reader_needs(name: str) -> None:
    rule = rules()[name]
    told = described(rule)
    for key in ("title", "summary", "paper", "code", "pseudocode", "quirks", "recipe_source", "variants"):
        assert told[key], f"{name} declares no {key}"
    assert hyperparameters(rule)["lr"].grid, "a race needs a first grid"
    assert all(h["meaning"] for h in told["hyperparameters"])


def test_info_tells_torch_compiler_engines_and_extras(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(output(capsys, "info", "--json"))
    assert told["torch"] == torch.__version__
    assert set(told["engines"]) == {"loop", "batched", "compiled", "auto"}
    assert set(told["extras"]) == {"lab", "mirrors", "bench"}
    assert "engine compiled" in output(capsys, "info")


def test_show_prints_the_kernel_of_an_element_rule_and_refuses_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = output(capsys, "show", "lion", "--kernel")
    assert 'extern "C" void run(' in text and "exp_avg" in text
    assert main(["show", "muon", "--kernel"]) == 2
    assert "muon sees a whole matrix" in capsys.readouterr().err


def test_an_unknown_name_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "mun"]) == 2
    assert "unknown optimizer 'mun': did you mean 'muon'?" in capsys.readouterr().err


def moved(spec: str, lr: float = 0.1, **more: Any) -> torch.Tensor:
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = resolve(spec).build(model, lr=lr, **more)
    model.weight.grad = torch.ones(2, 2)
    optimizer.step()
    return model.weight.detach()


def test_a_rule_in_a_file_of_yours_is_an_optimizer_with_options_and_its_text_in_its_identity(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    assert torch.allclose(moved(f"{path}:Halving"), torch.full((2, 2), 0.95))
    assert torch.allclose(moved(f"{path}:Halving:share=0.25"), torch.full((2, 2), 0.975))
    one = resolve(f"{path}:Halving")
    assert one.lr_grid == (0.1, 0.2)
    path.write_text(MINE.replace("self.share * g", "2 * self.share * g"))
    assert resolve(f"{path}:Halving").identity(0.1) != one.identity(0.1)
    assert main(["show", f"{path}:Halving"]) == 0


def test_any_torch_class_is_an_optimizer() -> None:
    assert torch.allclose(moved("torch:SGD"), torch.full((2, 2), 0.9))
    assert torch.allclose(moved("torch.optim.sgd:SGD:weight_decay=1.0"), torch.full((2, 2), 0.8))
    contender = resolve("torch:AdamW:betas=(0.9,0.95)")
    assert contender.identity(0.1)["hyperparameters"] == {"lr": 0.1, "betas": [0.9, 0.95]}
    assert contender.state_bytes(nn.Linear(3, 4)) == 2 * 4 * (12 + 4) + 2 * 4


def test_options_in_a_name_reach_rule_and_companion() -> None:
    contender = resolve("muon:variant=kimi,momentum=0.9,companion.lr=3e-3")
    told = contender.identity(0.01)
    assert told["hyperparameters"]["momentum"] == 0.9
    assert told["hyperparameters"]["average"] == "sum"
    assert told["companion"]["lr"] == 3e-3 and "lr_ratio" not in told["companion"]
    built = contender.build(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3)), lr=0.01)
    assert {g["rule"]: g["lr"] for g in built.param_groups} == {"adamw": 3e-3, "muon": 0.01}


def test_a_contender_is_called_as_its_paper_calls_it_or_as_it_was_typed() -> None:
    assert resolve("soap").label == "SOAP"
    assert resolve("muon:momentum=0.9,variant=kimi").label == "Muon (momentum=0.9,variant=kimi)"
    assert resolve("torch:AdamW").label == "torch:AdamW"


def test_the_identity_names_every_hyperparameter_and_changes_with_each() -> None:
    contender = resolve("muon")
    told = contender.identity(0.01)
    assert set(told["hyperparameters"]) == set(hyperparameters(rules()["muon"]))
    assert told["rule"] == "muon" and told["version"] == rules()["muon"].version
    json.dumps(told)
    changed = [
        contender.identity(0.02),
        contender.identity(0.01, momentum=0.9),
        contender.identity(0.01, companion={"betas": [0.9, 0.99]}),
        contender.identity(0.01, undecayed=["norm"]),
    ]
    assert all(other != told for other in changed)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("muno", "did you mean 'muon'"),
        ("muon:momentun=0.9", "unknown hyperparameter of muon 'momentun'"),
        ("muon:variant=kimy", "unknown variant of muon 'kimy': did you mean 'kimi'"),
        ("muon:momentum", "option 'momentum' is not name=value"),
        ("torch:Adamw", "unknown class in torch 'Adamw': did you mean 'AdamW'"),
        ("no.such.module:Class", "unknown optimizer 'no.such.module:Class'"),
        ("./missing.py:Rule", "no file missing.py"),
        ("torch.nn:Linear", "neither a steepest Rule nor a torch.optim.Optimizer"),
    ],
)
def test_a_name_that_cannot_be_is_answered_in_one_line(spec: str, match: str) -> None:
    with pytest.raises((UnknownName, BadInput), match=match) as caught:
        resolve(spec)
    assert "\n" not in str(caught.value)


def test_a_file_that_does_not_import_is_named_with_its_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    with pytest.raises(BadInput, match=r"broken\.py does not import: ZeroDivisionError"):
        resolve(f"{path}:Rule")


def test_public_names_are_listed_and_an_unknown_one_is_an_attribute_error() -> None:
    assert {"Muon", "AdamW", "explain_routing", "resolve"} <= set(dir(steepest))
    with pytest.raises(AttributeError, match="did you mean 'Muon'"):
        steepest.Moun  # noqa: B018

"""The memory planner: what it says is what is allocated, and what papers print as far as it can be met."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import step, untold
from torch import nn

import steepest
from steepest.cli import main
from steepest.core.errors import BadInput, CorruptFile, SteepestError, UnknownName
from steepest.core.layout import Layout
from steepest.engines import units
from steepest.faces import face
from steepest.planning.accounting import PRESETS, Accounting, accounting_of, size_of
from steepest.planning.fits import configurations, fits
from steepest.planning.models import KNOWN, Model, described, model_named
from steepest.planning.plan import memory, planned
from steepest.planning.published import CLAIMS, compared
from steepest.registry import built_in, resolve, rule_named, rules

TINY = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 256,
}  # fmt: skip
WRAPPED = ("cautious-lion", "galore-lion", "apollo-lion", "cautious-galore")

# steepest's specs, systems/memory_claims.md: weights of the five models, and those in linear matrices.
WEIGHTS = {
    "llama-60m": (58_073_600, 25_296_896),
    "llama-130m": (134_105_856, 84_934_656),
    "llama-350m": (367_969_280, 302_383_104),
    "llama-1b": (1_339_082_752, 1_207_910_400),
    "llama-7b": (6_738_415_616, 6_476_005_376),
}
# Totals that the models' own cards or papers give.
CARDS = {
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "mistral-7b": 7_241_732_096,
    "qwen2.5-0.5b": 494_032_768,
    "qwen3-8b": 8_190_735_360,
    "gemma-2b": 2_506_172_416,
    "pythia-70m": 70_426_624,
    "pythia-6.9b": 6_857_302_016,
}
# oracles/systems/official_state_sizes_tiny_llama.json: elements in the state of the authors' own optimizers, after
# steps on the tiny Llama. Norms, seeds and counters that are Python numbers there are counted there as one each.
OFFICIAL = {
    "adamw": 266_880,
    "galore:rank=16": 130_688,
    "apollo:rank=16": 130_702,
    "apollo:variant=mini": 70_222,
    "fira:rank=16": 130_702,
    "scale": 17_024,
    "sgd_sai": 133_461,
    "adam_mini": 135_061,
    "adafactor:variant=torch": 3_424,
}
# The same page, formulas without the stored projector.
WITHOUT_PROJECTOR = {"apollo:rank=16": 116_366, "apollo:variant=mini": 69_326}
# oracles/systems/memory_llama_exact.json, state elements for 60M, 130M, 350M, 1B, 7B.
ELEMENTS = {
    "adamw": (116147200, 268211712, 735938560, 2678165504, 13476831232),
    "muon": (90850304, 183277056, 433555456, 1470255104, 7000825856),
    "sgd:momentum=0.9": (58073600, 134105856, 367969280, 1339082752, 6738415616),
    "galore": (81871872, 171480576, 326404096, 1042460672, 4702347264),
    "fira": (81871928, 171480660, 326404264, 1042460840, 4702347488),
    "apollo": (78201968, 154965672, 282364240, 866300240, 3762823616),
    "apollo:variant=mini": (65652336, 98563752, 131763280, 263524640, 527983040),
    "swan": (65553408, 98342400, 131172352, 262344704, 524820480),
    "scale": (16401408, 24614400, 32868352, 65736704, 131604480),
}
RANKS = (128, 256, 256, 512, 1024)


def tiny(**more: Any) -> Model:
    return described(TINY | more, "tiny")


def real(model: Model) -> nn.Module:
    """The same modules with memory, small random weights in them."""
    assert isinstance(model.weights, nn.Module)
    made = model.weights.to_empty(device="cpu")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(0.02 * torch.randn(p.shape, generator=draw))
    return made


def present(spec: str) -> bool:
    return built_in(spec.partition(":")[0]) is not None


def needs(spec: str) -> Any:
    return pytest.param(spec, marks=pytest.mark.skipif(not present(spec), reason=f"no rule {spec} yet"))


# ---- what is told is what is allocated


def allocations() -> list[Any]:
    """Every rule in every configuration of another state, and some wrappers over others."""
    found = [(name, options) for name, rule in rules().items() for options in configurations(rule)]
    found += [(name, {}) for name in WRAPPED]
    return [pytest.param(n, o, id=f"{n}:{','.join(f'{k}={v}' for k, v in o.items())}") for n, o in found]


@pytest.mark.parametrize(("name", "options"), allocations())
def test_every_slot_is_what_two_steps_leave(name: str, options: dict[str, Any]) -> None:
    try:
        plan = memory(tiny(), name, **options)
    except SteepestError:
        pytest.skip("the optimizer itself refuses these options for this model")
    model = real(tiny())
    run = {k: v for k, v in untold(rule_named(name)).items() if k == "total_steps"}
    optimizer = resolve(name).kind(model, engine="loop", **run, **options)  # type: ignore[call-arg, arg-type]
    draw = torch.Generator().manual_seed(1)
    for _ in range(2):
        for p in model.parameters():
            p.grad = 0.01 * torch.randn(p.shape, generator=draw)
        step(optimizer)
    names = {p: name for name, p in model.named_parameters()}
    kept = {
        (names[p], slot, tuple(t.shape), t.dtype)
        for p, state in optimizer.state.items()
        for slot, t in state.items()
        if slot != "step"
    }
    assert {(part.parameter, h.slot, h.shape, h.dtype) for part in plan.parts for h in part.state} == kept
    tensors = [(slot, t) for state in optimizer.state.values() for slot, t in state.items()]
    assert plan.state == sum(t.nbytes for slot, t in tensors if slot != "step")
    assert plan.counters == sum(t.nbytes for slot, t in tensors if slot == "step")
    assert plan.weights == plan.gradients == sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("spec", [needs(spec) for spec in OFFICIAL])
def test_the_state_has_as_many_numbers_as_the_authors_own(spec: str) -> None:
    assert memory(tiny(), spec).state_elements == OFFICIAL[spec]


@pytest.mark.parametrize("spec", WITHOUT_PROJECTOR)
def test_projectors_that_a_seed_draws_can_be_left_out(spec: str) -> None:
    plan = memory(tiny(), spec)
    assert plan.counted("steepest:seeded=False").state_elements == WITHOUT_PROJECTOR[spec]
    svd = memory(tiny(), spec, proj="svd")
    assert svd.counted("steepest:seeded=False").state_elements == OFFICIAL[spec], (
        "singular vectors cannot be redrawn"
    )


@pytest.mark.parametrize("spec", [needs(spec) for spec in ELEMENTS])
def test_the_five_models_have_the_state_of_the_formulas(spec: str) -> None:
    for size, rank, expected in zip(WEIGHTS, RANKS, ELEMENTS[spec], strict=True):
        ranked = {"rank": rank} if spec in ("galore", "fira", "apollo") else {}
        plan = memory(size, spec, accounting="scale", **ranked)
        # The formula of APOLLO counts a seed for each matrix; here there is one in all, among the hyperparameters.
        seeds = sum(part.rule == "apollo" for part in plan.parts)
        assert plan.state_elements + seeds == expected, size


def test_state_is_at_least_float32_and_gradients_have_the_weights_type() -> None:
    plan = memory(tiny(), "adamw", dtype="bf16")
    assert (plan.weights, plan.gradients, plan.state) == (2 * 133_440, 2 * 133_440, 8 * 133_440)
    as_papers = plan.counted("scale")
    assert (as_papers.gradients, as_papers.state, as_papers.total) == (0, 4 * 133_440, 6 * 133_440)


def test_a_rank_more_is_more_memory_and_a_full_one_is_no_less_than_adamw() -> None:
    sizes = [memory(tiny(), "galore", rank=rank).state for rank in (1, 2, 8, 32, 64)]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] >= memory(tiny(), "adamw").state


def test_seven_billion_weights_are_planned_in_two_seconds() -> None:
    memory("llama-60m", "galore")
    start = time.process_time()
    plan = memory("llama-7b", "galore", rank=1024)
    assert time.process_time() - start < 2
    assert sum(part.elements for part in plan.parts) == 6_738_415_616


@pytest.mark.parametrize("state", ["full", "8bit"])
@pytest.mark.parametrize("name", ["adamw", "muon", "galore", "soap", "adafactor"])
def test_buffers_are_those_that_the_engine_makes_on_a_gpu(
    name: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    class Room(units.Room):
        def __init__(self, buckets: Any) -> None:
            super().__init__(buckets)
            made.append(sum(t.nbytes for t in self.buffers.values()))

    plan = memory(tiny(), name, state=state)
    monkeypatch.setattr(units, "Room", Room)
    for engine in ("batched", "lowbit"):
        monkeypatch.setattr(sys.modules[f"steepest.engines.{engine}"], "on_cpu", lambda pieces: False)
    model = real(tiny())
    optimizer = face(rules()[name])(model, engine="batched", state=state)
    for p in model.parameters():
        p.grad = 0.01 * torch.randn_like(p)
    optimizer.step()
    assert plan.buffers == sum(made) and (made or state == "8bit")


def test_codes_take_a_byte_a_number_and_a_scale_a_block() -> None:
    """As systems/memory_claims.md counts 8-bit Adam; weights of fewer than 4,096 numbers keep full state."""
    plan = memory(tiny(), "adamw", state="8bit")
    small = 5 * 64
    assert plan.state == 2 * (133_440 - small) + 2 * 4 * (133_440 - small) // 256 + 8 * small


def test_a_frozen_weight_has_neither_gradient_nor_state() -> None:
    model = real(tiny())
    model.get_parameter("lm_head.weight").requires_grad_(False)
    plan = memory(model, "adamw")
    assert plan.weights - plan.gradients == 4 * 64 * 256
    assert plan.state == 8 * (133_440 - 64 * 256)
    assert {part.parameter for part in plan.parts if not part.trained} == {"lm_head.weight"}


def test_the_users_module_stays_as_it_is_and_a_tied_weight_counts_once() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, 8)
            self.head = nn.Linear(8, 50, bias=False)
            self.head.weight = self.embed.weight
            self.register_buffer("mask", torch.ones(3))

    model = Own()
    before = model.embed.weight.clone()
    plan = memory(model, "adamw", dtype=torch.bfloat16)
    assert (plan.model, plan.weights, plan.state) == ("Own", 800, 3200)
    assert model.embed.weight.dtype == torch.float32 and torch.equal(before, model.embed.weight)
    assert memory(model.named_parameters(), "adamw").weights == 1600


def test_an_optimizer_that_exists_is_counted_as_it_is() -> None:
    model = real(tiny())
    optimizer = steepest.GaLore(model, rank=16)
    assert memory(model, optimizer).parts == memory(tiny(), "galore", rank=16).parts


def test_another_packages_optimizer_is_stepped_without_memory() -> None:
    plan = memory(tiny(), "torch:AdamW")
    assert (plan.state, plan.counters) == (8 * 133_440, 4 * 21)
    assert plan.state + plan.counters == resolve("torch:AdamW").state_bytes(real(tiny()))
    assert memory(tiny(), torch.optim.SGD, momentum=0.9).state == 4 * 133_440


def test_a_recipe_is_counted_where_it_is_asked_for() -> None:
    assert memory(tiny(), "sgd").state == 0
    assert memory(tiny(), "sgd", recipe=True).state == 4 * 133_440
    assert memory(tiny(), steepest.SGD, recipe=True).state == 4 * 133_440


def test_print_and_row_tell_roles_slots_and_what_is_not_in_it() -> None:
    plan = memory("llama-60m", "galore", rank=128, accounting="scale")
    told = str(plan)
    assert told.startswith("GaLore (rank=128) on llama-60m, float32 weights: 0.28 GB")
    assert "steepest allocates 0.88 GB" in told.splitlines()[1], "fp32: 2 · 232 MB, 327 MB of state, buffers"
    assert "projector_right" in told and "not in it: activations" in told
    row = json.loads(json.dumps(plan.row()))
    assert row["total"] == plan.total == row["weights"] + row["state"]
    assert sum(r["state"] for r in row["by_role"]) == sum(s["bytes"] for s in row["by_slot"]) == row["state"]
    assert len(row["parts"]) == len(plan.parts) == 75
    assert row["largest_gradient"] == 4 * 32_000 * 512


def test_the_page_on_memory_runs_as_it_stands() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "memory.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.S | re.M)
    exec(compile(block, "memory.md", "exec"), {})


def test_the_page_on_memory_tells_every_preset_as_it_is() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "memory.md").read_text()
    yes = {True: "yes", False: "no"}
    for name, as_ in PRESETS.items():
        kind = "as allocated" if as_.dtype is None else str(as_.dtype).removeprefix("torch.")
        cells = (f"`{name}`", as_.unit, kind, yes[as_.gradients], yes[as_.embeddings], yes[as_.seeded])
        assert f"| {' | '.join(cells)} |" in page


# ---- models


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_papers_models_have_their_weights(name: str) -> None:
    plan = memory(name, "muon")
    assert sum(part.elements for part in plan.parts) == WEIGHTS[name][0]
    assert sum(part.elements for part in plan.parts if part.rule == "muon") == WEIGHTS[name][1]


@pytest.mark.parametrize("name", CARDS)
def test_known_models_have_the_weights_of_their_cards(name: str) -> None:
    weights = model_named(name).weights
    assert isinstance(weights, nn.Module)
    assert sum(p.numel() for p in weights.parameters()) == CARDS[name]


@pytest.mark.parametrize(
    "config",
    [
        *KNOWN.values(),
        TINY | {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2, "tie_word_embeddings": True},
        TINY | {"model_type": "qwen3", "attention_bias": True, "head_dim": 32, "num_key_value_heads": 2},
        TINY | {"model_type": "gemma", "head_dim": 32, "num_key_value_heads": 1, "attention_bias": True},
        TINY | {"model_type": "gemma2", "head_dim": 32, "num_key_value_heads": 1},
        TINY | {"model_type": "gemma3_text", "head_dim": 32, "num_key_value_heads": 1},
        TINY | {"model_type": "gpt_neox", "attention_bias": False, "tie_word_embeddings": True},
        {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 99,
         "n_inner": 100},
    ],
    ids=[*KNOWN, *range(7)],
)  # fmt: skip
def test_names_and_shapes_are_those_of_transformers(config: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    own = described(config, "own").weights
    kind = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(kind)
    assert isinstance(own, nn.Module)
    assert {n: p.shape for n, p in own.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}


@pytest.mark.parametrize("name", ["gpt2", "pythia-70m", "qwen3-0.6b", "gemma-2b"])
def test_most_rules_take_every_known_architecture(name: str) -> None:
    model = planned(name)
    refused = {rule: error for rule in rules() if (error := refusal(model, rule))}
    assert not refused


def refusal(model: Model, rule: str) -> str:
    try:
        memory(model, rule)
    except SteepestError as error:
        return str(error)
    return ""


def test_a_config_file_and_its_folder_are_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    for source in (tmp_path, tmp_path / "config.json", str(tmp_path)):
        assert memory(source, "adamw").weights == 4 * 133_440


def test_fused_weights_are_counted_by_part_and_a_users_layout_comes_first() -> None:
    small = TINY | {"model_type": "gpt_neox"}
    plan = memory(described(small, "neox"), "muon")
    parts = [part for part in plan.parts if "layers.0.attention.query_key_value.weight" in part.parameter]
    assert [part.role for part in parts] == ["q", "k", "v"]
    assert all(part.elements == 64 * 64 and part.state[0].shape == (4, 16, 64) for part in parts)
    whole = memory(described(small, "neox"), "muon", layouts={"*.query_key_value.weight": Layout()})
    assert whole.state == plan.state and len(whole.parts) < len(plan.parts)


def test_an_architecture_that_is_not_written_here_is_built_by_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    config = {"model_type": "opt", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "ffn_dim": 64, "vocab_size": 50, "word_embed_proj_dim": 32}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert memory(tmp_path, "adamw").state > 8 * 50 * 32


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hidden_size": None}, "has no 'hidden_size'"),
        ({"vocab_size": "many"}, "vocab_size is 'many', and must be a whole number"),
        ({"num_attention_heads": 5}, "width 64 is not divisible by 5 heads: add 'head_dim'"),
        ({"model_type": "mistral"}, "has no 'num_key_value_heads'"),
        ({"model_type": "qwen3", "num_key_value_heads": 4}, "has no 'head_dim'"),
        ({"model_type": None}, "names no model_type"),
        ({"model_type": "nothing-at-all"}, "model_type 'nothing-at-all'.*pass the module"),
    ],
)
def test_a_config_that_tells_too_little_is_answered_with_the_key(
    change: dict[str, Any], match: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY | change))
    with pytest.raises(BadInput, match=match) as caught:
        memory(tmp_path)
    assert "\n" not in str(caught.value)


def test_without_transformers_an_unknown_architecture_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt"}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"model_type 'opt' is none of llama, .*pip install transformers"):
        memory(tmp_path)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown model 'lama-7b': did you mean llama-7b"):
        memory("lama-7b")
    with pytest.raises(BadInput, match=r"no file .*config\.json"):
        memory(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CorruptFile, match="is no JSON"):
        memory(tmp_path)
    with pytest.raises(BadInput, match="a model is a module"):
        memory([torch.ones(2)])  # type: ignore[list-item]


# ---- how papers count


def test_published_totals_are_met_but_for_those_that_are_known_not_to_be() -> None:
    """As systems/memory_claims.md marks them; the rest is told with its reason."""
    found = [one for one in compared() if one.computed is not None]
    missed = {
        (one.claim.source.partition(" ")[0].rstrip(","), one.claim.method, one.model)
        for one in found
        if not one.met
    }
    assert {m for m in missed if m[0] == "SCALE"} == {("SCALE", "GaLore", "llama-350m")}
    assert not {m for m in missed if m[0] == "Adam-mini"}
    full = {m[2] for m in missed if m[:2] == ("Fira", "full rank")}
    assert full == {"llama-60m", "llama-1b"}
    table = {(one.claim.method, one.claim.quantity, one.model) for one in found if one.met}
    assert {("full rank", "total", "llama-130m"), ("full rank", "total", "llama-350m")} <= table
    assert ("8-bit Adam", "state", "llama-7b") in table
    assert all(one.claim.why for one in found if not one.met), "a number that is not met says why"


def test_scales_gigabytes_of_7b() -> None:
    totals = {
        one.spec: one.computed for one in compared() if one.model == "llama-7b" and one.claim.accounting == "scale"
    }
    assert totals["apollo:rank=256"] == pytest.approx(16.14, abs=0.01)
    assert totals["apollo:variant=mini"] == pytest.approx(14.53, abs=0.01)


def test_every_claim_names_known_models_and_a_way_of_counting() -> None:
    assert {model for claim in CLAIMS for model in claim.models} <= set(KNOWN)
    assert {accounting_of(claim.accounting) for claim in CLAIMS}
    assert {"steepest", "scale", "galore", "apollo", "fira"} <= set(PRESETS)


def test_accountings_can_be_changed_and_say_what_they_leave_out() -> None:
    changed = accounting_of("scale:unit=GiB,gradients=True,dtype=None")
    assert (changed.unit, changed.gradients, changed.dtype) == ("GiB", True, None)
    assert PRESETS["apollo"].told() == (
        "everything in bfloat16, no gradients, no state of embeddings and head, no projectors that a seed draws, "
        "no buffers"
    )
    plan = memory(tiny(), "adamw", accounting="apollo")
    assert plan.state == 2 * 2 * (133_440 - 2 * 256 * 64)
    for wrong, match in (
        ("scal", "did you mean 'scale'"),
        ("scale:unit=TB", "unknown unit 'TB'"),
        ("scale:gradient=True", "did you mean 'gradients'"),
        ("scale:gradients=5", "is not gradients=True or gradients=False"),
        ("scale:dtype=fp3", "unknown dtype 'fp3'"),
    ):
        with pytest.raises(SteepestError, match=match):
            accounting_of(wrong)
    assert accounting_of(Accounting(unit="MB")).unit == "MB"


def test_sizes_need_their_unit() -> None:
    assert size_of("24GiB") == (24 * 2**30, "GiB") and size_of("1.5 gb") == (1_500_000_000, "GB")
    for wrong in ("24", "GB", "-3GB", "24XB"):
        with pytest.raises(BadInput, match="write 24GiB"):
            size_of(wrong)


# ---- what fits, and the verb


def test_what_fits_lists_every_rule_by_size_with_what_lacks() -> None:
    found = fits(tiny())
    assert {fit.name for fit in found} == set(rules())
    totals = [fit.smallest.total for fit in found if fit.smallest]
    assert totals == sorted(totals)
    galore = next(fit for fit in found if fit.name == "galore")
    assert galore.smallest and galore.largest and galore.smallest.total < galore.largest.total
    row = galore.row(size=galore.smallest.total)
    assert row["smallest"]["left"] == 0 and row["largest"]["left"] < 0
    one = memory(tiny(), "galore", **resolve("galore:" + galore.options[0]).options)
    assert one.total == galore.smallest.total, "the options that are told make it so"


def output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["memory", *words]) == 0
    return capsys.readouterr().out


def test_the_verb_tells_one_optimizer_and_compares_several(capsys: pytest.CaptureFixture[str]) -> None:
    one = output(capsys, "--model", "llama-60m", "--optimizer", "galore:rank=128", "--accounting", "scale")
    assert one.startswith("GaLore (rank=128) on llama-60m, float32 weights: 0.28 GB")
    several = output(capsys, "--model", "llama-60m", "--optimizer", "adamw", "lion", "--fits", "1GB")
    assert several.index("Lion") < several.index("AdamW") and "over by" in several and "fits, " in several
    told = json.loads(output(capsys, "--model", "50k", "--json"))
    assert len(told) == len(rules())
    told = json.loads(output(capsys, "--model", "64x64:2,64", "--optimizer", "muon", "--json"))
    assert told["state"] == 4 * 2 * 4096 + 8 * 64


def test_the_verb_tells_what_fits_and_draws_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    figure = tmp_path / "fits.svg"
    words = ("--model", str(tmp_path), "--fits", "2MB", "--figure", str(figure))
    text = output(capsys, *words, "--state", "8bit")
    assert "galore" in text and "over by" in text and f"fit in {'2MB'} at their smallest" in text
    drawing = ET.parse(figure).getroot()
    assert drawing.tag.endswith("svg") and "adamw" in figure.read_text() and "2 MB" in figure.read_text()
    told = json.loads(output(capsys, *words[:4], "--json"))
    assert {row["optimizer"] for row in told["optimizers"]} == set(rules())


def test_the_verb_prints_what_papers_print(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "--published")
    assert "not 350m" in text and "a misprint, it seems" in text
    told = json.loads(output(capsys, "--published", "--json"))
    assert len(told) == sum(len(claim.models) for claim in CLAIMS)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--model", "lama-7b"], "did you mean 'llama-7b'"),
        (["--model", "llama-60m", "--fits", "24"], "write 24GiB"),
        (["--model", "llama-60m", "--optimizer", "galor"], "did you mean 'galore'"),
        (["--model", "llama-60m", "--figure", "x.png"], "name a FILE.svg"),
        (["--model", "llama-60m", "--fits", "1GB", "--recipe"], "give --recipe with --optimizer"),
        (["--model", "llama-60m", "--optimizer", "torch:Adafactor"], "makes no step on weights without memory"),
        ([], "no --model"),
    ],
)
def test_the_verb_answers_bad_input_in_one_line(
    words: list[str], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["memory", *words]) == 2
    error = capsys.readouterr().err
    assert match in error and len(error.splitlines()) == 1

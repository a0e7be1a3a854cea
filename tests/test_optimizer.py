"""The torch.optim face: groups, schedulers, checkpoints, and all that torch's users expect of an optimizer."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint.state_dict as dcp
from cases import build, cases, give_gradients, of_run, same, step, variants, walk, weights
from torch import nn

import steepest
from steepest import estimates
from steepest.core.errors import BadInput, RoutingError, SteepestError, UnknownName, UnsupportedTensor
from steepest.core.rule import hyperparameters
from steepest.optimizer import Optimizer
from steepest.registry import rules


class Small(nn.Module):
    """An embedding, a hidden matrix, a norm, a head."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed = nn.Embedding(7, 4)
            self.up_proj = nn.Linear(4, 6)
            self.norm = nn.LayerNorm(6)
            self.lm_head = nn.Linear(6, 7, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.lm_head(self.norm(self.up_proj(self.embed(ids))))
        return out


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0) -> None:
    for t in range(start, start + steps):
        ids = torch.randint(0, 7, (5,), generator=torch.Generator().manual_seed(t))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids[:-1]), ids[1:]).backward()
        if isinstance(optimizer, Optimizer):
            estimates.step(optimizer, lambda ask: {p: p.grad for p in model.parameters() if p.grad is not None})
        else:
            optimizer.step()


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("name", rules())
def test_each_rule_is_a_torch_optimizer_under_its_own_name(name: str) -> None:
    made = getattr(steepest, rules()[name].__name__)
    assert issubclass(made, torch.optim.Optimizer)
    assert made.__name__ == rules()[name].__name__
    for hyper in hyperparameters(rules()[name]):
        assert hyper in made.__doc__


def test_a_matrix_rule_takes_the_hidden_matrices_and_a_companion_the_rest() -> None:
    optimizer = steepest.Muon(Small(), lr=0.02)
    rows = {r.parameter: r.rule for r in optimizer.routing()}
    assert rows == {
        "embed.weight": "adamw",
        "up_proj.weight": "muon",
        "up_proj.bias": "adamw",
        "norm.weight": "adamw",
        "norm.bias": "adamw",
        "lm_head.weight": "adamw",
    }
    assert {g["rule"]: g["lr"] for g in optimizer.param_groups} == {"adamw": 3e-4, "muon": 0.02}


def test_the_companion_has_its_own_rate_and_decay() -> None:
    optimizer = steepest.Muon(Small(), lr=0.02, weight_decay=0.1, companion={"lr": 1e-3, "weight_decay": 0.5})
    groups = {g["rule"]: g for g in optimizer.param_groups}
    assert (groups["adamw"]["lr"], groups["adamw"]["weight_decay"]) == (1e-3, 0.5)
    assert (groups["muon"]["lr"], groups["muon"]["weight_decay"]) == (0.02, 0.1)
    ratio = steepest.Muon(Small(), lr=0.02, companion={"lr_ratio": 0.25})
    assert {g["rule"]: g["lr"] for g in ratio.param_groups} == {"adamw": 0.005, "muon": 0.02}


def test_the_kimi_variant_shares_one_rate_and_decay() -> None:
    optimizer = steepest.Muon(Small(), lr=0.01, variant="kimi")
    assert {g["lr"] for g in optimizer.param_groups} == {0.01}
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.1}
    assert {g["rule"]: g.get("eps_form") for g in optimizer.param_groups} == {"muon": None, "adamw": "hf"}


@pytest.mark.parametrize("name", ["muon", "soap", "adamw"])
def test_one_scheduler_moves_every_group(name: str) -> None:
    optimizer = build((name, {}), weights())
    first = [g["lr"] for g in optimizer.param_groups]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    optimizer.step()
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == [lr / 2 for lr in first]


@pytest.mark.parametrize("name", rules())
def test_one_cycle_with_its_momentum_runs_over_every_rule(name: str) -> None:
    named = weights()
    optimizer = build((name, {"momentum": 0.9} if name == "sgd" else {}), named)
    cycled = any(key in optimizer.defaults for key in ("momentum", "betas"))  # what torch looks for
    schedule = torch.optim.lr_scheduler.OneCycleLR
    scheduler = schedule(optimizer, max_lr=0.1, total_steps=5, cycle_momentum=cycled)
    for t in range(4):
        give_gradients(named, t)
        step(optimizer)
        scheduler.step()
    assert all(p.isfinite().all() for p in named.values())


def test_a_number_changed_in_a_group_is_in_force_at_the_next_step() -> None:
    changed, built = weights(), weights()
    a, b = build(("adamw", {"betas": (0.5, 0.5)}), changed), build(("adamw", {"betas": (0.9, 0.99)}), built)
    a.param_groups[0]["betas"] = (0.9, 0.99)
    walk(a, changed, 3)
    walk(b, built, 3)
    assert same(changed, built)


def test_groups_keep_their_own_hyperparameters_and_undecayed_roles_are_not_decayed() -> None:
    named = weights()
    inner = [(n, p) for n, p in named.items() if n.startswith("blocks")]
    outer = [(n, p) for n, p in named.items() if not n.startswith("blocks")]
    optimizer = steepest.AdamW(
        [{"params": inner, "lr": 0.1}, {"params": outer, "weight_decay": 0.3}],
        lr=0.01,
        weight_decay=0.2,
        undecayed=("norm", "bias"),
    )
    told = {n: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for n in g["param_names"]}
    assert told["blocks.0.attn.q.weight"] == (0.1, 0.2)
    assert told["blocks.0.mlp.out.bias"] == (0.1, 0.0)
    assert told["embed.weight"] == (0.01, 0.3)
    assert told["norm.weight"] == (0.01, 0.0)


def of_its_own(case: Any) -> bool:
    """Whether a weight moves alike whatever others there are: no draws, which count pieces, no totals, and nothing
    measured by a calendar, which is the oldest weight's."""
    optimizer = build(case, weights())
    rules = [optimizer.rule_of(group) for group in optimizer.param_groups]
    drawn = any(rule.randoms((4, 4), rule.phase(t)) for rule in rules for t in (1, 2))
    return not drawn and not any(rule.totals or rule.needs(1) != rule.needs(3) for rule in rules)


@pytest.mark.parametrize("case", [p for p in cases(variants) if of_its_own(p.values[0])])
def test_a_group_added_late_walks_as_if_alone(case: Any) -> None:
    together, apart = weights(), weights()
    early = {n: p for n, p in together.items() if n != "blocks.0.mlp.in_.weight"}
    optimizer = build(case, early)
    walk(optimizer, together, 2)
    late = together["blocks.0.mlp.in_.weight"]
    optimizer.add_param_group({"params": [("blocks.0.mlp.in_.weight", late)]})
    assert optimizer.state[late]["step"] == 0
    walk(optimizer, together, 2, start=2)
    alone = {"blocks.0.mlp.in_.weight": apart["blocks.0.mlp.in_.weight"]}
    other = build(case, alone)
    walk(other, apart, 2, start=2)
    assert torch.equal(late, alone["blocks.0.mlp.in_.weight"])


@pytest.mark.parametrize("case", [p for p in cases(variants) if "lr" not in p.values[0][1]])
def test_a_tensor_learning_rate_walks_as_the_float_and_is_saved_as_a_float(case: Any) -> None:
    plain, tensor = weights(), weights()
    walk(build(case, plain), plain, 3)
    optimizer = build(case, tensor, lr=torch.tensor(0.01, dtype=torch.float64))
    walk(optimizer, tensor, 3)
    for name, p in plain.items():
        torch.testing.assert_close(tensor[name], p, rtol=1e-12, atol=1e-14)
    saved = optimizer.state_dict()
    assert all(type(g["lr"]) is float for g in saved["param_groups"])
    optimizer.load_state_dict(saved)
    own = [g["lr"] for g in optimizer.param_groups if g["rule"] == case[0]]
    assert all(isinstance(lr, torch.Tensor) for lr in own)


def test_step_hooks_and_closures_run_as_in_torch() -> None:
    model, calls = Small(), []
    optimizer = steepest.AdamW(model, lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> torch.Tensor:
        calls.append("closure")
        optimizer.zero_grad()
        loss = model(torch.tensor([1, 2])).square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0
    assert calls == ["before", "closure", "after"]


def test_grad_scaler_unscales_and_skips_a_step_with_infinities() -> None:
    model, twin = Small(), Small()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    a, b = steepest.AdamW(model, lr=0.1), steepest.AdamW(twin, lr=0.1)
    ids = torch.tensor([1, 2, 3])
    scaler.scale(model(ids).square().sum()).backward()
    scaler.step(a)
    scaler.update()
    twin(ids).square().sum().backward()
    b.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    before = copy.deepcopy(model)
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.inf)
    scaler.step(a)
    assert equal(model, before)


def test_a_saved_state_is_flat_tensors_by_name_and_loads_with_weights_only() -> None:
    model = Small()
    optimizer = steepest.Muon(model, lr=0.02)
    learn(model, optimizer, 2)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert [n for g in saved["param_groups"] for n in g["param_names"]] == [
        r.parameter for g in optimizer.param_groups for p in g["params"] for r in optimizer._routes[p]
    ]
    assert all(isinstance(t, torch.Tensor) for state in saved["state"].values() for t in state.values())


def test_a_loaded_state_is_a_copy_and_keeps_the_types_it_was_saved_with() -> None:
    a, b = weights(torch.bfloat16), weights(torch.bfloat16)
    first, second = build(("adamw", {}), a), build(("adamw", {}), b)
    walk(first, a, 2)
    second.load_state_dict(first.state_dict())
    for p, q in zip(a.values(), b.values(), strict=True):
        assert second.state[q]["exp_avg"].dtype == torch.float32
        assert second.state[q]["exp_avg"].data_ptr() != first.state[p]["exp_avg"].data_ptr()
        assert torch.equal(second.state[q]["exp_avg"], first.state[p]["exp_avg"])


def test_a_state_is_matched_by_name_when_the_weights_come_in_another_order() -> None:
    a, b = weights(), weights()
    first, second = build(("adamw", {}), a), build(("adamw", {}), dict(reversed(b.items())))
    walk(first, a, 2)
    walk(build(("adamw", {}), b), b, 2)
    second.load_state_dict(first.state_dict())
    walk(first, a, 1, start=2)
    give_gradients(b, 2)
    second.step()
    assert same(a, b)


def test_a_checkpoint_of_torch_adamw_goes_on_bit_for_bit_to_rounding() -> None:
    a, b = Small().double(), Small().double()
    theirs = torch.optim.AdamW(a.parameters(), lr=0.01, weight_decay=0.1)
    learn(a, theirs, 3)
    b.load_state_dict(a.state_dict())
    ours = steepest.AdamW(b.parameters(), lr=0.01, weight_decay=0.1)
    ours.load_state_dict(theirs.state_dict())
    learn(a, theirs, 3, start=3)
    learn(b, ours, 3, start=3)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", rules())
@pytest.mark.parametrize("flatten", [False, True])
def test_distributed_checkpoint_takes_and_gives_back_a_state_without_disturbing_anything(
    name: str, flatten: bool
) -> None:
    options = dcp.StateDictOptions(flatten_optimizer_state_dict=flatten)
    whole, half, other = Small(), Small(), Small()
    kind = getattr(steepest, rules()[name].__name__)
    a, b, c = (kind(m, lr=0.01, **of_run(rules()[name])) for m in (whole, half, other))
    learn(whole, a, 4)
    dcp.get_optimizer_state_dict(half, b, options=options)  # before the first step: torch may step with zeros
    assert equal(half, Small()) and all(p.grad is None for p in half.parameters())
    learn(half, b, 2)
    saved = dcp.get_optimizer_state_dict(half, b, options=options)
    other.load_state_dict(half.state_dict())
    dcp.set_optimizer_state_dict(other, c, saved, options=options)
    learn(other, c, 2, start=2)
    assert equal(whole, other)


def test_a_checkpoint_that_does_not_fit_is_refused_by_name_and_changes_nothing() -> None:
    model = Small()
    optimizer = steepest.AdamW(model, lr=0.01)
    learn(model, optimizer, 1)
    before = copy.deepcopy(optimizer.state_dict())

    def refused(change: Any, match: str) -> None:
        saved = copy.deepcopy(before)
        change(saved)
        with pytest.raises(BadInput, match=match):
            optimizer.load_state_dict(saved)
        now = optimizer.state_dict()
        assert all(torch.equal(now["state"][i][k], t) for i, s in before["state"].items() for k, t in s.items())

    refused(lambda s: s["param_groups"].append(s["param_groups"][0]), "2 parameter groups, this optimizer 1")
    refused(lambda s: s["state"][0].pop("exp_avg"), r"embed\.weight: the checkpoint lacks state 'exp_avg'")
    refused(lambda s: s["state"][0].update(extra=torch.ones(1)), "does not keep state 'extra'")
    refused(lambda s: s["state"][0].update(exp_avg=torch.ones(3)), r"shape \(3,\) in the checkpoint, \(7, 4\)")
    refused(lambda s: s["param_groups"][0].update(rule="lion"), "saved by 'lion'")
    refused(lambda s: s["param_groups"][0]["param_names"].__setitem__(0, "w"), "no weight 'embed.weight'")


def test_a_sparse_gradient_is_refused_with_the_next_step() -> None:
    model = nn.Embedding(5, 3, sparse=True)
    optimizer = steepest.AdamW(model, lr=0.1)
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(UnsupportedTensor, match=r"gradient of weight is sparse.*sparse=False"):
        optimizer.step()


def test_a_complex_weight_is_refused() -> None:
    with pytest.raises(UnsupportedTensor, match="w is complex"):
        steepest.AdamW([("w", nn.Parameter(torch.ones(2, dtype=torch.complex64)))], lr=0.1)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"lr": math.nan}, "lr=nan must be a finite number"),
        ({"lr": -1.0}, "lr=-1.0 must be a finite number"),
        ({"betas": (0.9, 1.5)}, r"betas=\(0.9, 1.5\)"),
        ({"momentun": 0.9}, "unknown hyperparameter of adamw 'momentun'"),
        ({"eps_form": "tf"}, "eps_form='tf' is not one of 'torch', 'hf'"),
        ({"decay": "late"}, "decay='late' is not one of"),
        ({"variant": "adan"}, "unknown variant of adamw 'adan': did you mean 'adam'"),
        ({"engine": "loops"}, "unknown engine 'loops': did you mean 'loop'"),
        ({"companion": {"lr": 1.0}}, "adamw takes every weight"),
        ({"undecayed": ("norms",)}, "unknown role 'norms': did you mean 'norm'"),
    ],
)
def test_a_bad_argument_is_answered_in_one_line(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(SteepestError, match=match) as caught:
        steepest.AdamW(Small(), **arguments)
    assert "\n" not in str(caught.value)


def test_an_unknown_hyperparameter_of_the_companion_is_named() -> None:
    with pytest.raises(UnknownName, match="hyperparameter of the companion 'beta'"):
        steepest.Muon(Small(), companion={"beta": 0.9})


def test_unnamed_parameters_of_a_whole_model_are_refused_by_a_matrix_rule_with_the_next_step() -> None:
    with pytest.raises(RoutingError, match=r"pass the model, model\.named_parameters"):
        steepest.Muon(Small().parameters(), lr=0.02)


def test_a_sharded_weight_is_refused_by_a_matrix_rule_and_stepped_by_an_element_rule() -> None:
    if not torch.distributed.is_available():
        pytest.skip("torch without distributed")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        plain = nn.Parameter(torch.arange(12.0).view(4, 3))
        shard = nn.Parameter(distribute_tensor(plain.detach().clone(), mesh, [Shard(0)]))
        for kind in (steepest.Muon, steepest.SOAP):
            with pytest.raises(UnsupportedTensor, match=r"q\.weight is sharded"):
                kind([("q.weight", shard)], lr=0.1)
        a, b = steepest.AdamW([("q.weight", plain)], lr=0.1), steepest.AdamW([("q.weight", shard)], lr=0.1)
        plain.grad = torch.ones(4, 3)
        shard.grad = distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)])
        for optimizer in (a, b):
            optimizer.step()
        assert torch.equal(plain, shard.full_tensor())
        assert isinstance(b.state[shard]["exp_avg"], DTensor)
    finally:
        torch.distributed.destroy_process_group()


def test_independent_decay_follows_the_schedule_and_not_the_rate() -> None:
    w = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = steepest.AdamW([w], lr=0.01, weight_decay=0.1, decay="independent")
    w.grad = torch.zeros_like(w)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((3,), 0.9, dtype=torch.float64))
    optimizer.param_groups[0]["lr"] = 0.005  # the schedule is at half its peak
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((3,), 0.9 * 0.95, dtype=torch.float64))


@pytest.mark.parametrize("engine", ["loop", "batched"])
def test_fixed_decay_follows_neither_and_leaves_a_frozen_group_alone(engine: str) -> None:
    w = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = steepest.AdaBelief([w], lr=0.01, weight_decay=0.1, decay="fixed", engine=engine)
    for lr, left in ((0.01, 0.9), (0.005, 0.81), (0.0, 0.729)):
        optimizer.param_groups[0]["lr"] = lr
        w.grad = torch.zeros_like(w)
        optimizer.step()
        torch.testing.assert_close(w.detach(), torch.full((3,), left, dtype=torch.float64))
    optimizer.param_groups[0]["peak_lr"] = 0.0
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((3,), 0.729, dtype=torch.float64))

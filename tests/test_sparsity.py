"""N:M masks, the two rules that fade what they do not keep, and the cut at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_trajectories import INPUTS

from steepest import sparsity
from steepest.core.errors import BadInput
from steepest.core.layout import Layout
from steepest.faces import face
from steepest.linalg.nm_mask import nm_mask
from steepest.registry import rules

ADAMS, AST = face(rules()["adams"]), face(rules()["ast"])
ORACLES = Path(__file__).parent / "oracles"


def det(k: int, scale: float) -> np.ndarray:
    """The inputs of these traces, which are float32 whatever they were used in."""
    x = np.sin(0.37 * (k + 1) * np.arange(8) + 0.11 * k).astype(np.float32)
    return (np.float32(scale) * x).reshape(2, 4).astype(float)


# Last weights of the authors' AST code (float32), and of a float64 text of CAST's Algorithm 1.
AST_AFTER_4 = [-0.2459191381931305, -0.0675428956747055, 0.13166755437850952, 0.4072057008743286]
AST_AFTER_4 += [0.5061735510826111, 0.6524305939674377, 0.21118326485157013, 0.2567720115184784]
ADAMS_AFTER_6 = [-0.2692346712218227, -0.05407610433311781, 0.10692362367758196, 0.386120791655556]
ADAMS_AFTER_6 += [0.40455678387455685, 0.687407365576671, 0.5589812910423314, 0.26073504386316976]


def walked(optimizer: type, steps: int, **hyper: Any) -> np.ndarray:
    w = torch.nn.Parameter(torch.tensor(det(0, 0.5)))
    made = optimizer([("w", w)], lr=0.01, n=2, m=4, **hyper)
    for t in range(steps):
        w.grad = torch.tensor(det(t + 1, 0.2))
        made.step()
    return w.detach().numpy().ravel()


def test_adams_walks_as_the_papers_algorithm_where_masks_change() -> None:
    found = walked(ADAMS, 6, total_steps=6, mask_every=2, l1_lambda=0.02, betas=(0.9, 0.999))
    np.testing.assert_allclose(found, ADAMS_AFTER_6, rtol=0, atol=1e-9)


def test_ast_walks_as_the_authors_code_under_a_mask_that_stays() -> None:
    hyper = {"srste_decay": 0.05, "increase_step": 0, "weight_decay": 0.0, "betas": (0.9, 0.999)}
    np.testing.assert_allclose(walked(AST, 4, mask_every=100, **hyper), AST_AFTER_4, rtol=0, atol=1e-7)


@pytest.mark.parametrize("engine", ["loop", "batched"])
@pytest.mark.parametrize(
    "path", sorted(ORACLES.glob("cast_adams/*.json")) + sorted(ORACLES.glob("ast_adamw/*.json"))
)
def test_masks_of_the_weights_are_the_recorded_ones(path: Path, engine: str) -> None:
    """They are not fed: a mask that came out otherwise would be a wrong mask."""
    told = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as archive:
        arrays = dict(archive)
    rule = rules()["adams" if told["optimizer"] == "cast_adams" else "ast"]
    arguments = rule.of_trajectory(told, arrays)
    seen = sorted(
        int(key.split("/")[2]) for key in arrays if key.startswith("extra/mask/") and key.endswith("/tall")
    )
    weights = {n: torch.nn.Parameter(torch.tensor(INPUTS[f"init/{n}"])) for n in ("square", "tall", "wide")}
    optimizer = face(rule)(list(weights.items()), engine=engine, **arguments)
    for t in range(max(seen) + 1):
        for name, w in weights.items():
            w.grad = torch.tensor(INPUTS[f"grad/{t:03d}/{name}"])
        optimizer.step()
        for name, w in weights.items() if t in seen else ():
            assert np.array_equal(optimizer.state[w]["mask"].numpy(), arrays[f"extra/mask/{t:03d}/{name}"])
    assert len(seen) >= 2


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (4, 4), (3, 8), (1, 1)])
@pytest.mark.parametrize("shape", [(5, 16), (3, 2, 8), (1, 24)], ids=str)
def test_exactly_n_of_every_m_are_kept_and_none_outside_is_larger(n: int, m: int, shape: tuple[int, ...]) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mask = nm_mask(w, n, m)
    groups, kept = w.abs().unflatten(-1, (-1, m)), mask.unflatten(-1, (-1, m))
    assert mask.shape == w.shape and mask.dtype == torch.bool
    assert (kept.sum(dim=-1) == n).all()
    least = torch.where(kept, groups, torch.inf).amin(dim=-1)
    assert (torch.where(kept, -1.0, groups).amax(dim=-1) <= least).all()
    assert torch.equal(nm_mask(w * mask, n, m), mask), "idempotent"


def test_of_equals_the_first_are_kept_zeros_included() -> None:
    w = torch.tensor([[0.0, 0.0, 0.0, 0.0, -1.0, 1.0, -1.0, 1.0, 0.0, 2.0, 0.0, 0.0]])
    expected = [True, True, False, False, True, True, False, False, True, True, False, False]
    assert nm_mask(w, 2, 4).tolist() == [expected]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 9, 10])
def test_a_row_that_m_does_not_divide_fits_two_of_four_when_it_is_filled_up_with_zeros(length: int) -> None:
    w = torch.randn(6, length, generator=torch.Generator().manual_seed(length))
    mask = nm_mask(w, 2, 4)
    filled = torch.nn.functional.pad(w * mask, (0, -length % 4)).unflatten(-1, (-1, 4))
    assert ((filled != 0).sum(dim=-1) <= 2).all()
    whole, rest = length // 4 * 4, length % 4
    assert (mask[:, :whole].sum(dim=-1) == whole // 2).all()
    assert (mask[:, whole:].sum(dim=-1) == min(rest, 2)).all()


def test_masked_weights_move_by_lr_whatever_lambda_is_once_only_the_decay_is_left() -> None:
    """g=0 and a=1: u = lambda sign(w), v = lambda^2, so each step is lr / (1 - beta1^t)."""
    for lam in (1e-3, 1.0):
        w = torch.nn.Parameter(torch.tensor([[3.0, 4.0, 1.0, -2.0]], dtype=torch.float64))
        made = ADAMS([("w", w)], lr=0.01, l1_lambda=lam, total_steps=1, alpha_from=1, eps=1e-30)
        for _ in range(40):
            before = w.detach().clone()
            w.grad = torch.zeros_like(w)
            made.step()
            t = made.state[w]["step"].item()
            moved = (w.detach() - before)[0, 2:]
            torch.testing.assert_close(
                moved, torch.tensor([-1.0, 1.0]).double() * 0.01 / (1 - 0.9**t), rtol=1e-6, atol=0
            )


def test_no_decay_ever_enters_the_stored_momentum_and_v_is_of_the_momentum() -> None:
    found = {}
    for lam in (0.0, 5.0):
        w = torch.nn.Parameter(torch.arange(1.0, 9.0).view(2, 4).double())
        made = ADAMS([("w", w)], lr=0.01, l1_lambda=lam, total_steps=3)
        for t in range(6):
            w.grad = torch.tensor(det(t, 1.0))
            made.step()
        found[lam] = made.state[w]
    assert torch.equal(found[0.0]["exp_avg"], found[5.0]["exp_avg"])
    assert not torch.equal(found[0.0]["exp_avg_sq"], found[5.0]["exp_avg_sq"])
    mu = v = np.zeros((2, 4))
    for t in range(6):
        mu = 0.9 * mu + 0.1 * det(t, 1.0)
        v = 0.999 * v + 0.001 * mu**2
    mask = found[0.0]["mask"].numpy()
    np.testing.assert_allclose(found[0.0]["exp_avg_sq"].numpy()[mask], v[mask], rtol=1e-12)


def test_in_bfloat16_a_weight_of_one_never_fades_and_in_float32_it_does() -> None:
    left = {}
    for dtype in (torch.float32, torch.bfloat16):
        w = torch.nn.Parameter(torch.tensor([[3.0, 4.0, 1.0, -1.0]], dtype=dtype))
        made = ADAMS([("w", w)], lr=1e-3, l1_lambda=4e-7, total_steps=1, alpha_from=1, eps=1e-12, betas=(0.0, 0.9))
        for _ in range(50):
            w.grad = torch.zeros_like(w)
            made.step()
        left[dtype] = w[0, 2].item()
    assert left == {torch.float32: pytest.approx(0.95, abs=1e-3), torch.bfloat16: 1.0}


def fused(optimizer: type = ADAMS) -> tuple[torch.nn.Parameter, Any]:
    """A fused weight stored transposed, (inputs, outputs): its groups run down the columns."""
    w = torch.nn.Parameter(torch.randn(8, 12, generator=torch.Generator().manual_seed(0)))
    layout = Layout(transposed=True, split=(("q", 4), ("k", 4), ("v", 4)))
    made = optimizer([("h.0.attn.c_attn.weight", w)], layouts={"*c_attn.weight": layout}, lr=1e-3, total_steps=10)
    return w, made


@pytest.mark.parametrize("optimizer", [ADAMS, AST])
def test_the_cut_leaves_two_of_four_inputs_also_of_parts_of_a_transposed_weight(optimizer: type) -> None:
    w, made = fused(optimizer)
    w.grad = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
    made.step()
    before = w.detach().abs().sum()
    shares = sparsity.masked_shares(made)
    taken = sparsity.prune(made)
    assert taken == shares and set(taken) == {"h.0.attn.c_attn.weight"}
    assert ((w.detach().T.reshape(-1, 4) != 0).sum(dim=1) == 2).all()
    assert 1 - (w.detach().abs().sum() / before).item() == pytest.approx(taken["h.0.attn.c_attn.weight"], abs=1e-6)
    assert sparsity.masked_shares(made) == {"h.0.attn.c_attn.weight": 0.0}


def test_a_cut_without_masks_or_before_the_first_step_is_refused_and_changes_nothing() -> None:
    w, made = fused()
    before = w.detach().clone()
    with pytest.raises(BadInput, match=r"h\.0\.attn\.c_attn\.weight has no mask yet"):
        sparsity.prune(made)
    assert torch.equal(w, before)
    with pytest.raises(BadInput, match="lion has masked no weight"):
        sparsity.prune(face(rules()["lion"])([("w", w)]))


def test_other_weights_are_moved_by_adamw_or_by_the_ports_rule_and_never_cut() -> None:
    named = {"h.0.q.weight": (8, 8), "embed.weight": (12, 8), "norm.weight": (8,)}
    for variant, rule in (("paper", "adamw"), ("port", "adams")):
        weights = {n: torch.nn.Parameter(torch.ones(s)) for n, s in named.items()}
        made = ADAMS(list(weights.items()), total_steps=4, variant=variant)
        assert {g["rule"] for g in made.param_groups for n in g["param_names"] if n[0] != "h"} == {rule}
        assert [n for n, w in weights.items() if "mask" in made.state[w]] == ["h.0.q.weight"]
        for w in weights.values():
            w.grad = torch.ones_like(w)
        made.step()
        assert set(sparsity.prune(made)) == {"h.0.q.weight"}


def test_more_kept_than_there_are_is_refused_and_the_runs_length_must_be_told() -> None:
    w = torch.nn.Parameter(torch.ones(4, 4))
    with pytest.raises(BadInput, match="n=5 of every m=4"):
        ADAMS([("w", w)], n=5, m=4)
    w.grad = torch.ones(4, 4)
    for optimizer in (ADAMS, AST):
        with pytest.raises(BadInput, match="give total_steps="):
            optimizer([("w", w)]).step()
    AST([("w", w)], increase_step=10).step()

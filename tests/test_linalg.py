"""The linear algebra under the rules: each fast form against the text that it stands for."""

from __future__ import annotations

import pytest
import torch
from cases import needs_compiler
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from steepest.linalg.adam import ema_in_one_pass, ema_of_square
from steepest.linalg.eigenbasis import eigenbasis, refreshed, reordered
from steepest.linalg.newton_schulz import KELLER, orthogonalise
from steepest.linalg.norms import frobenius
from steepest.linalg.symmetric import PANEL, ema_of_gram, symmetric_baddbmm

WHOLE = (PANEL + 3, PANEL + 30)
SHAPES = [(6, 6), (4, 9), (9, 4), (1, 7), (7, 1), (3, 5, 8), (2, 3, 8, 5), WHOLE, (0, 4, 3), (0, 3)]
LOOSE = {torch.float32: {"rtol": 1e-4, "atol": 1e-4}, torch.float64: {"rtol": 1e-11, "atol": 1e-12}}


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gram(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    x = random(*shape, dtype=dtype, seed=seed)
    return x @ x.mT


def textbook(x: Tensor, steps: int, coefficients: tuple[float, ...], eps: float, norm: str) -> Tensor:
    a, b, c = coefficients
    size = x.square().sum(dim=(-2, -1), keepdim=True).sqrt()
    x = x / (size + eps if norm == "add" else size.clamp(min=eps))
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("steps", "coefficients", "eps", "norm"),
    [(5, KELLER, 1e-7, "add"), (3, (2.0, -1.5, 0.5), 10.0, "clamp"), (4, (1.5, -0.5, 0.0), 0.1, "add")],
    ids=["keller", "clamped", "cubic"],
)
def test_newton_schulz_is_the_textbook_loop(
    shape: tuple[int, ...], steps: int, coefficients: tuple[float, ...], eps: float, norm: str
) -> None:
    x = random(*shape)
    before = x.clone()
    found = orthogonalise(x, steps, coefficients, eps, norm)
    torch.testing.assert_close(found, textbook(x, steps, coefficients, eps, norm), rtol=1e-10, atol=1e-12)
    assert torch.equal(x, before)


def test_newton_schulz_reads_a_transposed_matrix_in_place() -> None:
    x = random(3, 5, 8)
    torch.testing.assert_close(orthogonalise(x.mT), orthogonalise(x.mT.contiguous()), rtol=0, atol=0)
    torch.testing.assert_close(orthogonalise(x.mT), orthogonalise(x).mT, rtol=1e-10, atol=1e-12)


def test_newton_schulz_in_bfloat16_errs_no_more_than_the_official_text_in_it() -> None:
    x = random(2, 96, 128)
    exact = orthogonalise(x)
    found = orthogonalise(x.float(), dtype=torch.bfloat16)
    official = textbook(x.bfloat16(), 5, KELLER, 1e-7, "add")
    assert found.dtype == torch.float32
    assert (found - exact).norm() < 1.5 * (official - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_newton_schulz_leaves_a_zero_matrix_zero_and_a_nan_in_its_own_matrix(dtype: torch.dtype) -> None:
    x = random(4, 5, 8, dtype=dtype)
    x[1], x[2, 0, 0] = 0, torch.nan
    found = orthogonalise(x)
    assert torch.equal(found[1], torch.zeros_like(x[1])) and found[2].isnan().all()
    for i in (0, 3):
        torch.testing.assert_close(found[i], orthogonalise(x[i]), rtol=2e-2, atol=2e-2)
    assert found[0].isfinite().all()


def peak(work: object, of: Tensor) -> float:
    """The most memory that a call holds at once beside its argument, in copies of that."""
    assert callable(work)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work(of)
    held = most = 0
    results = record.profiler.kineto_results
    for event in sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / (of.numel() * of.element_size())


@pytest.mark.parametrize(("shape", "copies"), [((4, 192, 192), 4), ((4, 64, 256), 2.5), ((4, 256, 64), 2.5)])
def test_newton_schulz_holds_few_copies_of_the_stack(shape: tuple[int, ...], copies: float) -> None:
    x = random(*shape, dtype=torch.float32)
    orthogonalise(x)
    assert 1 < peak(orthogonalise, x) < copies + 0.01
    assert peak(lambda x: orthogonalise(x, dtype=torch.bfloat16), x) < copies / 2 + 1.01  # and the result


@pytest.mark.parametrize("dtype", LOOSE, ids=str)
@pytest.mark.parametrize("n", [1, 5, PANEL, PANEL + 1, 2 * PANEL + 37])
def test_a_symmetric_product_by_half_is_the_whole_one_and_symmetric(n: int, dtype: torch.dtype) -> None:
    c, x = gram(2, n, 9, dtype=dtype), random(2, n, 7, dtype=dtype)
    for beta in (0.0, 0.9):
        found = symmetric_baddbmm(c, x, x.mT, beta=beta, alpha=0.3)
        torch.testing.assert_close(found, beta * c + 0.3 * (x @ x.mT), **LOOSE[dtype])
    assert torch.equal(found[:, PANEL:, :PANEL], found[:, :PANEL, PANEL:].mT)
    own = torch.full_like(c, torch.nan)  # what lies in a buffer must not count
    assert symmetric_baddbmm(own, c, c, beta=0, out=own) is own
    torch.testing.assert_close(own, c @ c, **LOOSE[dtype])


@pytest.mark.parametrize("n", [5, PANEL + 5])
def test_averages_take_numbers_and_tensors_alike(n: int) -> None:
    for stack in ((), (3,), (2, 3)):
        average, x, beta = gram(*stack, n, 4), random(*stack, n, 6), 0.95
        as_tensor = torch.tensor(beta, dtype=torch.float64)
        before = average.clone(), x.clone()
        for side in (x, random(*stack, 6, n).mT):
            expected = beta * average + (1 - beta) * (side @ side.mT)
            for number in (beta, as_tensor):
                torch.testing.assert_close(ema_of_gram(average, side, number), expected)
        for number in (beta, as_tensor):
            torch.testing.assert_close(ema_in_one_pass(average, before[0] * 2, number), average * (2 - beta))
            expected = beta * average + (1 - beta) * average**2
            torch.testing.assert_close(ema_of_square(average, average, number), expected)
        assert torch.equal(average, before[0]) and torch.equal(x, before[1])


def official_refresh(a: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """One matrix, in the order of nikhilvyas/SOAP: estimate, sort, permute, multiply, QR."""
    order = torch.argsort(torch.diag(q.T @ a @ q), descending=True)
    return torch.linalg.qr(a @ q[:, order]).Q, order


def test_a_refresh_is_the_official_one_signs_included() -> None:
    a = gram(3, 12, 40)
    q = eigenbasis(a + 0.3 * gram(3, 12, 20, seed=2))[..., torch.randperm(12)]
    found, order = refreshed(a, q)
    for i in range(3):
        expected, places = official_refresh(a[i], q[i])
        assert torch.equal(order[i], places)
        torch.testing.assert_close(found[i], expected, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(refreshed(a[i], q[i])[0], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", LOOSE, ids=str)
def test_bases_of_deficient_zero_and_broken_matrices(dtype: torch.dtype) -> None:
    """Orthonormal whatever the rank; nan for a matrix that holds one, and for no other of its stack."""
    a = torch.stack([gram(8, 3, dtype=dtype), torch.zeros(8, 8, dtype=dtype), gram(8, 20, dtype=dtype)])
    a = torch.cat([a, a[2:]])
    a[2, 0, 0] = torch.nan
    q = eigenbasis(a)
    whole = torch.eye(8, dtype=dtype).expand(3, 8, 8)
    for basis in (q, refreshed(a, q)[0], refreshed(a, torch.where(q.isnan(), whole[0], q))[0]):
        assert basis[2].isnan().any()
        sound = basis[[0, 1, 3]]
        torch.testing.assert_close(sound.mT @ sound, whole, **LOOSE[dtype])
    torch.testing.assert_close(refreshed(a, q)[0][3], refreshed(a[3], q[3])[0], **LOOSE[dtype])
    assert refreshed(torch.zeros(0, 0, dtype=dtype), torch.zeros(0, 0, dtype=dtype))[0].shape == (0, 0)


def test_reordering_moves_rows_or_columns() -> None:
    x = random(2, 3, 4)
    rows, columns = torch.tensor([[2, 0, 1], [0, 1, 2]]), torch.tensor([[3, 2, 1, 0], [1, 0, 2, 3]])
    for i in range(2):
        assert torch.equal(reordered(x, rows, -2)[i], x[i][rows[i]])
        assert torch.equal(reordered(x, columns, -1)[i], x[i][:, columns[i]])


@needs_compiler
def test_every_form_compiles_whole_with_numbers_as_tensors() -> None:
    beta = torch.tensor(0.9, dtype=torch.float64)

    def all_of(x: Tensor, a: Tensor, q: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
        average = ema_of_gram(a, x, beta)
        return (
            ema_in_one_pass(a, average, beta),
            ema_of_square(a, average, beta),
            *refreshed(average, q),
            orthogonalise(x),
        )

    n = PANEL + 2
    x, a = random(2, n, 9), gram(2, n, 2 * n)
    arguments = (x, a, eigenbasis(a), beta)
    for found, expected in zip(torch.compile(all_of, fullgraph=True)(*arguments), all_of(*arguments), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def test_the_frobenius_norm_of_a_large_matrix_is_right_to_six_digits() -> None:
    x = torch.randn(50_000, 256, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(frobenius(x).double().item(), x.double().norm().item(), rtol=1e-6, atol=0)

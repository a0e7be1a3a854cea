"""The native engine: a rule's text as one C++ kernel, bit for bit the loop's result."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import cases, options, untold, variants
from torch.overrides import TorchFunctionMode

from steepest.core.errors import BadInput, BuildFailed
from steepest.core.job import Moment, Piece
from steepest.core.rule import Rule, Slot, Step, choice, defaults, number, working_dtype
from steepest.engines.draws import drawn
from steepest.engines.native import KERNELS, Inexpressible, build, native, text_of
from steepest.engines.write import shrinkage, stepped
from steepest.registry import rules


def missing_compiler() -> str:
    try:
        return "" if build.compiler() else "none"
    except BuildFailed as error:
        return str(error)


pytestmark = [
    pytest.mark.xdist_group("native"),
    pytest.mark.skipif(bool(missing_compiler()), reason=missing_compiler()),
]

SHAPES = [(6, 6), (9, 4), (), (0,), (0, 3), (1,), (5,), (64, 3), (257, 65)]


class CorrectRoots(TorchFunctionMode):
    """Square roots rounded correctly: torch's own, from MKL, are one unit off for one element of a hundred."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.sqrt, torch.sqrt):
            return torch.from_numpy(np.asarray(np.sqrt(args[0].numpy()))).view(args[0].shape)
        return func(*args, **(kwargs or {}))


def by_loop(rule: Rule, pieces: list[Piece], moment: Moment) -> None:
    shrink = shrinkage(rule, moment.peak_lr)
    with CorrectRoots():
        for piece in pieces:
            working = working_dtype(piece.weight.dtype)
            step = Step(
                moment.phase, rule.corrections(moment.t) | drawn(rule, moment.t, piece.weight, piece.index)
            )
            g, w = piece.grad.to(working), piece.weight.to(working)
            state = {name: tensor.clone() for name, tensor in piece.state.items()}
            weight, new = stepped(rule, step, shrink, g, w, state)
            piece.weight.copy_(weight)
            for name, tensor in piece.state.items():
                tensor.copy_(new[name])


def pieces_of(rule: Rule, dtype: torch.dtype, shapes: list[tuple[int, ...]] = SHAPES) -> list[Piece]:
    draw, working = torch.Generator().manual_seed(0), working_dtype(dtype)
    return [
        Piece(
            torch.zeros(shape, dtype=dtype),
            torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype),
            {n: torch.zeros(s.shape, dtype=s.dtype or working) for n, s in rule.slots(shape).items()},
            index,
        )
        for index, shape in enumerate(shapes)
    ]


def give_gradients(pieces: list[Piece], t: int) -> None:
    draw = torch.Generator().manual_seed(1000 + t)
    for piece in pieces:
        g = torch.randn(piece.weight.shape, generator=draw, dtype=torch.float64)
        piece.grad = g.to(piece.weight.dtype)


def tensors(pieces: list[Piece]) -> Iterator[tuple[str, torch.Tensor]]:
    for piece in pieces:
        yield f"weight {piece.index}", piece.weight
        yield from ((f"{name} {piece.index}", tensor) for name, tensor in piece.state.items())


def assert_same(found: list[Piece], wanted: list[Piece], ulps: int = 0) -> None:
    for (name, a), (_, b) in zip(tensors(found), tensors(wanted), strict=True):
        if ulps == 0:
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}")
            assert torch.equal(torch.signbit(a[a == 0]), torch.signbit(b[b == 0])), f"{name}: sign of a zero"
        else:
            eps = torch.finfo(a.dtype).eps
            torch.testing.assert_close(a, b, rtol=ulps * eps, atol=ulps * eps, equal_nan=True)


def walk(
    rule: Rule, dtype: torch.dtype = torch.float32, steps: int = 3, shapes: Any = SHAPES, **more: Any
) -> None:
    """A few steps by kernel and by loop, compared after each."""
    ours, theirs = pieces_of(rule, dtype, shapes), pieces_of(rule, dtype, shapes)
    run = native(rule, ours)
    for t in range(1, steps + 1):
        give_gradients(ours, t)
        give_gradients(theirs, t)
        run(Moment(rule, t, 0.02))
        by_loop(rule, theirs, Moment(rule, t, 0.02))
        assert_same(ours, theirs, **more)


def rule_of(case: tuple[str, dict[str, Any]]) -> Rule:
    name, arguments = case
    kind, given = rules()[name], {"lr": 0.01, "weight_decay": 0.1} | arguments
    values = defaults(kind, given.pop("variant", None)) | untold(kind) | given
    return kind(**{f.name: values[f.name] for f in fields(kind)})


@pytest.mark.parametrize("case", cases(variants, scope="element"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_variant_steps_bit_for_bit_as_the_loop(case, dtype):
    walk(rule_of(case), dtype)


@pytest.mark.parametrize("case", cases(options, scope="element"))
def test_an_option_steps_bit_for_bit_as_the_loop(case):
    walk(rule_of(case))


def rule(update: Any, slots: tuple[str, ...] = ("m",), draws: Any = None, **numbers: Any) -> Rule:
    """A rule of one line."""
    space = {
        "__annotations__": {"seed": "int", **dict.fromkeys(numbers, "float")},
        "seed": choice(0, "seed of the random draws", low=0),
        **{name: number(value, "a number", low=-1e9) for name, value in numbers.items()},
        "draws": draws or {},
        "slots": lambda self, shape: {name: Slot(shape) for name in slots},
        "update": update,
    }
    return dataclass(frozen=True)(type("OneLine", (Rule,), space))()


EXACT = {
    "abs, sign": lambda x, y, c: x.abs() * y.sign() + torch.sgn(x),
    "arithmetic": lambda x, y, c: (1 - x) * y - c / (x + 2) + (-y) / c,
    "powers": lambda x, y, c: x**2 + y**3 - x**-1 + y**-2 + (x**1) * (y**0),
    "roots": lambda x, y, c: x.abs().rsqrt() + y.reciprocal() + x.square().sqrt(),
    "power by a number": lambda x, y, c: x ** (c + 1.5) + torch.pow(y, c * 2),
    "max, min": lambda x, y, c: torch.maximum(x, y) - torch.minimum(x, c * y) + x.fmax(y) * x.fmin(y),
    "clamp": lambda x, y, c: x.clamp(-0.5, 0.5) + y.clamp(min=c) * x.clamp(max=1) - x.clamp(-c, c).clamp(y, x),
    "where": lambda x, y, c: torch.where(x * y > 0, x, y) + torch.where(x > c, 1.0, 0.0) * y.where(y < 0, c),
    "comparisons": lambda x, y, c: sum((f(x, y).to(x.dtype) * k for k, f in enumerate(COMPARE)), x),
    "logic": lambda x, y, c: ((x > 0) & (y > 0) | ~(x > c) ^ (y != 0)) * x + torch.logical_not(x) * 2,
    "words": lambda x, y, c: torch.logical_and(x > 0, y > 0) * x + torch.logical_or(x > 0, y) + x.logical_xor(y),
    "nan": lambda x, y, c: x.isnan() * 2.0 + y.isinf() * 3.0 + torch.isfinite(x) + torch.nan_to_num(y, c),
    "rounding": lambda x, y, c: (x * 9).round() + (y * 9).floor() - (x * 7).ceil() * (y * 5).trunc() + x.frac(),
    "likes": lambda x, y, c: (
        torch.full_like(x, 0.3) + torch.zeros_like(y) * torch.ones_like(x) * y.sign() + torch.full_like(x, c)
    ),
    "masks": lambda x, y, c: x.masked_fill(y > 0, 0.7) + torch.relu(y) + torch.heaviside(x, y) + x.copysign(y),
    "types": lambda x, y, c: x.bfloat16().to(x.dtype) + y.half().to(y.dtype) * x.double().mul(c).to(x.dtype),
    "narrow": lambda x, y, c: (x.bfloat16() * y.bfloat16() * 0.3 + c * x.bfloat16() - 0.1).to(x.dtype),
    "whole": lambda x, y, c: ((x * 3).to(torch.int32) * 2 + 1).to(x.dtype) + (y > 0).to(torch.int64) * c,
    "remainders": lambda x, y, c: (
        torch.fmod(x, y) + torch.remainder(x, c) + x // y + torch.div(x, c, rounding_mode="trunc")
    ),
    "constants": lambda x, y, c: (
        x * torch.tensor(0.3) + torch.tensor(2.0, dtype=torch.float64) * y + float("inf") * (x > 9)
    ),
}
COMPARE = [torch.eq, torch.ne, torch.lt, torch.le, torch.gt, torch.ge]
NEAR = {
    "exponentials": lambda x, y, c: x.exp() + torch.expm1(y) - torch.exp2(x) + c**y + 2.0**x,
    "logarithms": lambda x, y, c: x.abs().log() + y.abs().log1p() + x.abs().log2() * y.abs().log10(),
    "circles": lambda x, y, c: x.sin() + y.cos() * x.tan() + torch.atan2(x, y) + x.atan() + torch.hypot(x, y),
    "hyperbolas": lambda x, y, c: x.tanh() + y.sinh() * x.cosh() + x.asinh(),
    "sigmoids": lambda x, y, c: x.sigmoid() + F.softplus(y) + F.silu(x) + y.erf(),
    "powers": lambda x, y, c: x.abs() ** 1.7 + y.abs() ** x + x.abs() ** c,
    "addcmul, addcdiv": lambda x, y, c: x.addcmul(x, y, value=0.3) + torch.addcdiv(y, x, x.abs() + 1, value=c),
    "lerp": lambda x, y, c: x.lerp(y, c) + torch.lerp(x, y, 0.9),
    "scaled sums": lambda x, y, c: torch.add(x, y, alpha=0.3) - torch.sub(x, y, alpha=c),
}
TAME = torch.linspace(-3, 3, 301).tolist()
WILD = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-40, -1e-40, 1e-30, 1e30, 1.0, -1.0, 2.5, -0.5]


def applied(function: Any, values: list[float], dtype: torch.dtype) -> tuple[list[Piece], list[Piece]]:
    """Every pair of the values put through an operation, by kernel and by loop."""
    x, y = (torch.tensor(v, dtype=dtype) for v in zip(*itertools.product(values, values), strict=True))

    def update(self: Any, g: Any, w: Any, step: Any, state: Any) -> Any:
        return g * 0, {"m": function(g, w, self.c)}

    one = rule(update, c=0.5)
    both = [[Piece(x.clone(), y.clone(), {"m": torch.zeros_like(x)})] for _ in range(2)]
    native(one, both[0])(Moment(one, 1, one.lr))
    by_loop(one, both[1], Moment(one, 1, one.lr))
    return both[0], both[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_an_operation_treats_every_number_as_torch(name, dtype):
    for values in (TAME[::7], WILD if name != "remainders" else TAME):  # torch's own fmod gives up at 1e38
        found, wanted = applied(EXACT[name], values, dtype)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a.state["m"], b.state["m"], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", NEAR)
def test_a_function_of_the_c_library_is_torchs_to_a_few_units(name):
    for values in (TAME[::7], WILD):
        found, wanted = applied(NEAR[name], values, torch.float32)
        a, b = found[0].state["m"], wanted[0].state["m"]
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6, equal_nan=True)


def momentum(self: Any, g: Any, w: Any, step: Any, state: Any) -> Any:
    m = self.beta * state["m"] + (1 - self.beta) * g
    return m, {"m": m}


@pytest.mark.parametrize(
    ("what", "update"),
    [
        ("mean", lambda self, g, w, step, state: (g / g.abs().mean(), state)),
        ("linalg_vector_norm", lambda self, g, w, step, state: (g / g.norm(), state)),
        ("the value of a number", lambda self, g, w, step, state: (g if self.beta > 0 else -g, state)),
        ("the value of a number", lambda self, g, w, step, state: (g * float(self.beta), state)),
        ("cumsum", lambda self, g, w, step, state: (torch.cumsum(g, 0), state)),
        ("add_", lambda self, g, w, step, state: (g.add_(1), state)),
        ("cat", lambda self, g, w, step, state: (torch.cat([g, g]), state)),
        ("a tensor made in the rule's text", lambda self, g, w, step, state: (g * torch.ones(7), state)),
        ("no native kernel: KeyError", lambda self, g, w, step, state: (g, {})),
    ],
)
def test_what_cannot_be_a_kernel_is_named_before_anything_moves(what, update):
    one = rule(update, beta=0.9)
    pieces = pieces_of(one, torch.float32)
    before = [p.weight.clone() for p in pieces]
    with pytest.raises(Inexpressible, match=what) as error:
        native(one, pieces)(Moment(one, 1, one.lr))
    assert str(error.value).startswith("oneline: ") and "\n" not in str(error.value)
    assert all(torch.equal(p.weight, b) for p, b in zip(pieces, before, strict=True))


def test_pieces_that_no_kernel_can_reach_are_refused():
    one = rule(momentum, beta=0.9)
    piece = pieces_of(one, torch.float32, [(4, 3)])[0]
    with pytest.raises(Inexpressible, match=r"m of shape \(3,\) for a weight \(4, 3\)"):
        native(one, [Piece(piece.grad, piece.weight, {"m": torch.zeros(3)})])
    with pytest.raises(Inexpressible, match=r"gradient on cpu, torch\.sparse_coo"):
        native(one, [Piece(piece.grad.to_sparse(), piece.weight, piece.state)])


def test_new_numbers_steps_and_sizes_make_no_new_kernel(monkeypatch):
    one = rules()["adamw"]()
    walk(one)
    monkeypatch.setattr(build, "ran", lambda command: pytest.fail("compiled again"))
    made = len(KERNELS)
    walk(rules()["adamw"](lr=0.5, betas=(0.5, 0.6), eps=1e-3, weight_decay=0.3), steps=6, shapes=[(7,), (11, 3)])
    assert len(KERNELS) == made
    assert text_of(one) == text_of(rules()["adamw"](lr=0.5))


def test_lr_may_be_a_tensor():
    one, other = rules()["lion"](lr=0.01), rules()["lion"](lr=torch.tensor(0.01, dtype=torch.float64))
    a, b = pieces_of(one, torch.float32), pieces_of(one, torch.float32)
    for pieces, moment in ((a, Moment(one, 1, 0.01)), (b, Moment(other, 1, 0.01))):
        give_gradients(pieces, 1)
        native(moment.rule, pieces)(moment)
    assert_same(a, b)


def test_the_number_of_threads_changes_nothing():
    one, found = rules()["adamw"](), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            pieces = pieces_of(one, torch.float32, [(40_001,), (3,), (257, 129), (), (70_003,)])
            give_gradients(pieces, 1)
            native(one, pieces)(Moment(one, 1, one.lr))
        finally:
            torch.set_num_threads(1)
        found.append(pieces)
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_no_second_openmp_runtime_is_loaded():
    program = """
import torch
from steepest.engines.native import build
loop = "#pragma omp parallel for num_threads(2)\\nfor (int i = 0; i < 9; ++i) {}"
build.library('extern "C" void run() {\\n' + loop + '}', 'probe').run()
print(len({line.split()[-1] for line in open('/proc/self/maps') if 'libgomp' in line or 'omp5' in line}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_weights_of_several_types_run_side_by_side():
    one = rules()["adamw"]()
    ours, theirs = ([p for d in DTYPES for p in pieces_of(one, d)] for _ in range(2))
    run = native(one, ours)
    for t in (1, 2):
        for pieces in (ours, theirs):
            give_gradients(pieces, t)
        run(Moment(one, t, one.lr))
        by_loop(one, theirs, Moment(one, t, one.lr))
    assert_same(ours, theirs)


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def layouts() -> dict[str, torch.Tensor]:
    return {
        "transposed": torch.randn(6, 9).mT,
        "channels last": torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
        "every second row": torch.randn(10, 4)[::2],
        "a column": torch.randn(7, 3)[:, 1],
        "rows of a fused weight": torch.randn(12, 4)[4:8],
    }


@pytest.mark.parametrize("name", layouts())
@pytest.mark.parametrize("like", [torch.zeros_like, lambda w: torch.zeros(w.shape)], ids=["alike", "rows"])
def test_any_layout_of_weight_state_and_gradient_gives_the_same(name, like):
    one = rules()["adamw"]()
    torch.manual_seed(0)
    weight = layouts()[name]
    ours = [Piece(weight, weight, {n: like(weight) for n in one.slots(weight.shape)})]
    theirs = [Piece(weight, weight.clone(), {n: torch.zeros(weight.shape) for n in one.slots(weight.shape)})]
    state, run = dict(ours[0].state), native(one, ours)
    for t, gradient in enumerate(
        (torch.randn_like(weight), torch.randn(weight.shape), torch.ones(()).expand(weight.shape)), 1
    ):
        ours[0].grad, theirs[0].grad = gradient, gradient.clone()
        run(Moment(one, t, one.lr))
        by_loop(one, theirs, Moment(one, t, one.lr))
        assert_same(ours, theirs)
    assert all(ours[0].state[n] is tensor for n, tensor in state.items())


def test_memory_that_is_no_longer_what_was_arranged_is_refused():
    one = rules()["adamw"]()
    pieces = pieces_of(one, torch.float32, [(4, 3), (9,)])
    run = native(one, pieces)
    run(Moment(one, 1, one.lr))
    pieces[1].weight.data = pieces[1].weight.data.half()
    with pytest.raises(BadInput, match=r"adamw: weight of weight 1 is 9 elements torch.float16"):
        run(Moment(one, 2, one.lr))
    pieces[1].weight.data, pieces[1].grad = torch.zeros(9), torch.zeros(5)
    with pytest.raises(BadInput, match="grad of weight 1 is 5 elements"):
        run(Moment(one, 2, one.lr))


def test_no_direction_leaves_the_weight_and_equal_state_is_not_written():
    one = rule(lambda self, g, w, step, state: (None, {"m": state["m"], "v": g * 2}), ("m", "v"))
    pieces = pieces_of(one, torch.bfloat16)
    before = [p.weight.clone() for p in pieces]
    give_gradients(pieces, 1)
    native(one, pieces)(Moment(one, 1, one.lr))
    assert all(torch.equal(p.weight, b) for p, b in zip(pieces, before, strict=True))
    text = text_of(one, dtype=torch.bfloat16)
    assert "const float *__restrict m_at" in text and "m_at[i] =" not in text and "weight_at[i] =" not in text


def test_state_that_changes_places_is_read_before_it_is_written():
    walk(rule(lambda self, g, w, step, state: (g, {"m": state["v"] + g, "v": state["m"]}), ("m", "v")))


def noisy(self: Any, g: Any, w: Any, step: Any, state: Any) -> Any:
    m = self.beta * state["m"] + (1 - self.beta) * g
    return m + self.sigma * step.noise, {"m": m * step.other}


@pytest.mark.parametrize(("kind", "ulps"), [("uniform", 0), ("rademacher", 0), ("normal", 16)])
def test_a_kernel_draws_what_the_loop_draws(kind, ulps):
    one = rule(noisy, draws={"noise": kind, "other": "rademacher"}, beta=0.9, sigma=0.1)
    for dtype in DTYPES[:2] if kind == "normal" else DTYPES:
        walk(one, dtype, shapes=[(5,), (), (257, 65), (1, 3)], ulps=ulps)


def test_a_new_seed_draws_otherwise_without_a_new_kernel():
    one = rule(noisy, draws={"noise": "uniform", "other": "rademacher"}, beta=0.9, sigma=0.1)
    walk(one)
    made = len(KERNELS)
    other = type(one)(seed=5)
    walk(other)
    a, b = pieces_of(one, torch.float32), pieces_of(one, torch.float32)
    native(one, a)(Moment(one, 1, 0.1))
    native(other, b)(Moment(other, 1, 0.1))
    assert len(KERNELS) == made and not torch.equal(a[0].weight, b[0].weight)


def test_draws_count_elements_in_rows_whatever_the_layout():
    one = rule(noisy, draws={"noise": "uniform", "other": "rademacher"}, beta=0.9, sigma=0.1)
    weight = torch.zeros(6, 9).mT
    ours = [Piece(torch.zeros(9, 6), weight, {"m": torch.zeros_like(weight)}, 3)]
    theirs = [Piece(torch.zeros(9, 6), torch.zeros(9, 6), {"m": torch.zeros(9, 6)}, 3)]
    native(one, ours)(Moment(one, 1, 0.1))
    by_loop(one, theirs, Moment(one, 1, 0.1))
    assert_same(ours, theirs)


SOURCE = 'extern "C" int run() { return 42; }'


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted((folder / "steepest" / "kernels").glob(f"*{suffix}"))


def test_a_library_is_built_once_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.library(SOURCE, "probe").run() == 42
    assert [p.name.split("-")[0] for p in files(tmp_path, "")] == ["probe", "probe"]
    assert files(tmp_path, ".cpp")[0].read_text() == SOURCE
    monkeypatch.setattr(build, "ran", lambda command: pytest.fail("compiled again"))
    assert build.library(SOURCE, "probe").run() == 42


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_a_damaged_library_is_built_again(tmp_path, monkeypatch, keep):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = SOURCE.replace("42", f"{int(keep * 10) + 1000}")
    build.build(build.compiler(), source, tmp_path / "first.so")
    whole = (tmp_path / "first.so").read_bytes()
    monkeypatch.setattr(build, "intact", lambda path: False)
    build.library(source, "probe")
    path = files(tmp_path, ".so")[0]
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path.unlink()  # the loader has the first one mapped
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    assert not build.intact(path)
    assert build.library(source, "probe").run() == int(keep * 10) + 1000
    assert build.intact(path)


def test_many_may_build_the_same_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ThreadPoolExecutor(6) as pool:
        assert [lib.run() for lib in pool.map(lambda _: build.library(SOURCE, "probe"), range(6))] == [42] * 6
    assert len(files(tmp_path, "")) == 2


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert build.library(SOURCE, "probe").run() == 42


def test_a_missing_compiler_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(BuildFailed, match=r"CXX='no-such-compiler -m64' is not found: .*engine='batched'"):
        build.library(SOURCE, "probe")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildFailed, match=r"no C\+\+ compiler: .*apt-get install g\+\+"):
        build.library(SOURCE, "probe")


def test_a_failing_compiler_is_named_with_its_first_complaint(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    script = tmp_path / "cxx"
    script.write_text("#!/bin/sh\necho note: hello >&2\necho 'k.cpp:1: error: no such word' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(
        BuildFailed, match=r"cxx made no native kernel: k.cpp:1: error: no such word: .*engine="
    ) as error:
        build.library(SOURCE, "probe")
    assert "\n" not in str(error.value) and not files(tmp_path, "")


INNER = "    for (int64_t i = block; i < end; ++i) {"


@pytest.mark.parametrize("name", sorted(n for n, r in rules().items() if r.scope == "element"))
def test_the_compiler_turns_every_rule_into_vector_code(name, tmp_path):
    command = build.compiler()
    version = subprocess.run([*command, "--version"], capture_output=True, text=True).stdout
    if "Free Software Foundation" not in version:
        pytest.skip("reads GCC's report")
    text = tmp_path / "kernel.cpp"
    text.write_text(text_of(rules()[name]()))
    line = 1 + text_of(rules()[name]()).splitlines().index(INNER)
    flags = [*build.FLAGS, "-march=native", "-fopt-info-vec-optimized"]
    done = subprocess.run(
        [*command, *flags, "-c", text, "-o", tmp_path / "kernel.o"], capture_output=True, text=True
    )
    assert f"kernel.cpp:{line}:" in done.stderr and "loop vectorized" in done.stderr

"""1-bit Adam and its compressed mean, in one process: what is kept, what is sent, what is the same everywhere."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import give_gradients, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trajectories import INPUTS

import steepest
from steepest.core.errors import BadInput
from steepest.core.rule import DENSE, Wire
from steepest.distributed import simulated
from steepest.distributed.means import dense_mean
from steepest.distributed.workers import workers_of
from steepest.faces import face
from steepest.linalg.onebit import compressed, packed, padded, unpacked
from steepest.registry import rules
from steepest.verify import one

ROOT = Path(__file__).resolve().parents[1]
ORACLES = ROOT / "tests" / "oracles"
ONEBIT = rules()["onebit_adam"]


def vectors(world: int, numel: int, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(numel, generator=draw, dtype=torch.float64) for _ in range(world)]


def replicas(world: int, seed: int = 0, **options: Any) -> tuple[list[Any], list[dict[str, torch.nn.Parameter]]]:
    """An optimizer and weights for each simulated worker, from the same start."""
    named = [weights(seed=seed) for _ in range(world)]
    given = {"lr": 0.01} | options
    made = [
        steepest.OneBitAdam(list(mine.items()), group=worker, **given)
        for mine, worker in zip(named, simulated.workers(world), strict=True)
    ]
    return made, named


def walk(made: list[Any], named: list[dict[str, torch.nn.Parameter]], steps: range) -> None:
    for t in steps:
        for rank, mine in enumerate(named):
            give_gradients(mine, 100 * t + rank)
        simulated.step(made)


# ---- bits


@settings(deadline=None, max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=9).map(lambda one: one * 8))
def test_bits_packed_and_unpacked_are_what_they_were(bits: list[bool]) -> None:
    signs = unpacked(packed(torch.tensor(bits)), torch.float32)
    assert signs.tolist() == [1.0 if bit else -1.0 for bit in bits]


def test_the_first_number_is_the_lowest_bit_and_zeros_of_either_sign_count_as_positive() -> None:
    bits, scale, lost = compressed(torch.tensor([0.0, -0.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0]))
    assert bits.tolist() == [0b00001011] and bits.dtype == torch.uint8
    assert torch.equal(lost[:2], -scale.expand(2))


@pytest.mark.parametrize(
    ("numel", "world", "size"), [(3, 2, 16), (3, 3, 72), (3, 4, 32), (16, 2, 16), (17, 2, 32)]
)
def test_a_vector_is_filled_to_whole_bytes_for_every_worker(numel: int, world: int, size: int) -> None:
    assert padded(numel, world) == size


def test_compression_keeps_the_norm_and_says_what_it_lost() -> None:
    (x,) = vectors(1, 4096)
    bits, scale, lost = compressed(x)
    told = scale * unpacked(bits, x.dtype)
    torch.testing.assert_close(told.norm(), x.norm())
    torch.testing.assert_close(told + lost, x, rtol=0, atol=1e-15)


# ---- the mean


def numpy_mean(inputs: list[Any], worker: Any, server: Any) -> Any:
    """The paper's two phases as specified; the errors, (W, N) and (W, N / W), change in place."""
    world, numel = len(inputs), len(inputs[0])
    size = worker.shape[1]
    said = np.zeros((world, size))
    for i, x in enumerate(inputs):
        b = np.concatenate([x, np.zeros(size - numel)]) + worker[i]
        said[i] = np.linalg.norm(b) / np.sqrt(size) * np.where(b >= 0, 1, -1)
        worker[i] = b - said[i]
    out = np.zeros(size)
    for j, part in enumerate(np.split(np.arange(size), world)):
        c = said[:, part].mean(axis=0) + server[j]
        out[part] = np.linalg.norm(c) / np.sqrt(len(part)) * np.where(c >= 0, 1, -1)
        server[j] = c - out[part]
    return out[:numel]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("numel", [1, 3, 45, 96, 500])
def test_the_compressed_mean_is_the_specifications(world: int, numel: int) -> None:
    mean = simulated.Compressed(numel, world, torch.float64)
    size = padded(numel, world)
    worker, server = np.zeros((world, size)), np.zeros((world, size // world))
    for t in range(5):
        x = vectors(world, numel, seed=t)
        expected = numpy_mean([one.numpy() for one in x], worker, server)
        np.testing.assert_allclose(mean.mean(x).numpy(), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.stack([e.worker.numpy() for e in mean.errors]), worker, atol=1e-13)
    np.testing.assert_allclose(np.stack([e.server.numpy() for e in mean.errors]), server, atol=1e-13)


def test_two_rounds_of_four_workers_are_the_recorded_ones() -> None:
    told = json.loads((ORACLES / "systems" / "onebit.json").read_text())
    x = [torch.tensor(np.sin(0.37 * (i + 1) * np.arange(32) + 0.11 * i)).float().double() for i in range(4)]
    mean = simulated.Compressed(32, 4, torch.float64)
    outs = [mean.mean(x), mean.mean(x)]
    for out, key in zip(outs, ("out1", "out2"), strict=True):
        np.testing.assert_allclose(out.numpy(), told[key], rtol=0, atol=1e-7)
    true = torch.stack(x).mean(dim=0)
    assert (outs[0] - true).abs().max() == pytest.approx(told["single_shot_max_err"], rel=1e-6)
    total = outs[0] + outs[1] + sum(mean.mean(x) for _ in range(498))
    assert (total / 500 - true).abs().max() == pytest.approx(told["time_avg_max_err_500"], rel=1e-5)
    np.testing.assert_allclose(mean.errors[0].worker[:4].numpy(), told["worker_error0"], rtol=1e-6)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_nothing_is_lost_for_good(world: int) -> None:
    """All that was said is all that was meant, less what the errors still hold."""
    mean, said, meant = simulated.Compressed(45, world, torch.float64), 0, 0
    for t in range(60):
        x = vectors(world, 45, seed=t)
        said, meant = said + mean.mean(x), meant + sum(x) / world
    held = sum(e.worker for e in mean.errors) / world + torch.cat([e.server for e in mean.errors])
    torch.testing.assert_close(said, meant - held[:45], rtol=0, atol=1e-11)


def test_a_server_alone_passes_on_what_it_hears() -> None:
    (x,) = vectors(1, 64)
    mean = simulated.Compressed(64, 1, torch.float64)
    out = mean.mean([x])
    torch.testing.assert_close(out, torch.where(x >= 0, x.norm(), -x.norm()) / 8)
    assert mean.errors[0].server.abs().max() < 1e-15


def test_many_tensors_have_scales_of_their_own_in_two_messages() -> None:
    """The answer of each is that which it has alone."""
    from steepest.distributed.means import Errors, compressed_mean

    sizes, world = (5, 300, 64), 3
    together, alone = simulated.workers(world), []
    x = [
        [10.0**k * one for k, one in enumerate(vectors(1, n, seed=n + r)[0] for n in sizes)] for r in range(world)
    ]

    def errors() -> list[Errors]:
        full = [padded(n, world) for n in sizes]
        return [
            Errors(torch.zeros(n, dtype=torch.float64), torch.zeros(n // world, dtype=torch.float64)) for n in full
        ]

    found = simulated.together([compressed_mean(mine, errors(), world) for mine in x], together)
    for k, n in enumerate(sizes):
        alone.append(simulated.Compressed(n, world, torch.float64).mean([mine[k] for mine in x]))
    assert all(torch.equal(a, b) for a, b in zip(found[0], alone, strict=True))
    bits = sum(padded(n, world) // 8 for n in sizes)
    scales = 8 * len(sizes)
    assert together[0].sent == {"onebit": 2 * (bits // world + scales) * (world - 1)}


def test_a_dense_mean_adds_up_in_the_gradients_type() -> None:
    members = simulated.workers(2)
    x = [[torch.full((3, 2), float(r)), torch.full((5,), 2.0 * r, dtype=torch.bfloat16)] for r in range(2)]
    (a, b), _ = simulated.together([dense_mean(mine, 2) for mine in x], members)
    assert a.shape == (3, 2) and (a == 0.5).all() and b.dtype == torch.bfloat16 and (b == 1).all()
    assert members[1].sent == {"dense": 24 + 10}  # 2 (W - 1) / W of their bytes


# ---- the optimizer


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("fusion", ["tensor", "joined"])
def test_all_workers_hold_the_same_weights_after_every_step(world: int, fusion: str) -> None:
    made, named = replicas(world, freeze_step=2, fusion=fusion)
    for t in range(6):
        before = {n: p.detach().clone() for n, p in named[0].items()}
        walk(made, named, range(t, t + 1))
        for mine in named[1:]:
            assert all(torch.equal(mine[n], p) for n, p in named[0].items())
        assert not any(torch.equal(before[n], p) for n, p in named[0].items())
    assert set(made[0].workers.sent) == {"dense", "onebit", "check"}


def test_never_frozen_it_is_adam_on_the_mean_gradient() -> None:
    for options in ({"freeze_step": 10**9}, {"compress": False}):
        made, named = replicas(3, **options)
        twin = weights()
        adam = torch.optim.Adam(twin.values(), lr=0.01)
        for t in range(6):
            walk(made, named, range(t, t + 1))
            grads = []
            for rank in range(3):
                give_gradients(twin, 100 * t + rank)
                grads.append([p.grad for p in twin.values()])
            for p, *mine in zip(twin.values(), *grads, strict=True):
                p.grad = sum(mine) / 3
            adam.step()
        for name, p in twin.items():
            torch.testing.assert_close(named[0][name], p, rtol=1e-10, atol=1e-12)


def test_without_loss_on_the_wire_it_is_momentum_over_a_fixed_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressor that changes nothing: many workers are one with the mean gradient."""
    monkeypatch.setattr(ONEBIT, "wire", lambda self, t: DENSE)
    made, named = replicas(3, freeze_step=2, bounded=False, bias_correction=False)
    w = weights()
    m = {n: torch.zeros_like(p) for n, p in w.items()}
    v = {n: torch.zeros_like(p) for n, p in w.items()}
    for t in range(7):
        walk(made, named, range(t, t + 1))
        means = {n: torch.zeros_like(p) for n, p in w.items()}
        for rank in range(3):
            give_gradients(w, 100 * t + rank)
            for n, p in w.items():
                means[n] += p.grad / 3
        with torch.no_grad():
            for n, p in w.items():
                m[n] = 0.9 * m[n] + 0.1 * means[n]
                v[n] = 0.999 * v[n] + 0.001 * means[n] ** 2 if t < 2 else v[n]
                p -= 0.01 * m[n] / (v[n].sqrt() + 1e-8)
    for n, p in w.items():
        torch.testing.assert_close(named[0][n], p.detach(), rtol=1e-9, atol=1e-11)


def test_a_weight_without_gradient_stays_exactly_where_it_was_and_as_published_does_not() -> None:
    for bounded in (True, False):
        made, named = replicas(2, freeze_step=2, bounded=bounded)
        start = named[0]["embed.weight"].detach().clone()
        for t in range(6):
            for rank, mine in enumerate(named):
                give_gradients(mine, 100 * t + rank)
                mine["embed.weight"].grad[3:5] = 0  # tokens that no text has
            simulated.step(made)
        still = torch.equal(named[0]["embed.weight"][3:5], start[3:5])
        assert still is bounded
        assert not torch.equal(named[0]["embed.weight"][0], start[0])


def test_a_role_that_is_not_compressed_stays_adam() -> None:
    made, named = replicas(2, freeze_step=2, by_role={"embed": {"compress": False}})
    walk(made, named, range(2))
    frozen = {n: made[0].state[p]["exp_avg_sq"].clone() for n, p in named[0].items()}
    walk(made, named, range(2, 5))
    moved = {n for n, p in named[0].items() if not torch.equal(made[0].state[p]["exp_avg_sq"], frozen[n])}
    assert moved == {"embed.weight"}


def test_one_spike_at_one_worker_after_the_freeze_is_forgotten() -> None:
    """As published momentum and errors carry it on; bounded, no step is longer than Adam's could be."""
    for bounded in (True, False):
        made, named = replicas(2, freeze_step=8, bounded=bounded)
        walk(made, named, range(10))
        for rank, mine in enumerate(named):
            give_gradients(mine, 5000 + rank)
        named[1]["head.weight"].grad[0, 0] = 1e30
        simulated.step(made)
        walk(made, named, range(11, 40))
        far = max(float(p.detach().abs().max()) for p in named[0].values())
        assert (far < 10) is bounded, far


def test_after_a_short_warm_up_the_step_is_not_too_long() -> None:
    """On constant gradients Adam's step is lr; as published 1 / sqrt(1 - beta2^freeze_step) of it, for ever."""
    moves = {}
    for corrected in (True, False):
        p = torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))
        optimizer = steepest.OneBitAdam([p], lr=1.0, freeze_step=10, bias_correction=corrected, eps=0.0)
        for _ in range(100):
            before = p.detach().clone()
            p.grad = torch.ones_like(p)
            optimizer.step()
        moves[corrected] = float((before - p.detach())[0])
    assert moves[True] == pytest.approx(1.0)
    assert moves[False] == pytest.approx((1 - 0.999**10) ** -0.5, rel=1e-4)


def test_the_freeze_is_a_number_of_steps_or_a_share_of_the_run() -> None:
    def phases(**options: Any) -> str:
        rule = ONEBIT(**options)
        return "".join(rule.phase(t)[0] for t in range(1, 9))

    assert phases(freeze_step=3) == "wwwfffff"
    assert phases(freeze_step=0.25, total_steps=8) == "wwffffff"
    assert phases(freeze_step=0.3, total_steps=8) == "wwwfffff"
    assert phases(freeze_step=3, first_call="nothing") == "nwwfffff"
    assert phases(freeze_step=1, first_call="nothing") == "nwffffff"
    with pytest.raises(BadInput, match="give total_steps="):
        phases()
    with pytest.raises(BadInput, match="freeze_step=0 would divide by a variance of nothing: give 1"):
        ONEBIT(freeze_step=0)


@pytest.mark.parametrize("engine", ["loop", "batched", "auto"])
@pytest.mark.parametrize("options", [{}, {"state": "8bit"}, {"rounding": "kahan"}], ids=str)
def test_bfloat16_weights_send_float32_momenta_under_every_engine(engine: str, options: dict[str, Any]) -> None:
    def walked(name: str) -> torch.Tensor:
        named = [{"w": torch.nn.Parameter(torch.linspace(-1, 1, 4500).view(90, 50).bfloat16())} for _ in range(2)]
        made = [
            steepest.OneBitAdam(list(m.items()), lr=0.01, freeze_step=3, engine=name, group=w, **options)
            for m, w in zip(named, simulated.workers(2), strict=True)
        ]
        walk(made, named, range(7))
        assert made[0].workers.errors["0.0"].worker.dtype == torch.float32
        assert torch.equal(named[0]["w"], named[1]["w"])
        return named[0]["w"].detach().float()

    torch.testing.assert_close(walked(engine), walked("loop"), rtol=1e-2, atol=1e-2)


def test_what_the_recorded_workers_hold_at_the_end_is_held_here() -> None:
    path = ORACLES / "onebit_adam" / "w4_freeze4.json"
    told = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as archive:
        arrays = {key: archive[key] for key in archive.files}
    made, named = [], []
    for worker in simulated.workers(4):
        mine = {n: torch.nn.Parameter(torch.tensor(INPUTS[f"init/{n}"]).float()) for n in told["tensors"]}
        named.append(mine)
        made.append(face(ONEBIT)(list(mine.items()), group=worker, **ONEBIT.of_trajectory(told, arrays)))
    for t in range(12):
        for rank, mine in enumerate(named):
            for n, p in mine.items():
                p.grad = torch.tensor(arrays[f"extra/grad_w{rank}/{t:03d}/{n}"])
        simulated.step(made)
    seen = 0
    for rank, (optimizer, mine) in enumerate(zip(made, named, strict=True)):
        for place, (n, p) in enumerate(mine.items()):
            error = optimizer.workers.errors[f"{place}.0"]
            for what, ours in (
                ("exp_avg", optimizer.state[p]["exp_avg"].flatten()),
                ("worker_error", error.worker),
                ("server_error", error.server),
            ):
                keys = [k for k in arrays if re.search(rf"final_{what}_w{rank}\b.*\b{n}$", k)]
                for key in keys:
                    seen += 1
                    np.testing.assert_allclose(
                        ours.numpy(), arrays[key].reshape(-1), rtol=1e-4, atol=1e-5, err_msg=key
                    )
    assert seen == 4 * 7 * 3


def test_the_kit_hears_every_worker(tmp_path: Path) -> None:
    """With the gradients of one worker changed, its trajectory is another."""
    path = ORACLES / "onebit_adam" / "w4_freeze4.json"
    with np.load(path.with_suffix(".npz")) as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays["extra/grad_w3/002/square"] = 2 * arrays["extra/grad_w3/002/square"]
    folder = tmp_path / "onebit_adam"
    folder.mkdir()
    (folder / path.name).write_text(path.read_text())
    np.savez(folder / f"{path.stem}.npz", **arrays)
    assert one(path, INPUTS, "loop").status == "pass"
    assert "square" in one(folder / path.name, INPUTS, "loop").reason


# ---- any rule


@pytest.mark.parametrize("name", ["adamw", "muon", "mars", "adafactor"])
def test_any_rule_with_a_group_takes_the_mean_gradient(name: str) -> None:
    named = [weights() for _ in range(2)]
    made = [
        face(rules()[name])(list(m.items()), lr=0.01, group=w, roles={"scale": "norm"})
        for m, w in zip(named, simulated.workers(2), strict=True)
    ]
    walk(made, named, range(4))
    twin = weights()
    alone = face(rules()[name])(list(twin.items()), lr=0.01, roles={"scale": "norm"})
    for t in range(4):
        grads = []
        for rank in range(2):
            give_gradients(twin, 100 * t + rank)
            grads.append([p.grad for p in twin.values()])
        for p, a, b in zip(twin.values(), *grads, strict=True):
            p.grad = (a + b) / 2
        alone.step()
    for n, p in twin.items():
        torch.testing.assert_close(named[1][n], p, rtol=1e-9, atol=1e-11)
    assert set(made[0].workers.sent) == {"dense", "check"}


def test_measurements_are_averaged_as_gradients_are() -> None:
    made = []
    p = [torch.nn.Parameter(torch.ones(4)) for _ in range(2)]
    for worker, x in zip(simulated.workers(2), p, strict=True):
        made.append(steepest.AdaHessian([x], lr=0.1, group=worker))
    asks = made[0].owed()
    assert asks
    with pytest.raises(BadInput, match="simulated and cannot step alone"):
        made[0].observe(asks[0], {p[0]: torch.ones(4)})  # it asks the others


def test_a_rule_that_sends_no_gradient_is_not_wrapped() -> None:
    with pytest.raises(BadInput, match=r"cautious over onebit_adam: .* wrap "):
        steepest.resolve("cautious-onebit_adam")


# ---- what is refused, and checkpoints


def test_workers_that_do_not_start_alike_are_told_before_they_part() -> None:
    made, named = replicas(2)
    with torch.no_grad():
        named[1]["norm.weight"][2] += 1
    for rank, mine in enumerate(named):
        give_gradients(mine, rank)
    with pytest.raises(
        BadInput, match=r"norm\.weight, or its optimizer state, differs between the 2 workers: seed"
    ):
        simulated.step(made)


def test_a_gradient_that_one_worker_lacks_is_told_instead_of_waited_for() -> None:
    made, named = replicas(3, freeze_step=2)
    walk(made, named, range(2))
    for rank, mine in enumerate(named):
        give_gradients(mine, rank)
    named[2]["head.weight"].grad = None
    before = named[0]["norm.weight"].detach().clone()
    with pytest.raises(
        BadInput, match=r"head\.weight has a gradient at some of the 3 workers .* give it one of zeros"
    ):
        simulated.step(made)
    assert torch.equal(named[0]["norm.weight"], before)


def test_a_joined_message_does_not_change_its_length() -> None:
    made, named = replicas(2, freeze_step=1, fusion="joined")
    walk(made, named, range(3))
    for rank, mine in enumerate(named):
        give_gradients(mine, rank)
        mine["embed.weight"].grad = None
    with pytest.raises(BadInput, match="fusion='tensor'"):
        simulated.step(made)


@pytest.mark.parametrize("fusion", ["tensor", "joined"])
def test_every_worker_goes_on_from_its_own_checkpoint_as_if_nothing_had_been(fusion: str) -> None:
    whole, first, second = (replicas(3, seed, freeze_step=2, fusion=fusion) for seed in (0, 0, 9))
    walk(*whole, range(8))
    walk(*first, range(5))
    for rank in range(3):
        file = io.BytesIO()
        torch.save((first[0][rank].state_dict(), {n: p.detach() for n, p in first[1][rank].items()}), file)
        file.seek(0)
        told, values = torch.load(file, weights_only=True)
        with torch.no_grad():
            for n, p in second[1][rank].items():
                p.copy_(values[n])
        second[0][rank].load_state_dict(told)
    walk(*second, range(5, 8))
    assert all(torch.equal(whole[1][0][n], p) for n, p in second[1][2].items())


def test_errors_of_another_worker_or_of_another_number_of_them_are_refused_in_a_line() -> None:
    made, named = replicas(3, freeze_step=2)
    walk(made, named, range(4))
    told = made[0].state_dict()
    others, _ = replicas(2, freeze_step=2)
    alone = steepest.OneBitAdam(list(weights().items()), lr=0.01, freeze_step=2)
    for optimizer, here in ((made[1], "1 of 3"), (others[0], "0 of 2"), (alone, "0 of 1")):
        with pytest.raises(
            BadInput, match=rf"errors of worker 0 of 3, this is worker {here}: .*del state_dict"
        ) as why:
            optimizer.load_state_dict(told)
        assert "\n" not in str(why.value)
    del told["workers"]
    for optimizer in (made[1], others[0], alone):
        optimizer.load_state_dict(told)
        assert not optimizer.workers.errors


def test_a_checkpoint_of_the_warm_up_fits_any_number_of_workers() -> None:
    made, named = replicas(3, freeze_step=20)
    walk(made, named, range(4))
    others, _ = replicas(2, freeze_step=20)
    others[1].load_state_dict(made[0].state_dict())


def test_what_is_no_process_group_is_told() -> None:
    with pytest.raises(BadInput, match="init_process_group first"):
        workers_of("world")
    with pytest.raises(BadInput, match="is no process group: give 'world'"):
        workers_of(3)
    made, _ = replicas(2)
    with pytest.raises(BadInput, match=r"simulated\.step\(optimizers\)"):
        made[0].step()
    with pytest.raises(BadInput, match="1 optimizers of 2"):
        simulated.step(made[:1])


def test_what_is_sent_is_a_thirty_second_of_float32_gradients_and_is_counted() -> None:
    for world in (2, 4):
        n = 64 * 1024
        p = [torch.nn.Parameter(torch.ones(n)) for _ in range(world)]
        made = [
            steepest.OneBitAdam([x], lr=0.01, freeze_step=1, group=w)
            for x, w in zip(p, simulated.workers(world), strict=True)
        ]
        for t in range(3):
            for x in p:
                x.grad = torch.full_like(x, t + 1.0)
            simulated.step(made)
        sent = made[0].workers.sent
        assert sent["dense"] == 2 * 4 * n * (world - 1) // world
        per_step = sent["onebit"] / 2
        assert per_step == 2 * (n // 8 // world + 4) * (world - 1)
        assert 31.9 < sent["dense"] / per_step <= 32


def test_the_wire_of_a_step_is_what_its_phase_says() -> None:
    rule = ONEBIT(freeze_step=2, fusion="joined")
    assert [rule.wire(t) for t in (1, 2, 3)] == [DENSE, DENSE, Wire(onebit=True, joined=True)]


def test_the_example_of_several_workers_in_one_process_runs() -> None:
    page = (ROOT / "docs" / "one-bit-adam.md").read_text()
    exec(re.findall(r"```python\n(.*?)```", page, re.S)[1], {})


def test_ways_that_move_one_weight_after_another_refuse_workers() -> None:
    p = torch.nn.Parameter(torch.ones(4))
    with pytest.raises(
        BadInput, match=r"onebit_adam: workers exchange .* call optimizer\.step\(\) after backward"
    ):
        steepest.release(steepest.OneBitAdam([p], freeze_step=2))
    with pytest.raises(BadInput, match="adamw: workers exchange"):
        steepest.release(steepest.AdamW([p], group=simulated.workers(2)[1]))
    with pytest.raises(BadInput, match="onebit_adam here is one of several workers: another rule, and no group="):
        steepest.ZerothOrder([p], "onebit_adam", lr=0.1, freeze_step=2).step(lambda: p.square().sum())

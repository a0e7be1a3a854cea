"""steepest bench: shapes from every source, bounds by hand, rounds in turn, and what the verb says and writes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import struct
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from steepest import explain_routing
from steepest.cli import main
from steepest.core.errors import BadInput, CorruptFile, UnknownName
from steepest.lab.bench import bounds, entries, figure, measure, peers, rates, table
from steepest.lab.bench.deciles import summary
from steepest.lab.bench.entries import Candidate, Entry, candidates, planned, reference
from steepest.lab.bench.shapes import Shapes, shapes_of
from steepest.lab.bench.timing import Block, extra_bytes, interleaved, ratios, timed, turned
from steepest.lab.model import Decoder
from steepest.lab.presets import preset
from steepest.registry import resolve, rules

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
TINY = ["--model", "16x16:2,16:2", "--rounds", "1", "--threads", "1"]


# ---- shapes


def test_gpt2_has_its_148_tensors_and_muon_sees_its_q_k_and_v_apart() -> None:
    shapes = shapes_of("gpt2")
    assert len(shapes.named) == 148 and shapes.weights == 124_439_808
    plan = planned(resolve("muon"), shapes, torch.float32)
    hidden = [route for route in plan.routing() if route.rule == "muon"]
    assert len(hidden) == 12 * 6
    assert {route.role for route in hidden} == {"q", "k", "v", "o", "ffn_in", "ffn_out"}


@pytest.mark.parametrize("name", ["50k", "deconstructing-150m"])
def test_a_preset_is_routed_by_its_names_as_the_model_itself_is(name: str) -> None:
    model = Decoder(preset(name), device="meta")
    routes = planned(resolve("muon"), shapes_of(name), torch.float32).routing()
    assert [(r.parameter, r.shape, r.rule) for r in routes] == [
        (r.parameter, r.shape, r.rule) for r in explain_routing(model, "muon")
    ]


def test_a_preset_tells_how_wide_its_heads_are_and_a_bare_list_of_weights_is_asked_for_it() -> None:
    plan = planned(resolve("adam_mini"), shapes_of("50k"), torch.float32)
    assert {g["head_dim"] for g in plan.param_groups if g["blocks"] == "head"} == {preset("50k").head_dim}
    bare = dataclasses.replace(shapes_of("50k"), head_dim=None)
    with pytest.raises(BadInput, match=r"blocks.0.attn.q.weight .* adam_mini:head_dim=64"):
        planned(resolve("adam_mini"), bare, torch.float32)
    planned(resolve("adam_mini:head_dim=4"), bare, torch.float32)


def test_a_line_of_text_is_so_many_matrices_and_vectors() -> None:
    assert [shape for _, shape in shapes_of("8x4:2,5").named] == [(8, 4), (8, 4), (5,)]


def safetensors(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> Path:
    header = {
        name: {"dtype": kind, "shape": shape, "data_offsets": [0, 0]} for name, (kind, shape) in tensors.items()
    }
    written = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(written)) + written)
    return path


def test_a_safetensors_file_is_read_by_its_header_without_buffers_and_integers(tmp_path: Path) -> None:
    kinds = {
        "_orig_mod.a.weight": ("BF16", [4, 3]),
        "a.bias": ("F32", [4]),
        "ids": ("I64", [7]),
        "mask": ("BOOL", [2]),
        "h.0.attn.bias": ("F32", [1, 1, 9, 9]),
        "rotary_emb.inv_freq": ("F32", [8]),
    }
    path = safetensors(tmp_path / "model.safetensors", kinds)
    expected = (("a.weight", (4, 3)), ("a.bias", (4,)))
    assert shapes_of(str(path)).named == expected
    assert shapes_of(str(tmp_path)).named == expected


def test_a_folder_with_an_index_gives_the_weights_of_all_its_shards(tmp_path: Path) -> None:
    for number in (1, 2):
        safetensors(tmp_path / f"model-{number}.safetensors", {f"a.{number}": ("F32", [number, 2])})
    index = {"weight_map": {f"a.{number}": f"model-{number}.safetensors" for number in (1, 2)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    expected = (("a.1", (1, 2)), ("a.2", (2, 2)))
    assert shapes_of(str(tmp_path)).named == expected
    assert shapes_of(str(tmp_path / "model.safetensors.index.json")).named == expected


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"model": state, "step": 3}], ids=["bare", "nested"]
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_state_dictionary_gives_tied_weights_once(tmp_path: Path, wrap: Any, zipped: bool) -> None:
    embed = torch.zeros(6, 2)
    state = {"module.embed.weight": embed, "module.head.weight": embed, "module.norm.weight": torch.zeros(2)}
    torch.save(wrap(state), tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    assert shapes_of(str(tmp_path / "model.pt")).named == (("embed.weight", (6, 2)), ("norm.weight", (2,)))


@pytest.mark.parametrize(
    ("source", "content", "error", "match"),
    [
        ("gpt3", None, UnknownName, "unknown model 'gpt3': did you mean 'gpt2'"),
        ("4x0:2", None, BadInput, "shape '4x0:2' has no weights"),
        ("./none.safetensors", None, BadInput, "no file none.safetensors"),
        ("bad.safetensors", b"\x08\0\0\0\0\0\0\0{}", CorruptFile, "bad.safetensors is no safetensors file"),
        ("bad.pt", b"\x80nonsense", CorruptFile, "bad.pt is no state dictionary"),
        ("bad.json", b"[1]", CorruptFile, "bad.json is no index"),
        (".", None, BadInput, r"has no \*.safetensors"),
    ],
)
def test_what_holds_no_weights_is_answered_in_one_line(
    source: str, content: bytes | None, error: type[Exception], match: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / source).write_bytes(content)
    with pytest.raises(error, match=match) as caught:
        shapes_of(source)
    assert "\n" not in str(caught.value)


# ---- bounds


@pytest.mark.parametrize(
    ("spec", "dtype", "expected"),
    [
        ("adamw", torch.float32, 28),
        ("adamw:amsgrad=True", torch.float32, 36),
        ("adamw", torch.bfloat16, 22),
        ("lion", torch.float32, 20),
        ("sgd:momentum=0.0", torch.float32, 12),
        ("sgd:momentum=0.9", torch.float32, 20),
        ("signum", torch.float32, 20),
        ("muon", torch.float32, 20),
        ("soap", torch.float32, 28 + 4 * 2 * 4),
    ],
)
def test_bytes_of_a_step_per_weight_are_those_counted_by_hand(
    spec: str, dtype: torch.dtype, expected: int
) -> None:
    plan = planned(resolve(spec), shapes_of("64x64:3"), dtype)
    assert bounds.work_of(plan, dtype).bytes == expected * 3 * 64 * 64


@pytest.mark.parametrize("name", rules())
def test_bytes_of_a_step_are_those_of_gradients_weights_and_the_state_that_stands(name: str) -> None:
    shapes = shapes_of("50k")
    plan = planned(resolve(name), shapes, torch.float32)
    state = sum(t.nbytes for held in plan.state.values() for t in held.values()) - 4 * len(shapes.named)
    assert bounds.work_of(plan, torch.float32).bytes == 12 * shapes.weights + 2 * state


def test_newton_schulz_counts_its_products_as_the_paper_writes_them() -> None:
    x = torch.empty(24, 40, device="meta")
    with FlopCounterMode(display=False) as counter:
        for _ in range(5):
            a = x @ x.mT
            x = (a + a @ a) @ x
    assert bounds.newton_schulz_flops((24, 40), 5) == bounds.newton_schulz_flops((40, 24), 5)
    assert bounds.newton_schulz_flops((24, 40), 5) == counter.get_total_flops()
    plan = planned(resolve("muon"), shapes_of("24x40:3,7"), torch.float32)
    work = bounds.work_of(plan, torch.float32)
    assert work.products == {(24, ("float32", "bfloat16")): 3 * counter.get_total_flops()}


def test_soap_counts_its_products_averaged_over_its_refreshes() -> None:
    m, n = 64, 96
    once = 2 * m * n * (m + n)  # a product with a basis or a factor on each side
    keep = 3 * once  # factors, into the basis, out of it
    # the averages' basis turned, and on each side a power step and its QR factorisation
    refresh = keep + 2 * once + sum(2 * side**3 + 8 / 3 * side**3 for side in (m, n))
    for frequency in (1, 4):
        soap = rules()["soap"](precondition_frequency=frequency)
        found, expected = (
            bounds.flops_of(soap, (m, n), torch.float32),
            (refresh + (frequency - 1) * keep) / frequency,
        )
        estimates = sum(2 * side**3 for side in (m, n)) / frequency  # the power step's product may be made twice
        assert 0.99 * expected <= found <= 1.01 * (expected + estimates)


def test_a_rule_that_looks_at_numbers_is_counted_with_numbers() -> None:
    class Curious(rules()["soap"]):  # type: ignore[misc]
        def update(self, g: Any, w: Any, step: Any, state: Any) -> Any:
            return (g @ g.mT @ g) * float(g.sum()), state

    assert bounds.flops_of(Curious(), (8, 16), torch.float32) == 4 * 8 * 8 * 16


def test_a_calendar_is_averaged_over_one_turn() -> None:
    assert len(bounds.period(rules()["adamw"]())) == 1
    phases = [phase for _, phase in bounds.period(rules()["soap"](precondition_frequency=7))]
    assert len(phases) == 7 and phases.count("refresh") == 1


def test_the_bound_adds_up_over_sides_and_takes_each_at_its_own_rate() -> None:
    work = bounds.Work(100.0, {(8, ("float32",)): 30.0, (16, ("float32",)): 40.0})
    assert work.seconds(50.0, {(8, ("float32",)): 10.0, (16, ("float32",)): 20.0}) == (2.0, 5.0)


# ---- rounds


def test_each_contender_is_first_second_and_last_equally_often() -> None:
    order: list[str] = []

    def action(name: str) -> Block:
        order.append(name)
        return Block([1.0], 1.0)

    interleaved({name: lambda name=name: action(name) for name in "abc"}, 3)  # type: ignore[misc]
    assert "".join(order) == "abcbcacab"
    assert turned(["a", "b"], 5) == ["b", "a"]


def test_ctrl_c_keeps_the_blocks_before_it_and_the_time_limit_the_first_round() -> None:
    left = iter([1.0, 2.0])

    def action() -> Block:
        try:
            return Block([next(left)], 0.0)
        except StopIteration:
            raise KeyboardInterrupt from None

    found = interleaved({"a": action}, 5)
    assert found.ended == "Ctrl-C" and [block.mean for block in found.blocks["a"]] == [1.0, 2.0]
    found = interleaved({"a": lambda: Block([1.0], 0.0)}, 5, until=time.monotonic() - 1)
    assert found.ended == "time" and len(found.blocks["a"]) == 1


def test_a_block_holds_every_step_and_ratios_are_taken_round_by_round() -> None:
    done = []
    block = timed(lambda: done.append(1), 4, CPU)
    assert len(done) == len(block.seconds) == 4 and block.mean >= 0
    assert ratios([Block([4.0], 0), Block([9.0], 0)], [Block([2.0], 0)]) == [2.0]
    assert summary([3.0, 1.0, 2.0]) == {"median": 2.0, "low": pytest.approx(1.2), "high": pytest.approx(2.8)}
    assert summary([5.0]) == {"median": 5.0, "low": 5.0, "high": 5.0} and summary([]) == {}


def test_extra_memory_is_the_most_held_at_once_of_eager_steps() -> None:
    def action() -> None:
        for _ in range(2):
            first = torch.empty(1000)
            second = torch.empty(500)
            del first, second

    assert extra_bytes(action, CPU) == 6000
    assert extra_bytes(lambda: None, CPU) == 0


def test_a_probe_knows_its_amount() -> None:
    stream = rates.stream(0, CPU)
    assert stream.amount == 2 * rates.LEAST
    product = rates.products(32, ("float32",), CPU)
    assert product.amount in (2 * 32**3, 2 * 32**3 * rates.TOGETHER)
    assert rates.rate(stream, Block([0.5], 0.0)) == 4 * rates.LEAST


# ---- entries


class Greedy(torch.optim.SGD):
    """Writes into its gradients and then takes them away."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            assert p.grad is not None
            p.grad.mul_(0)
            p.grad = None


def candidate(build: Any, name: str = "mine") -> Candidate:
    return Candidate(name, "mine", "", build, None, 3, 0.0)


def test_an_optimizer_that_takes_its_gradients_gets_them_again_and_spoils_no_one_elses() -> None:
    weights = shapes_of("4x4:2").allocated("cpu", torch.float32)
    before = [p.grad.clone() for _, p in weights if p.grad is not None]
    entry = Entry(candidate(lambda pairs: [Greedy([p for _, p in pairs], lr=0.1)]), weights, CPU)
    assert len(entry.block().seconds) == 3
    assert all(torch.equal(p.grad, old) for (_, p), old in zip(weights, before, strict=True))


def test_a_foreign_class_moves_the_bytes_of_its_state_and_multiplies_what_torch_sees() -> None:
    shapes = shapes_of("32x32:2")
    adam, muon = (
        Entry(candidates(spec, ["loop"], shapes, torch.float32)[0], shapes.allocated("cpu", torch.float32), CPU)
        for spec in ("torch:Adam", "torch:Muon")
    )
    assert adam.work == bounds.Work(28.0 * shapes.weights)
    assert muon.work.products == {(32, ("float32", "bfloat16")): 2 * bounds.newton_schulz_flops((32, 32), 5)}


def test_peers_are_held_against_the_bound_of_the_same_rule_and_muons_get_hidden_matrices_alone() -> None:
    shapes = shapes_of("20k")
    torch_muon = next(c for c in entries.peers("muon", shapes, torch.float32) if c.name == "torch Muon")
    assert torch_muon.work == candidates("muon", ["loop"], shapes, torch.float32)[0].work
    muon, rest = torch_muon.build(shapes.allocated("cpu", torch.float32))
    assert isinstance(muon, torch.optim.Muon) and isinstance(rest, torch.optim.AdamW)
    counts = [sum(len(group["params"]) for group in optimizer.param_groups) for optimizer in (muon, rest)]
    assert counts == [14, len(shapes.named) - 14]


def test_the_peers_of_two_specs_of_one_rule_are_measured_once() -> None:
    shapes = shapes_of("8x8")
    names = [
        c.name for c in entries.contenders(["muon", "muon:momentum=0.9"], ["loop"], shapes, torch.float32, True)
    ]
    assert names[:3] == ["torch AdamW fused", "Muon", "Muon (momentum=0.9)"]
    assert names[3:] == [peer.name for peer in peers.PEERS["muon"]]


@pytest.mark.parametrize("name", [name for name in rules() if name in peers.PEERS])
def test_every_peer_that_torch_brings_takes_a_step(name: str) -> None:
    shapes = shapes_of("16x16:2,16")
    for peer in entries.peers(name, shapes, torch.float32):
        if peer.name.startswith("torch "):
            assert Entry(peer, shapes.allocated("cpu", torch.float32), CPU).state_bytes >= 0


def measured(named: list[Candidate], shapes: Shapes) -> dict[str, Any]:
    return measure.measure(named, shapes, measure.Setting(CPU, torch.float32, 1, 2), "command")


def test_what_cannot_be_built_is_left_out_with_its_reason_and_the_rest_is_measured() -> None:
    def broken(weights: Any) -> list[torch.optim.Optimizer]:
        raise RuntimeError("no kernel\nand more")

    shapes = shapes_of("8x8")
    result = measured([reference(shapes, torch.float32), candidate(broken, "broken")], shapes)
    assert result["skipped"] == [{"name": "broken", "reason": "RuntimeError: no kernel"}]
    assert [row["name"] for row in result["entries"]] == [entries.REFERENCE]


def test_more_memory_than_there_is_is_refused_before_any_is_taken(monkeypatch: Any) -> None:
    monkeypatch.setattr(measure, "free_memory", lambda device: 1000.0)
    shapes = shapes_of("64x64")
    with pytest.raises(BadInput, match="name fewer optimizers"):
        measured([reference(shapes, torch.float32)], shapes)


# ---- the verb


def test_the_verb_prints_a_table_and_bars_and_writes_picture_page_and_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "bench",
        "adamw",
        "muon:momentum=0.9",
        "torch:SGD",
        *TINY,
        "--engine",
        "loop,batched",
        "--out",
        str(tmp_path),
    ]
    assert main(words) == 0
    told = capsys.readouterr().out
    result = json.loads((tmp_path / "bench.json").read_text())
    names = [row["name"] for row in result["entries"]]
    assert names == [
        "torch AdamW fused", "AdamW loop", "AdamW batched",
        "Muon (momentum=0.9) loop", "Muon (momentum=0.9) batched", "torch:SGD",
    ]  # fmt: skip
    shown = ["torch AdamW fused", "AdamW loop", "AdamW batched", "Muon loop", "Muon batched", "torch:SGD"]
    assert all(name in told for name in shown) and "muon:momentum=0.9" in told and "time over bound" in told
    drawing = ET.parse(tmp_path / "bench.svg").getroot()
    written = "".join(drawing.itertext())
    assert all(name in written for name in shown)
    page = (tmp_path / "bench.html").read_text()
    assert (
        page.count("<svg") == 2
        and all(name in page for name in [*shown, "muon:momentum=0.9"])
        and "<script" not in page
    )


def test_a_name_holds_only_the_options_in_which_specs_of_a_rule_differ() -> None:
    labels = {
        "a": "SOAP (betas=(0.9,0.95),spread=True)",
        "b": "SOAP (betas=(0.9,0.95))",
        "c": "Muon (momentum=0.9)",
    }
    result = {"entries": [{"name": n, "label": label, "engine": "loop"} for n, label in labels.items()]}
    assert table.shortened(result) == {"a": "SOAP spread=True loop", "b": "SOAP loop", "c": "Muon loop"}


def test_the_json_tells_every_round_and_what_it_was_made_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "soap", *TINY, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {
        "format", "command", "hardware", "versions", "setting", "model", "rates", "entries", "skipped",
    }  # fmt: skip
    assert result["model"] == {"source": "16x16:2,16:2", "tensors": 4, "weights": 544}
    soap = result["entries"][1]
    assert soap["steps"] == 10 and [len(block) for block in soap["seconds"]] == [10]
    mean = sum(soap["seconds"][0]) / 10
    assert soap["step"]["median"] == pytest.approx(mean, rel=1e-3)
    bound = max(soap["bound"]["bytes_seconds"], soap["bound"]["products_seconds"])
    assert soap["over_bound"]["median"] == pytest.approx(mean / bound, rel=1e-3)
    assert soap["state_bytes"] > 0 and soap["first_step"] > 0 and soap["extra_bytes"] > 0
    assert [row["kind"] for row in result["rates"]] == ["stream", "products"]


def test_ctrl_c_prints_what_was_measured(monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Entry.block
    calls = []

    def block(self: Entry) -> Block:
        calls.append(1)
        if len(calls) > 5:  # a warm-up, a look at memory and a round of both
            raise KeyboardInterrupt
        return whole(self)

    monkeypatch.setattr(Entry, "block", block)
    assert main(["bench", "sgd", *TINY, "--rounds", "9"]) == 130
    told = capsys.readouterr().out
    assert "ended by Ctrl-C" in told and "SGD" in told and math.isclose(len(calls), 6)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["muno", *TINY], "unknown optimizer 'muno': did you mean 'muon'?"),
        (["adamw", "--model", "gtp2"], "unknown model 'gtp2': did you mean 'gpt2'?"),
        (["adamw", *TINY, "--engine", "loup"], "unknown engine 'loup': did you mean 'loop'?"),
        (["adamw", *TINY, "--rounds", "0"], "--rounds 0: give at least 1"),
        (["adamw", *TINY, "--dtype", "int8"], "--dtype int8: give float32 or bfloat16"),
        (["adamw", *TINY, "--device", "tpu"], "device 'tpu' cannot be used here"),
    ],
)
def test_what_the_verb_cannot_do_is_said_in_one_line(
    words: list[str], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert match in error and len(error.splitlines()) == 1


def test_a_fused_weight_is_refused_with_words_for_the_command_line_that_then_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.safetensors"
    safetensors(path, {"h.0.attn.qkv.weight": ("F32", [48, 16]), "h.0.attn.o.weight": ("F32", [16, 16])})
    same = ["--model", str(path), "--rounds", "1", "--threads", "1"]
    assert main(["bench", "muon", *same]) == 2
    assert "muon:layouts.NAME=whole" in capsys.readouterr().err
    assert main(["bench", "muon:layouts.h.*.attn.qkv.weight=qkv", *same]) == 0


def test_peers_that_are_not_installed_are_named(monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(entries, "present", lambda peer: peer.package == "torch")
    assert main(["bench", "adamw", *TINY, "--peers"]) == 0
    out, err = capsys.readouterr()
    assert "torch AdamW foreach" in out
    line = "left out: heavyball AdamW: the peer heavyball AdamW needs heavyball: pip install 'steepest[bench]'"
    assert line in out and line in err


def test_an_interrupted_measurement_without_a_round_is_still_drawn() -> None:
    shapes = shapes_of("8x8")
    result = measured([reference(shapes, torch.float32)], shapes)
    for row in result["entries"]:
        row |= {"step": {}, "ns_per_weight": {}, "over_bound": {}, "over_reference": {}, "seconds": []}
    assert "first round" in figure.drawn(result, 960).markup()
    assert table.lines(result) and figure.page(result, "{}")


# ---- the benchmarks' own page


def test_the_tables_of_the_benchmarks_are_those_of_their_results() -> None:
    path = ROOT / "benchmarks" / "tables.py"
    spec = importlib.util.spec_from_file_location("benchmark_tables", path)
    assert spec is not None and spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    written, found = tables.README.read_text(encoding="utf-8"), tables.records()
    assert tables.rewritten(written, found) == written, "python benchmarks/tables.py writes them anew"
    drawn = tables.TRACE.read_text(encoding="utf-8") if tables.TRACE.exists() else ""
    assert tables.trace(found) == drawn

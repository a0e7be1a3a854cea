import dataclasses
import json
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from steepest.core.errors import BadInput
from steepest.lab import fused
from steepest.lab.model import Decoder, ModelConfig, rotary, rotate
from steepest.lab.presets import MODELS

LLAMA = ModelConfig(layers=2, width=32, heads=4, ffn=48, vocab=50)
OLMO = dataclasses.replace(LLAMA, norm="layer", mlp="gelu", qk_norm=True, z_loss=1e-4, init="mitchell")
VARIANTS = {
    "llama": LLAMA,
    "olmo": OLMO,
    "olmo-no-qkz": dataclasses.replace(OLMO, qk_norm=False, z_loss=0.0),
    "grouped": dataclasses.replace(LLAMA, kv_heads=2, qk_norm=True),
    "multi-query": dataclasses.replace(LLAMA, kv_heads=1),
    "tied": dataclasses.replace(LLAMA, tied=True),
}
each_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def tokens(*shape, vocab=50, seed=0):
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


def reference_logits(model, ids):
    """The decoder in float64, head by head and position by position, from the papers' formulas alone."""
    c, w = model.config, {name: p.detach().double() for name, p in model.named_parameters()}
    if c.tied:
        w["head.weight"] = w["embed.weight"]

    def norm(x, gain):
        if c.norm == "layer":
            x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + c.norm_eps).sqrt() * gain

    def turned(x):  # [seq, head_dim]
        out = x.clone()
        for t in range(len(x)):
            for i in range(c.head_dim // 2):
                angle = t * c.rope_theta ** (-2 * i / c.head_dim)
                a, b = x[t, 2 * i].item(), x[t, 2 * i + 1].item()
                out[t, 2 * i] = a * math.cos(angle) - b * math.sin(angle)
                out[t, 2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
        return out

    x = w["embed.weight"][ids]
    for n in range(c.layers):
        g = {name.removeprefix(f"blocks.{n}."): p for name, p in w.items() if name.startswith(f"blocks.{n}.")}
        h = norm(x, g["attn_norm.weight"])
        q, k, v = (h @ g[f"attn.{part}.weight"].T for part in "qkv")
        if c.qk_norm:
            q, k = norm(q, g["attn.q_norm.weight"]), norm(k, g["attn.k_norm.weight"])
        heads = []
        for head in range(c.heads):
            shared = head // (c.heads // c.groups)
            at, kv_at = (slice(i * c.head_dim, (i + 1) * c.head_dim) for i in (head, shared))
            scores = turned(q[:, at]) @ turned(k[:, kv_at]).T / math.sqrt(c.head_dim)
            future = torch.ones(len(ids), len(ids)).triu(1).bool()
            heads.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ v[:, kv_at])
        x = x + torch.cat(heads, -1) @ g["attn.o.weight"].T
        h = norm(x, g["mlp_norm.weight"])
        inner = h @ g["mlp.in_.weight"].T
        if c.mlp == "swiglu":
            gate = h @ g["mlp.gate.weight"].T
            inner = gate * torch.sigmoid(gate) * inner
        else:
            inner = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
        x = x + inner @ g["mlp.out.weight"].T
    return norm(x, w["norm.weight"]) @ w["head.weight"].T


@each_variant
def test_logits_equal_the_papers_formulas_in_float64(config):
    model = Decoder(config, seed=3)
    with torch.no_grad():
        for p in model.parameters():  # gains away from 1, weights large enough that every term counts
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())), alpha=0.2)
    ids = tokens(9)
    torch.testing.assert_close(model(ids[None])[0].double(), reference_logits(model, ids), rtol=1e-4, atol=1e-4)


@each_variant
def test_loss_and_gradients_equal_the_plain_text(config):
    config = dataclasses.replace(config, z_loss=config.z_loss * 1e3)
    model, batch = Decoder(config, seed=1), tokens(3, 21)
    out = model.loss(batch)
    out.loss.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    logits = model(batch[:, :-1]).flatten(0, 1)
    nll = F.cross_entropy(logits, batch[:, 1:].flatten())
    loss = nll + config.z_loss * logits.logsumexp(-1).square().mean()
    loss.backward()
    torch.testing.assert_close(out.nll, nll.detach())
    torch.testing.assert_close(out.loss, loss)
    assert not out.nll.requires_grad
    for name, p in model.named_parameters():
        torch.testing.assert_close(
            ours[name], p.grad, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("rows", [1, 63, 64, 150])
@pytest.mark.parametrize("z_loss", [0.0, 0.3])
def test_chunked_cross_entropy_has_the_right_gradient_at_any_number_of_rows(monkeypatch, rows, z_loss):
    monkeypatch.setattr(fused, "CPU_LOGITS", 1)  # the smallest chunk, 64 rows
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(7, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = tokens(rows, vocab=7)
    assert torch.autograd.gradcheck(lambda h, w: fused.cross_entropy(h, w, targets, z_loss)[0], (hidden, weight))
    for ours, plain in zip(
        fused.cross_entropy(hidden, weight, targets, z_loss),
        fused.plain_cross_entropy(hidden, weight, targets, z_loss),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain)


def test_cross_entropy_stays_finite_at_logits_that_overflow_exp():
    hidden = torch.tensor([[1.0], [1.0]], requires_grad=True)
    weight = torch.tensor([[2000.0], [0.0], [-2000.0]], requires_grad=True)
    loss, nll = fused.cross_entropy(hidden, weight, torch.tensor([0, 2]), 0.0)
    loss.backward()
    assert nll.item() == pytest.approx(2000.0)
    assert hidden.grad.isfinite().all() and weight.grad.isfinite().all()


def test_cross_entropy_passes_non_finite_weights_on():
    hidden, weight = torch.ones(2, 1, requires_grad=True), torch.tensor([[math.nan], [0.0]], requires_grad=True)
    loss, _ = fused.cross_entropy(hidden, weight, torch.tensor([0, 1]), 0.0)
    assert loss.isnan()


def test_rms_norm_has_the_right_gradient_and_torchs_value():
    x = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    gain = torch.linspace(0.5, 2, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, g: fused.rms_norm(x, g, 1e-5), (x, gain))
    torch.testing.assert_close(fused.rms_norm(x, gain, 1e-5), fused.plain_rms_norm(x, gain, 1e-5))


def test_rms_norm_of_zeros_is_zero_with_a_finite_gradient():
    x = torch.zeros(2, 4, requires_grad=True)
    y = fused.rms_norm(x, torch.ones(4, requires_grad=True), 1e-5)
    y.sum().backward()
    assert (y == 0).all() and x.grad.isfinite().all()


def test_rotation_keeps_lengths_and_scores_depend_on_the_distance_alone():
    turn = rotary(40, 8, 1e4).repeat(1, 2, 1)
    q, k = torch.randn(2, 1, 1, 16, generator=torch.Generator().manual_seed(0)).expand(2, 1, 40, 16)
    q, k = rotate(q, turn)[0], rotate(k, turn)[0]
    torch.testing.assert_close(q.norm(dim=-1), q[:1].norm(dim=-1).expand(40))
    scores = q @ k.T
    torch.testing.assert_close(scores[3, 1], scores[37, 35], rtol=1e-4, atol=1e-4)


@each_variant
def test_a_token_does_not_see_the_future(config):
    model, ids = Decoder(config), tokens(1, 12)
    changed = ids.clone()
    changed[0, 8:] = (changed[0, 8:] + 1) % config.vocab
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[0, :8], after[0, :8])
    assert not torch.allclose(before[0, 8:], after[0, 8:])


@each_variant
def test_every_weight_gets_a_gradient(config):
    model = Decoder(config)
    model.loss(tokens(2, 9)).loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_weights_are_separate_modules_whose_names_tell_their_roles():
    names = {name for name, _ in Decoder(OLMO).named_parameters() if not name.startswith("blocks.1.")}
    attention = {f"blocks.0.attn.{part}.weight" for part in ("q", "k", "v", "o", "q_norm", "k_norm")}
    rest = {
        "embed",
        "blocks.0.attn_norm",
        "blocks.0.mlp_norm",
        "blocks.0.mlp.in_",
        "blocks.0.mlp.out",
        "norm",
        "head",
    }
    assert names == attention | {f"{part}.weight" for part in rest}
    assert "blocks.0.mlp.gate.weight" in dict(Decoder(LLAMA).named_parameters())


def test_a_tied_head_is_the_embedding_in_the_copy_too():
    model = Decoder(VARIANTS["tied"])
    assert model.head.weight is model.embed.weight
    assert "head.weight" not in dict(model.named_parameters())


@each_variant
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(config):
    torch.manual_seed(1)
    first = Decoder(config, seed=7).state_dict()
    torch.manual_seed(2)
    second, other = Decoder(config, seed=7).state_dict(), Decoder(config, seed=8).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embed.weight"], other["embed.weight"])


def test_building_a_model_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    Decoder(LLAMA, seed=5)
    assert torch.equal(before, torch.get_rng_state())


# The standard deviation of a normal cut at ±3σ is 0.98658 σ.
@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ("fantastic", {"embed": 1 / 128, "1.attn.q": 128**-0.5, "1.attn.o": 128**-0.5, "1.mlp.out": 512**-0.5}),
        (
            "mitchell",
            {"embed": 128**-0.5, "1.attn.q": 128**-0.5, "1.attn.o": 1 / 512**0.5, "1.mlp.out": 1 / 2048**0.5},
        ),
    ],
)
def test_initial_weights_have_the_studys_scale_and_are_cut_at_three_sigma(init, expected):
    model = Decoder(ModelConfig(2, 128, 4, 512, vocab=600, init=init))
    weights = {name.removeprefix("blocks."): p for name, p in model.named_parameters()}
    for name, sigma in {**expected, "1.mlp.gate": 128**-0.5, "head": 128**-0.5}.items():
        weight = weights[f"{name}.weight"]
        assert weight.std().item() == pytest.approx(0.98658 * sigma, rel=0.02), name
        assert weight.abs().max().item() <= 3 * sigma * 1.0001, name
    assert all((p == 1).all() for name, p in weights.items() if "norm" in name)


def test_the_first_loss_is_near_the_logarithm_of_the_vocabulary():
    batch = tokens(4, 65, vocab=1024)
    for init in ("fantastic", "mitchell"):
        model = Decoder(dataclasses.replace(MODELS["50k"], init=init))
        assert model.loss(batch).nll.item() == pytest.approx(math.log(1024), abs=0.7)


def test_a_model_learns_a_repeated_batch():
    model, batch = Decoder(OLMO), tokens(4, 17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss, nll = model.loss(batch)
        loss.backward()
        optimizer.step()
    assert nll.item() < 0.5


def test_z_loss_moves_the_loss_and_not_the_nll():
    without, with_ = (Decoder(dataclasses.replace(LLAMA, z_loss=z)).loss(tokens(2, 9)) for z in (0.0, 0.1))
    assert without.loss.item() == without.nll.item() == with_.nll.item()
    assert with_.loss.item() > with_.nll.item()


def test_evaluation_without_gradients_gives_the_same_loss():
    model, batch = Decoder(OLMO), tokens(2, 9)
    with torch.no_grad():
        quiet = model.loss(batch)
    assert torch.equal(quiet.nll, model.loss(batch).nll) and not quiet.loss.requires_grad


@each_variant
def test_under_bf16_autocast_logits_and_loss_stay_float32_and_close(config):
    model, batch = Decoder(config), tokens(3, 21)
    exact = model.loss(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model.loss(batch)
        assert model(batch).dtype == torch.float32
    assert rough.nll.dtype == rough.loss.dtype == torch.float32
    assert rough.nll.item() == pytest.approx(exact.nll.item(), abs=0.03)
    rough.loss.backward()
    rough_grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    exact.loss.backward()
    for p, grad in zip(model.parameters(), rough_grads, strict=True):
        assert grad.dtype == torch.float32
        assert F.cosine_similarity(grad.flatten(), p.grad.flatten(), dim=0) > 0.98


def test_gradients_accumulate_over_batches_as_over_one():
    model, batch = Decoder(LLAMA), tokens(4, 9)
    model.loss(batch).loss.backward()
    whole = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for part in batch.chunk(2):
        (model.loss(part).loss / 2).backward()
    for p, grad in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-4, atol=1e-7)


def test_meta_models_hold_shapes_without_memory():
    assert all(p.is_meta for p in Decoder(MODELS["fantastic-1.2b"], device="meta").parameters())


def test_sampling_continues_the_prompt_and_follows_its_generator():
    model, prompt = Decoder(LLAMA), tokens(5)
    draws = [model.sample(prompt, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert draws[0].shape == (13,) and torch.equal(draws[0][:5], prompt)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(model.sample(prompt, 0), prompt)


def test_greedy_sampling_takes_the_likeliest_and_so_does_top_1():
    model, prompt = Decoder(LLAMA), tokens(5)
    greedy = model.sample(prompt, 6, temperature=0)
    ids = prompt
    for _ in range(6):
        ids = torch.cat((ids, model(ids[None])[0, -1].argmax()[None]))
    assert torch.equal(greedy, ids)
    assert torch.equal(model.sample(prompt, 6, top_k=1), ids)


def test_top_k_draws_only_among_the_k_likeliest():
    model, prompt = Decoder(LLAMA), tokens(5)
    allowed = set(model(prompt[None])[0, -1].topk(3).indices.tolist())
    generator = torch.Generator().manual_seed(0)
    drawn = {model.sample(prompt, 1, temperature=5.0, top_k=3, generator=generator)[-1].item() for _ in range(60)}
    assert drawn == allowed


def test_sampling_within_a_context_sees_only_its_last_tokens():
    model, prompt = Decoder(LLAMA), tokens(9)
    short = model.sample(prompt[-4:], 1, temperature=0)[-1]
    assert model.sample(prompt, 1, temperature=0, context=4)[-1] == short


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (dict(prompt_ids=torch.zeros(0, dtype=torch.int64)), r"\[0\]"),
        (dict(prompt_ids=tokens(1, 3)), r"\[1, 3\]"),
        (dict(temperature=-1.0), "temperature=-1.0"),
        (dict(temperature=math.nan), "temperature=nan"),
        (dict(top_k=0), "top_k=0"),
        (dict(context=0), "context=0"),
    ],
)
def test_impossible_sampling_is_refused_in_one_line(call, words):
    with pytest.raises(BadInput, match=words) as caught:
        Decoder(LLAMA).sample(**{"prompt_ids": tokens(3), "n": 1, **call})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(heads=5), "width=32 is not divisible by heads=5"),
        (dict(width=36), "head width 9"),
        (dict(kv_heads=3), "kv_heads=3 does not divide heads=4"),
        (dict(kv_heads=8), "kv_heads=8"),
        (dict(layers=0), "layers=0"),
        (dict(vocab=0), "vocab=0"),
        (dict(norm="batch"), "norm='batch'.*rms, layer"),
        (dict(mlp="relu"), "mlp='relu'"),
        (dict(init="xavier"), "init='xavier'"),
        (dict(z_loss=-1.0), "z_loss=-1.0"),
        (dict(z_loss=math.nan), "z_loss=nan"),
        (dict(rope_theta=0.0), "rope_theta=0.0"),
        (dict(norm_eps=-1e-5), "norm_eps=-1e-05"),
    ],
)
def test_an_impossible_model_is_refused_in_one_line(change, words):
    with pytest.raises(BadInput, match=words) as caught:
        dataclasses.replace(LLAMA, **change)
    assert "\n" not in str(caught.value)


def test_a_configuration_survives_json():
    for config in VARIANTS.values():
        assert ModelConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_the_model_imports_nothing_beyond_torch_and_numpy():
    code = (
        "import sys, steepest.lab.presets; "
        "print([m for m in ('tokenizers', 'datasets', 'rich', 'scipy', 'jinja2', 'pandas') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("config", [LLAMA, OLMO], ids=["llama", "olmo"])
def test_the_compiled_model_gives_the_same_loss_and_gradients(config):
    eager, compiled, batch = Decoder(config), Decoder(config), tokens(3, 21)
    compiled.compile()
    for model in (eager, compiled):
        model.loss(batch).loss.backward()
    torch.testing.assert_close(compiled.loss(batch), eager.loss(batch))
    for a, b in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)

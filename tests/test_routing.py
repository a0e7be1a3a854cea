"""Roles and layouts of real model families, inferred, declared, refused by name and explained."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import steepest
from steepest import Layout
from steepest.core.errors import RoutingError, UnknownName
from steepest.core.naming import named_of
from steepest.lab.model import Decoder, ModelConfig

QKV = "q_proj=q k_proj=k v_proj=v o_proj=o"
LLAMA = f"embed_tokens=embed {QKV} gate_proj=ffn_gate up_proj=ffn_in down_proj=ffn_out"
EXPERTS = f"embed_tokens=embed {QKV} gate_up_proj[gate]=ffn_gate gate_up_proj[up]=ffn_in down_proj=ffn_out"
SHARED = "shared_experts.gate_proj=ffn_gate shared_experts.up_proj=ffn_in shared_experts.down_proj=ffn_out"
BERT = (
    "word_embeddings=embed position_embeddings=embed token_type_embeddings=embed query=q key=k value=v "
    "attention.output.dense=o intermediate.dense=ffn_in 0.output.dense=ffn_out 1.output.dense=ffn_out"
)
GPT = "wte=embed wpe=embed attn.c_proj=o c_fc=ffn_in mlp.c_proj=ffn_out"
FUSED = "c_attn[q]=q c_attn[k]=k c_attn[v]=v"
NEOX = (
    "query_key_value[q]=q query_key_value[k]=k query_key_value[v]=v dense=o "
    "dense_h_to_4h=ffn_in dense_4h_to_h=ffn_out"
)
OPT = "embed_tokens=embed embed_positions=embed q_proj=q k_proj=k v_proj=v out_proj=o fc1=ffn_in fc2=ffn_out"
T5 = "shared=embed relative_attention_bias=embed q=q k=k v=v o=o wo=ffn_out"

# Configurations small enough to build in milliseconds: width 16, four heads, two of keys and values.
WIDTH = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 40,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 32}
GROUPED = WIDTH | TOKENS | {"num_key_value_heads": 2, "head_dim": 4}
MOE = GROUPED | {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
LATENT = {
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 2, "qk_nope_head_dim": 2, "v_head_dim": 4,
    "first_k_dense_replace": 0, "n_group": 1, "topk_group": 1, "n_routed_experts": 4,
}  # fmt: skip
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 40, "n_positions": 32}
D_MODEL = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "vocab_size": 40}
HEADS = Layout(groups=4, split=(("q", 4), ("k", 4), ("v", 4)))

# Class, configuration, roles by the end of the name (norms and biases are checked apart), declared layouts.
FAMILIES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", GPT2, f"{GPT} {FUSED}", {}),
    "gpt2 with cross-attention": (
        "GPT2LMHeadModel",
        GPT2 | {"add_cross_attention": True},
        f"{GPT} {FUSED} q_attn=q crossattention.c_proj=o crossattention.c_attn[k]=k crossattention.c_attn[v]=v",
        {},
    ),
    "llama": ("LlamaForCausalLM", GROUPED, f"{LLAMA} lm_head=head", {}),
    "llama tied": ("LlamaForCausalLM", GROUPED | {"tie_word_embeddings": True}, LLAMA, {}),
    "qwen2": ("Qwen2ForCausalLM", GROUPED, f"{LLAMA} lm_head=head", {}),
    "qwen3": ("Qwen3ForCausalLM", GROUPED, f"{LLAMA} lm_head=head", {}),
    "mistral": ("MistralForCausalLM", GROUPED, f"{LLAMA} lm_head=head", {}),
    "olmo2": ("Olmo2ForCausalLM", GROUPED, f"{LLAMA} lm_head=head", {}),
    "gemma": ("GemmaForCausalLM", GROUPED, LLAMA, {}),
    "gemma2": ("Gemma2ForCausalLM", GROUPED, LLAMA, {}),
    "gemma3": ("Gemma3ForCausalLM", GROUPED, LLAMA, {}),
    "mixtral": ("MixtralForCausalLM", MOE, f"{EXPERTS} mlp.gate=matrix lm_head=head", {}),
    "qwen2-moe": (
        "Qwen2MoeForCausalLM",
        MOE | {"shared_expert_intermediate_size": 12, "decoder_sparse_step": 1},
        f"{EXPERTS} mlp.gate=matrix shared_expert_gate=matrix lm_head=head {SHARED.replace('experts', 'expert')}",
        {},
    ),
    "qwen3-moe": ("Qwen3MoeForCausalLM", MOE, f"{EXPERTS} mlp.gate=matrix lm_head=head", {}),
    "olmoe": ("OlmoeForCausalLM", MOE, f"{EXPERTS} mlp.gate=matrix lm_head=head", {}),
    "gpt-oss": (
        "GptOssForCausalLM",
        MOE | {"layer_types": ["full_attention"] * 2},
        f"{EXPERTS} router=matrix sinks=vector lm_head=head",
        {},
    ),
    "deepseek-v3": (
        "DeepseekV3ForCausalLM",
        MOE | LATENT,
        f"{EXPERTS.replace('q_proj=q k_proj=k v_proj=v', 'q_a_proj=q q_b_proj=q')} kv_a_proj_with_mqa=matrix "
        f"kv_b_proj=matrix mlp.gate=matrix lm_head=head {SHARED}",
        {},
    ),
    "llama4": (
        "Llama4ForCausalLM",
        MOE | {"intermediate_size_mlp": 24},
        f"{EXPERTS} router=matrix lm_head=head {SHARED.replace('experts', 'expert')}",
        {"*.experts.gate_up_proj": Layout(transposed=True, split=(("gate", 24), ("up", 24)))},
    ),
    "phi": ("PhiForCausalLM", WIDTH | TOKENS, "embed_tokens=embed q_proj=q k_proj=k v_proj=v dense=o fc1=ffn_in "
            "fc2=ffn_out lm_head=head", {}),
    "phi3": (
        "Phi3ForCausalLM",
        GROUPED,
        "embed_tokens=embed qkv_proj[q]=q qkv_proj[k]=k qkv_proj[v]=v o_proj=o gate_up_proj[gate]=ffn_gate "
        "gate_up_proj[up]=ffn_in down_proj=ffn_out lm_head=head",
        {"*.qkv_proj.weight": {"q": 16, "k": 8, "v": 8}, "*.gate_up_proj.weight": "gate_up"},
    ),
    "gpt-neox": (
        "GPTNeoXForCausalLM",
        WIDTH | TOKENS,
        f"embed_in=embed {NEOX} lm_head=head",
        {"*.query_key_value.weight": HEADS},
    ),
    "bloom": (
        "BloomForCausalLM",
        {"hidden_size": 16, "n_layer": 2, "n_head": 4, "vocab_size": 40},
        f"word_embeddings=embed {NEOX}",
        {"*.query_key_value.weight": HEADS},
    ),
    "falcon": (
        "FalconForCausalLM",
        WIDTH,
        f"word_embeddings=embed {NEOX}",
        {"*.query_key_value.weight": {"q": 16, "k": 4, "v": 4}},
    ),
    "gpt-bigcode": (
        "GPTBigCodeForCausalLM",
        GPT2,
        f"{GPT} {FUSED}",
        {"*.c_attn.weight": {"q": 16, "k": 4, "v": 4}},
    ),
    "bert": ("BertLMHeadModel", WIDTH | TOKENS, f"{BERT} transform.dense=matrix", {}),
    "bert, untied": (
        "BertLMHeadModel",
        WIDTH | TOKENS | {"tie_word_embeddings": False},
        f"{BERT} transform.dense=matrix decoder=head",
        {},
    ),
    "modernbert": (
        "ModernBertForMaskedLM",
        WIDTH | TOKENS | {"cls_token_id": 1, "sep_token_id": 2},
        "tok_embeddings=embed Wqkv[q]=q Wqkv[k]=k Wqkv[v]=v attn.Wo=o Wi[gate]=ffn_gate Wi[up]=ffn_in "
        "mlp.Wo=ffn_out head.dense=matrix",
        {"*.Wqkv.weight": "qkv", "*.Wi.weight": "gate_up"},
    ),
    "t5": ("T5ForConditionalGeneration", D_MODEL, f"{T5} wi=ffn_in", {}),
    "t5 1.1": (
        "T5ForConditionalGeneration",
        D_MODEL | {"feed_forward_proj": "gated-gelu"},
        f"{T5} wi_0=ffn_gate wi_1=ffn_in",
        {},
    ),
    "opt": ("OPTForCausalLM", WIDTH | TOKENS | {"ffn_dim": 24, "word_embed_proj_dim": 16}, OPT, {}),
    "bart": (
        "BartForConditionalGeneration",
        {"d_model": 16, "vocab_size": 40, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24,
         "decoder_ffn_dim": 24, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
        OPT.replace("embed_tokens", "shared"),
        {},
    ),
    "vit": (
        "ViTForImageClassification",
        WIDTH | {"image_size": 8, "patch_size": 4},
        f"cls_token=vector position_embeddings=embed projection=embed {QKV} fc1=ffn_in fc2=ffn_out "
        "classifier=head",
        {},
    ),
    "mamba": (
        "MambaForCausalLM",
        {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 40, "state_size": 4},
        "embeddings=embed A_log=vector D=vector conv1d=vector in_proj[x]=matrix in_proj[z]=matrix x_proj=matrix "
        "dt_proj=matrix out_proj=o",
        {"*.in_proj.weight": {"x": 32, "z": 32}},
    ),
}  # fmt: skip


@functools.cache
def transformer(family: str) -> nn.Module:
    name, configuration, _, _ = FAMILIES[family]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers", reason="no transformers: pip install 'steepest[dev]'")
        if int(transformers.__version__.split(".")[0]) < 5:  # experts were lists then, and fewer families exist
            pytest.skip(f"transformers {transformers.__version__}: pip install 'transformers>=5'")
        made = getattr(transformers, name)
        return made(made.config_class(**configuration))


def told(expected: str) -> dict[str, str]:
    return dict(pair.rsplit("=", 1) for pair in expected.split())


def check_roles(routing: steepest.optimizer.Routing, expected: dict[str, str]) -> None:
    """Every weight has the role that the longest matching end of its name tells; each end is found."""
    seen = set()
    for route in routing:
        name = route.parameter.replace(".weight", "").replace("_weight", "")
        if route.role in ("norm", "bias"):
            word = name.rsplit(".", 1)[-1].lower()
            assert word.endswith("bias") or (route.role == "norm" and ("norm" in name.lower() or "ln_" in name))
            continue
        ends = [end for end in expected if name == end or name.endswith("." + end)]
        assert ends, f"{route.parameter}: {route.role}"
        end = max(ends, key=len)
        assert (route.parameter, route.role) == (route.parameter, expected[end])
        seen.add(end)
    assert seen == set(expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_the_family_has_its_role(family: str) -> None:
    _, _, expected, layouts = FAMILIES[family]
    model = transformer(family)
    routing = steepest.explain_routing(model, "muon", layouts=layouts)
    check_roles(routing, told(expected))
    for route in routing:
        hidden = route.role not in ("embed", "head", "norm", "bias", "vector")
        assert route.rule == ("muon" if hidden else "adamw"), route
        assert len(route.shape) >= 2 or not hidden, route


@pytest.mark.parametrize("family", [name for name, entry in FAMILIES.items() if entry[3]])
def test_a_fused_weight_is_refused_by_name_until_it_is_declared(family: str) -> None:
    layouts = FAMILIES[family][3]
    for pattern in layouts:
        others = {name: value for name, value in layouts.items() if name != pattern}
        with pytest.raises(RoutingError, match="looks fused") as caught:
            steepest.Muon(transformer(family), layouts=others)
        message = str(caught.value)
        assert pattern.removeprefix("*.") in message.split()[0] and "\n" not in message
        assert f'{pattern.removeprefix("*.")}": ' in message and "layouts={" in message
    steepest.AdamW(transformer(family))  # an element rule needs no declaration


@pytest.mark.parametrize(
    ("family", "suggested"),
    [
        ("phi3", '{"model.layers.*.self_attn.qkv_proj.weight": {"q": 16, "k": 8, "v": 8}}'),
        ("falcon", '{"transformer.h.*.self_attention.query_key_value.weight": {"q": 16, "k": 4, "v": 4}}'),
        ("gpt-neox", "Layout(groups=heads, split="),
        ("modernbert", '{"model.layers.*.attn.Wqkv.weight": "qkv"}'),
        ("llama4", 'Layout(transposed=True, split=(("gate", rows), ("up", rows),))'),
    ],
)
def test_a_refusal_says_exactly_what_to_declare(family: str, suggested: str) -> None:
    with pytest.raises(RoutingError) as caught:
        steepest.Muon(transformer(family))
    assert suggested in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_alone_tell_the_same_roles(family: str) -> None:
    _, _, _, layouts = FAMILIES[family]
    if family == "vit":
        layouts = layouts | {"*.projection.weight": "flatten"}
    experts = {"*.experts.gate_up_proj": "whole", "*.experts.down_proj": "whole"}
    model = transformer(family)
    names = [n.name for n in named_of(model)]
    unsaid = {"*.conv1d.weight": "vector"} if family == "mamba" else {}  # depthwise: only the module knows
    options = {
        "roles": unsaid,
        "layouts": layouts | ({} if not any(".experts." in n for n in names) else experts),
    }
    by_module = steepest.explain_routing(model, "muon", **options)
    by_name = steepest.explain_routing(list(model.named_parameters()), "muon", **options)
    assert [(r.parameter, r.shape, r.role) for r in by_name] == [(r.parameter, r.shape, r.role) for r in by_module]


def shapes(routing: steepest.optimizer.Routing, end: str) -> tuple[int, ...]:
    return next(r.shape for r in routing if r.parameter.endswith(end))


@pytest.mark.parametrize("family", ["mixtral", "gpt-oss", "llama4"])
def test_experts_are_seen_as_out_by_in_however_they_are_stored(family: str) -> None:
    routing = steepest.explain_routing(transformer(family), "muon", layouts=FAMILIES[family][3])
    assert shapes(routing, "gate_up_proj[gate]") == (4, 24, 16)
    optimizer = steepest.Muon(transformer(family), layouts=FAMILIES[family][3])
    down = next(p for n, p in transformer(family).named_parameters() if n.endswith("experts.down_proj"))
    assert optimizer._layout[down].parts(down)[""].shape == (4, 16, 24)


def test_alternating_rows_of_gpt_oss_are_told_apart() -> None:
    model = transformer("gpt-oss")
    optimizer = steepest.Muon(model)
    weight = next(p for n, p in model.named_parameters() if n.endswith("experts.gate_up_proj"))
    parts = optimizer._layout[weight].parts(weight)
    assert torch.equal(parts["gate"], weight[..., 0::2].mT) and torch.equal(parts["up"], weight[..., 1::2].mT)


def test_grouped_heads_keep_their_own_sizes() -> None:
    routing = steepest.explain_routing(transformer("llama"), "muon")
    assert shapes(routing, "q_proj.weight") == (16, 16) and shapes(routing, "k_proj.weight") == (8, 16)


@pytest.mark.parametrize("family", ["gpt2", "llama tied", "bert", "t5", "opt"])
def test_a_tied_head_is_an_embedding_and_the_note_says_so(family: str) -> None:
    routing = steepest.explain_routing(transformer(family), "muon")
    tied = [r for r in routing if "tied with" in r.why and r.role != "bias"]
    assert [r.role for r in tied] == ["embed"] and "head" not in {r.role for r in routing}


class Tied(nn.Module):
    """The head comes first and owns the name, as in some users' models."""

    def __init__(self) -> None:
        super().__init__()
        self.lm_head = nn.Linear(8, 20, bias=False)
        self.wte = nn.Embedding(20, 8)
        self.wte.weight = self.lm_head.weight


def test_a_tied_weight_is_an_embedding_also_where_the_head_comes_first() -> None:
    (route,) = steepest.explain_routing(Tied(), "muon")
    assert (route.parameter, route.role) == ("lm_head.weight", "embed")
    assert route.why == "weight of Embedding, tied with wte.weight"


def test_a_tied_weight_is_declared_by_either_name() -> None:
    (route,) = steepest.explain_routing(Tied(), "muon", roles={"wte.weight": "matrix"})
    assert route.rule == "muon"


def named(expected: str, *shape: int) -> list[tuple[str, nn.Parameter]]:
    sizes = shape or (8, 8)
    return [(f"{pair.rsplit('=', 1)[0]}.weight", nn.Parameter(torch.zeros(sizes))) for pair in expected.split()]


LAYOUTS_OF_NAMES = {
    "llama as published": "tok_embeddings=embed layers.0.attention.wq=q layers.0.attention.wk=k "
    "layers.0.attention.wv=v layers.0.attention.wo=o layers.0.feed_forward.w1=ffn_gate "
    "layers.0.feed_forward.w2=ffn_out layers.0.feed_forward.w3=ffn_in output=head",
    "experts as a list (older Mixtral)": "model.layers.0.block_sparse_moe.gate=matrix "
    "model.layers.0.block_sparse_moe.experts.0.w1=ffn_gate model.layers.0.block_sparse_moe.experts.0.w2=ffn_out "
    "model.layers.0.block_sparse_moe.experts.0.w3=ffn_in",
    "two weights w1, w2 without a gate": "blocks.0.ffn.w1=ffn_in blocks.0.ffn.w2=ffn_out",
    "the lab's model": "embed=embed blocks.0.attn.q=q blocks.0.attn.k=k blocks.0.attn.v=v blocks.0.attn.o=o "
    "blocks.0.mlp.gate=ffn_gate blocks.0.mlp.in_=ffn_in blocks.0.mlp.out=ffn_out head=head",
    "a feed-forward inside something called attention": "attention_stack.0.mlp.c_proj=ffn_out "
    "attention_stack.0.attn.c_proj=o",
}


@pytest.mark.parametrize("names", LAYOUTS_OF_NAMES)
def test_names_of_other_code_bases_are_known(names: str) -> None:
    routing = steepest.explain_routing(named(LAYOUTS_OF_NAMES[names]), "muon")
    assert {r.parameter.removesuffix(".weight"): r.role for r in routing} == told(LAYOUTS_OF_NAMES[names])


def nano_gpt() -> nn.Module:
    """nanoGPT's module tree: Linear c_attn, tied lm_head."""
    block = nn.ModuleDict(
        {
            "ln_1": nn.LayerNorm(16),
            "attn": nn.ModuleDict({"c_attn": nn.Linear(16, 48), "c_proj": nn.Linear(16, 16)}),
            "ln_2": nn.LayerNorm(16),
            "mlp": nn.ModuleDict({"c_fc": nn.Linear(16, 64), "c_proj": nn.Linear(64, 16)}),
        }
    )
    body = nn.ModuleDict(
        {
            "wte": nn.Embedding(64, 16),
            "wpe": nn.Embedding(8, 16),
            "h": nn.ModuleList([block]),
            "ln_f": nn.LayerNorm(16),
        }
    )
    model = nn.ModuleDict({"transformer": body, "lm_head": nn.Linear(16, 64, bias=False)})
    model["lm_head"].weight = body["wte"].weight
    return model


def test_nano_gpt_needs_one_declaration() -> None:
    with pytest.raises(RoutingError, match=r'layouts=\{"transformer\.h\.\*\.attn\.c_attn\.weight": "qkv"\}'):
        steepest.Muon(nano_gpt())
    routing = steepest.explain_routing(nano_gpt(), "muon", layouts={"*.c_attn.weight": "qkv"})
    check_roles(routing, told(f"{GPT} {FUSED}"))


@pytest.mark.parametrize(("mlp", "tied"), [("swiglu", False), ("gelu", True)])
def test_the_labs_model_needs_no_declaration(mlp: str, tied: bool) -> None:
    config = ModelConfig(
        layers=2, width=8, heads=2, ffn=12, vocab=30, kv_heads=1, mlp=mlp, qk_norm=True, tied=tied
    )
    expected = "embed=embed q=q k=k v=v o=o in_=ffn_in out=ffn_out"
    expected += (" gate=ffn_gate" if mlp == "swiglu" else "") + ("" if tied else " head=head")
    check_roles(steepest.explain_routing(Decoder(config), "muon"), told(expected))


TORCH = {
    "Transformer": (
        lambda: nn.Transformer(16, 2, 1, 1, 32, batch_first=True),
        "in_proj[q]=q in_proj[k]=k in_proj[v]=v out_proj=o linear1=ffn_in linear2=ffn_out",
    ),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(16, 2),
        "in_proj[q]=q in_proj[k]=k in_proj[v]=v out_proj=o",
    ),
    "MultiheadAttention with kdim": (
        lambda: nn.MultiheadAttention(16, 2, kdim=8, vdim=12, add_bias_kv=True),
        "q_proj=q k_proj=k v_proj=v out_proj=o bias_k=bias bias_v=bias",
    ),
    "LSTM": (
        lambda: nn.LSTM(8, 8),
        " ".join(f"weight_{x}h_l0[{gate}]=matrix" for x in "ih" for gate in ("input", "forget", "cell", "output")),
    ),
    "RNN": (lambda: nn.RNN(8, 8), "weight_ih_l0=matrix weight_hh_l0=matrix"),
    "Conv1d and Conv2d": (
        lambda: nn.ModuleDict({"a": nn.Conv1d(3, 8, 3), "b": nn.Conv2d(8, 8, 3, groups=2), "c": nn.Conv2d(8, 8, 3,
            groups=8), "d": nn.BatchNorm2d(8)}),
        "a=matrix b=matrix c=vector d=norm",
    ),
    "Sequential": (
        lambda: nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9), nn.GELU(), nn.Linear(9, 8), nn.Linear(8, 9)),
        "0=embed 1=matrix 3=matrix 4=head",
    ),
    "Sequential without an embedding": (
        lambda: nn.Sequential(nn.Linear(8, 9), nn.GELU(), nn.Linear(9, 3)),
        "0=matrix 2=head",
    ),
    "one Linear": (lambda: nn.Sequential(nn.Linear(8, 8)), "0=matrix"),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_torchs_own_modules_have_their_roles(name: str) -> None:
    model, expected = TORCH[name][0](), told(TORCH[name][1])
    found = {}
    for r in steepest.explain_routing(model, "muon"):
        end = r.parameter.replace(".weight", "").replace("_weight", "")
        if r.role not in ("bias", "norm") or end in expected:
            found[end] = r.role
    assert {
        end: next(r for f, r in found.items() if f == end or f.endswith("." + end)) for end in expected
    } == expected
    assert all(any(f == end or f.endswith("." + end) for end in expected) for f in found)


def test_filters_in_groups_are_one_matrix_a_group() -> None:
    conv = nn.Conv2d(8, 6, 3, groups=2)
    optimizer = steepest.Muon(conv)
    assert optimizer._layout[conv.weight].parts(conv.weight)[""].shape == (2, 3, 36)


def test_a_layer_norm_of_two_dimensions_is_a_norm() -> None:
    (route,) = steepest.explain_routing(nn.LayerNorm((4, 6), bias=False), "muon")
    assert (route.role, route.rule) == ("norm", "adamw")


def test_a_linear_layer_of_a_class_called_normalised_is_a_matrix() -> None:
    class NormalisedLinear(nn.Linear):
        pass

    routing = steepest.explain_routing(nn.ModuleDict({"mix": NormalisedLinear(4, 4, bias=False)}), "muon")
    assert routing[0].role == "matrix"


# -- what cannot be told -----------------------------------------------------------------------------------------


def test_a_stack_that_nothing_explains_is_refused_with_the_choices() -> None:
    with pytest.raises(RoutingError) as caught:
        steepest.Muon([("h.0.mix.weight", nn.Parameter(torch.zeros(3, 4, 5)))])
    for word in ('"h.*.mix.weight": "whole"', '"transposed"', '"flatten"', 'roles={"h.*.mix.weight": "vector"}'):
        assert word in str(caught.value)


def test_experts_whose_orientation_nothing_tells_are_refused() -> None:
    experts = [("h.0.experts.w2", nn.Parameter(torch.zeros(3, 4, 5)))]
    with pytest.raises(RoutingError, match="3 dimensions"):
        steepest.Muon(experts)
    embed = [("embed.weight", nn.Parameter(torch.zeros(9, 5)))]
    (_, route) = steepest.explain_routing(embed + experts, "muon")
    assert route.why.endswith("stored transposed")  # out of the layer: the width 5 comes out


def test_filters_stored_channels_last_are_refused_with_the_next_step() -> None:
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    with pytest.raises(RoutingError, match=r"weight \(4, 3, 3, 3\) is stored channels_last.*contiguous_format"):
        steepest.Muon(conv)
    steepest.AdamW(conv)


def test_unnamed_matrices_are_taken_and_a_mixture_is_refused() -> None:
    matrix, vector = nn.Parameter(torch.zeros(4, 5)), nn.Parameter(torch.zeros(5))
    (route,) = steepest.explain_routing([matrix], "muon")
    assert (route.parameter, route.role) == ("a weight of shape (4, 5)", "matrix")
    with pytest.raises(RoutingError, match=r"pass the model, model\.named_parameters\(\), or the matrices alone"):
        steepest.Muon([matrix, vector])
    with pytest.raises(RoutingError, match="pass it as"):
        steepest.Muon([nn.Parameter(torch.zeros(2, 4, 5))])
    steepest.AdamW([matrix, vector])


# -- declarations ------------------------------------------------------------------------------------------------


def blocks() -> list[tuple[str, nn.Parameter]]:
    return named("embed h.0.attn.q h.1.attn.q h.0.mix head")


def roles(**options: Any) -> dict[str, str]:
    return {
        r.parameter.removesuffix(".weight"): r.role for r in steepest.explain_routing(blocks(), "muon", **options)
    }


def test_roles_are_corrected_by_name_and_by_pattern() -> None:
    assert roles(roles={"h.0.mix.weight": "embed", "h.*.attn.q.weight": "k"}) == {
        "embed": "embed",
        "h.0.attn.q": "k",
        "h.1.attn.q": "k",
        "h.0.mix": "embed",
        "head": "head",
    }


def test_an_exact_name_counts_before_a_pattern_in_any_order() -> None:
    for given in ({"*": "matrix", "head.weight": "head"}, {"head.weight": "head", "*": "matrix"}):
        found = roles(roles=given)
        assert found.pop("head") == "head" and set(found.values()) == {"matrix"}


@pytest.mark.parametrize(
    ("option", "pattern", "near"),
    [
        ("roles", "h.0.atn.q.weight", "h.0.attn.q.weight"),
        ("roles", "h.*.atn.q.weight", "h.*.attn.q.weight"),
        ("roles", "*.atn.q.weight", "h.*.attn.q.weight"),
        ("layouts", "*.mixx.weight", "*.mix.weight"),
    ],
)
def test_a_declaration_that_matches_nothing_suggests_the_nearest_name(
    option: str, pattern: str, near: str
) -> None:
    value = {"roles": "matrix", "layouts": "whole"}[option]
    with pytest.raises(UnknownName) as caught:
        steepest.Muon(blocks(), **{option: {pattern: value}})
    assert repr(pattern) in str(caught.value) and f"did you mean {near!r}" in str(caught.value)


def test_a_declaration_that_is_near_to_nothing_shows_what_names_look_like() -> None:
    with pytest.raises(UnknownName, match=r"no parameter matches: names are as 'embed\.weight'"):
        steepest.Muon(blocks(), roles={"xyz": "matrix"})


def test_a_declaration_for_parameters_without_names_says_to_pass_the_model() -> None:
    with pytest.raises(UnknownName, match="have no names: pass the model"):
        steepest.Muon([nn.Parameter(torch.zeros(4, 4))], roles={"*": "matrix"})


def test_an_unknown_role_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown role 'ffn_up'"):
        steepest.Muon(blocks(), roles={"*.mix.weight": "ffn_up"})
    with pytest.raises(UnknownName, match="did you mean 'norm'"):
        steepest.Muon(blocks(), undecayed=["norms"])


def test_undecayed_roles_are_not_decayed_and_the_others_are() -> None:
    config = ModelConfig(layers=1, width=8, heads=2, ffn=12, vocab=30, norm="layer", mlp="gelu")
    model = Decoder(config)
    optimizer = steepest.Muon(
        model, weight_decay=0.2, companion={"weight_decay": 0.3}, undecayed=("embed", "norm", "ffn_in")
    )
    decay = {name: g["weight_decay"] for g in optimizer.param_groups for name in g["param_names"]}
    assert decay["embed.weight"] == decay["norm.weight"] == decay["blocks.0.mlp.in_.weight"] == 0
    assert decay["blocks.0.attn.q.weight"] == 0.2 and decay["head.weight"] == 0.3


# -- the explanation ---------------------------------------------------------------------------------------------


def test_the_explanation_follows_the_models_order() -> None:
    model = nano_gpt()
    routing = steepest.explain_routing(model, "muon", layouts={"*.c_attn.weight": "qkv"})
    names = list(dict.fromkeys(r.parameter.split("[")[0] for r in routing))
    assert names == [name for name, _ in model.named_parameters()]


def test_the_printed_explanation_folds_alike_layers_and_sums_up() -> None:
    config = ModelConfig(layers=12, width=8, heads=2, ffn=12, vocab=30)
    routing = steepest.explain_routing(Decoder(config), "muon")
    lines = str(routing).splitlines()
    assert len(lines) < 20 < len(routing)
    assert lines[0].split() == ["parameter", "count", "shape", "role", "rule", "why"]
    assert "blocks.*.attn.q.weight 12 8x8 q muon named 'q'" in [" ".join(line.split()) for line in lines]
    hidden = sum(p.numel() for n, p in Decoder(config).named_parameters() if "blocks" in n and p.ndim == 2)
    assert any(line.startswith(f"muon moves {hidden:,} of ") for line in lines[-2:])


def test_layers_that_are_routed_otherwise_are_not_folded() -> None:
    text = str(steepest.explain_routing(blocks(), "muon", roles={"h.1.attn.q.weight": "embed"}))
    assert "h.0.attn.q.weight" in text and "h.1.attn.q.weight" in text and "*" not in text.splitlines()[2]


def test_a_late_group_is_explained_too() -> None:
    optimizer = steepest.Muon(blocks())
    optimizer.add_param_group({"params": [("late.attn.v.weight", nn.Parameter(torch.zeros(4, 4)))]})
    assert optimizer.routing()[-1].role == "v"

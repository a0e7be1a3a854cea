"""The same rules from other packages, with the same hyperparameters, for whoever has them installed.

Muon's peers get the hidden matrices, as our Muon does, and torch's fused AdamW moves the rest.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import MissingExtra

Make = Callable[[Sequence[Tensor], dict[str, Any]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Peer:
    """``make`` builds it from weights and our rule's hyperparameters; ``matrices``: for hidden matrices only."""

    name: str
    package: str
    make: Make
    matrices: bool = False


def present(peer: Peer) -> bool:
    return importlib.util.find_spec(peer.package) is not None


def absent(peer: Peer) -> MissingExtra:
    return MissingExtra.of(f"the peer {peer.name}", peer.package, "bench")


def _adam(h: dict[str, Any]) -> dict[str, Any]:
    return {"lr": h["lr"], "betas": tuple(h["betas"]), "eps": h["eps"], "weight_decay": h["weight_decay"]}


def fused(params: Sequence[Tensor], h: dict[str, Any]) -> torch.optim.Optimizer:
    """torch's own AdamW kernels written by hand: what every figure can be held against."""
    return torch.optim.AdamW(params, **_adam(h), fused=True)


def _soap(h: dict[str, Any]) -> dict[str, Any]:
    beta = h["betas"][1] if h["shampoo_beta"] is None else h["shampoo_beta"]
    same = ("precondition_frequency", "precondition_1d")
    return {**_adam(h), "shampoo_beta": beta, **{name: h[name] for name in same}, "merge_dims": False}


def _heavyball_soap(params: Sequence[Tensor], h: dict[str, Any]) -> torch.optim.Optimizer:
    return importlib.import_module("heavyball").SOAP(params, **_soap(h), max_precond_dim=h["max_precond_dim"])


def _momentum(h: dict[str, Any]) -> dict[str, Any]:
    return {name: h[name] for name in MOMENTUM}


def _heavyball_muon(params: Sequence[Tensor], h: dict[str, Any]) -> torch.optim.Optimizer:
    options = {"lr": h["lr"], "betas": (h["momentum"], 0.99), "weight_decay": h["weight_decay"]}
    return importlib.import_module("heavyball").Muon(params, **options, nesterov=h["nesterov"])


def _collection_soap(params: Sequence[Tensor], h: dict[str, Any]) -> torch.optim.Optimizer:
    kind = importlib.import_module("pytorch_optimizer").SOAP
    return kind(params, **_soap(h), max_precondition_dim=h["max_precond_dim"], correct_bias=h["correct_bias"])


def _collection_muon(params: Sequence[Tensor], h: dict[str, Any]) -> torch.optim.Optimizer:
    kind = importlib.import_module("pytorch_optimizer").Muon
    return kind([{"params": list(params), "use_muon": True}], **{name: h[name] for name in MUON})


def _kron(h: dict[str, Any], probability: str) -> dict[str, Any]:
    same = ("lr", "weight_decay", "max_size_triangular", "min_ndim_triangular", "memory_save_mode")
    given = {} if h["update_probability"] is None else {probability: h["update_probability"]}
    return {**{name: h[name] for name in same}, **given}


def _heavyball_kron(params: Sequence[Tensor], h: dict[str, Any]) -> torch.optim.Optimizer:
    options = _kron(h, "preconditioner_update_probability") | {"precond_lr": h["precond_lr"]}
    return importlib.import_module("heavyball").PSGDKron(params, beta=h["momentum"], **options)


def _collection_kron(params: Sequence[Tensor], h: dict[str, Any]) -> torch.optim.Optimizer:
    options = _kron(h, "pre_conditioner_update_probability") | {"momentum": h["momentum"]}
    return importlib.import_module("pytorch_optimizer").Kron(params, **options)


def _timm_kron(params: Sequence[Tensor], h: dict[str, Any]) -> torch.optim.Optimizer:
    options = _kron(h, "preconditioner_update_probability") | {
        name: h[name] for name in ("momentum", "precond_lr")
    }
    made: torch.optim.Optimizer = timm_module("timm.optim.kron").Kron(params, **options, decoupled_decay=True)
    return made


def timm_module(name: str) -> Any:
    """A module of timm's optimizers alone: importing timm itself takes its image models and torchvision along."""
    before = {key: module for key, module in sys.modules.items() if key.split(".")[0] == "timm"}
    if before:
        return importlib.import_module(name)
    spec = importlib.util.find_spec("timm")
    assert spec is not None and spec.submodule_search_locations is not None
    for package in ("timm", "timm.optim"):
        bare = types.ModuleType(package)
        inner = package.split(".")[1:]
        bare.__path__ = ["/".join((place, *inner)) for place in spec.submodule_search_locations]
        sys.modules[package] = bare
    try:
        return importlib.import_module(name)
    finally:
        for key in [key for key in sys.modules if key.split(".")[0] == "timm"]:
            del sys.modules[key]


def _of(package: str, kind: str, *options: str) -> Make:
    """A class that takes our names for these hyperparameters."""

    def make(params: Sequence[Tensor], h: dict[str, Any]) -> torch.optim.Optimizer:
        module = timm_module(package) if package.startswith("timm") else importlib.import_module(package)
        made: torch.optim.Optimizer = getattr(module, kind)(params, **{name: h[name] for name in options})
        return made

    return make


def _eight_bit(package: str, module: str, kind: str) -> Peer:
    """Another package's AdamW with state of 8 bits, for weights on which it runs."""
    make: Make = lambda params, h: getattr(importlib.import_module(module), kind)(params, **_adam(h))  # noqa: E731
    return Peer(f"{package} {kind}", package, make)


LION = ("lr", "betas", "weight_decay")
MOMENTUM = ("lr", "momentum", "weight_decay")
MUON = (*MOMENTUM, "nesterov", "ns_steps")
PEERS: dict[str, tuple[Peer, ...]] = {
    "adamw": (
        Peer("torch AdamW foreach", "torch", lambda p, h: torch.optim.AdamW(p, **_adam(h), foreach=True)),
        Peer(
            "heavyball AdamW", "heavyball", lambda p, h: importlib.import_module("heavyball").AdamW(p, **_adam(h))
        ),
    ),
    "sgd": (Peer("torch SGD fused", "torch", lambda p, h: torch.optim.SGD(p, **_momentum(h), fused=True)),),
    "lion": (
        Peer("pytorch_optimizer Lion", "pytorch_optimizer", _of("pytorch_optimizer", "Lion", *LION)),
        Peer("timm Lion", "timm", _of("timm.optim.lion", "Lion", *LION)),
    ),
    "signum": (
        Peer("pytorch_optimizer SignSGD", "pytorch_optimizer", _of("pytorch_optimizer", "SignSGD", *MOMENTUM)),
    ),
    "muon": (
        Peer("torch Muon", "torch", _of("torch.optim", "Muon", *MUON), matrices=True),
        Peer("pytorch_optimizer Muon", "pytorch_optimizer", _collection_muon, matrices=True),
        Peer("heavyball Muon", "heavyball", _heavyball_muon, matrices=True),
        Peer("timm Muon", "timm", _of("timm.optim.muon", "Muon", *MUON), matrices=True),
    ),
    "soap": (
        Peer("pytorch_optimizer SOAP", "pytorch_optimizer", _collection_soap),
        Peer("heavyball SOAP", "heavyball", _heavyball_soap),
    ),
    "kron": (
        Peer("pytorch_optimizer Kron", "pytorch_optimizer", _collection_kron),
        Peer("heavyball PSGDKron", "heavyball", _heavyball_kron),
        Peer("timm Kron", "timm", _timm_kron),
    ),
}
"""By rule; torch's fused AdamW is not among them, since it is measured always."""
LOW_BIT: dict[str, tuple[Peer, ...]] = {
    "adamw": (
        _eight_bit("bitsandbytes", "bitsandbytes.optim", "AdamW8bit"),
        _eight_bit("torchao", "torchao.optim", "AdamW8bit"),
    ),
}
"""By rule, of those with state of 8 bits."""

"""The named weight shapes of a model, from wherever a user has them: a preset, a checkpoint, a line of text."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steepest.core.errors import BadInput, CorruptFile, UnknownName
from steepest.lab.model import Decoder
from steepest.lab.presets import MODELS, preset

TEXT = re.compile(r"(?P<shape>\d+(x\d+)*)(:(?P<count>\d+))?")
"""``768x3072:24``: twenty-four weights of that shape."""
WEIGHTS = "weights.{}"
"""Name of a weight that was given by its shape alone; it tells routing nothing, so a matrix counts as hidden."""
BUFFERS = re.compile(r"(^|\.)(masked_bias|inv_freq|running_(mean|var)|num_batches_tracked|rotary_emb\..+)$")
"""Tensors of a checkpoint that no optimizer moves, by the end of their names."""
MASK = re.compile(r"attn\.bias$")
"""GPT-2's causal mask, 1 x 1 x positions x positions, has the name of a bias."""
INNER = ("model", "state_dict", "model_state_dict", "module")
"""Keys under which training code puts the model's weights into a larger checkpoint."""
WRAPPERS = re.compile(r"^(_orig_mod\.|module\.)+")
FILES = (".safetensors", ".pt", ".pth", ".bin", ".json")
HEADER_LIMIT = 100_000_000
"""Bytes; the format's own limit for the header of a safetensors file."""


@dataclass(frozen=True)
class Shapes:
    """Names and shapes of a model's weights in the model's order, what they were read from, and the width of an
    attention head where that tells it."""

    source: str
    named: tuple[tuple[str, tuple[int, ...]], ...]
    head_dim: int | None = None

    @property
    def weights(self) -> int:
        return sum(math.prod(shape) for _, shape in self.named)

    def allocated(self, device: torch.device | str, dtype: torch.dtype) -> list[tuple[str, nn.Parameter]]:
        """Weights of this shape with gradients, both random; on the meta device without memory."""
        draw = None if str(device) == "meta" else torch.Generator(device).manual_seed(0)
        made = []
        for name, shape in self.named:
            weight, grad = (
                torch.empty(shape, device=device, dtype=dtype).normal_(0, size, generator=draw)
                for size in (0.02, 0.01)
            )
            parameter = nn.Parameter(weight)
            parameter.grad = grad
            made.append((name, parameter))
        return made


def shapes_of(source: str) -> Shapes:
    """The shapes that a user names.

    ``gpt2`` (124M, names and layout of transformers); a preset of ``steepest race``; a file of safetensors or a
    state dictionary that ``torch.save`` wrote; a folder with such files; or text such as ``768x3072:24,768:50``.

    Raises: UnknownName; BadInput, CorruptFile for a file that holds no weights.
    """
    path, head_dim = Path(source), None
    if path.exists() or source.endswith(FILES) or "/" in source:
        named = checkpoint(path)
    elif source == "gpt2":
        named = gpt2()
    elif source in MODELS:
        named = shapes_in(Decoder(preset(source), device="meta").named_parameters())
        head_dim = preset(source).head_dim
    elif all(TEXT.fullmatch(word) for word in source.split(",")):
        named = text(source)
    else:
        raise UnknownName.among(
            "model", source, [*MODELS, "gpt2"], "(or a checkpoint file, or shapes such as 768x3072:24,768:50)"
        )
    if not named:
        raise BadInput(f"{source} holds no weights: give a model's checkpoint, a preset, or shapes")
    return Shapes(source, tuple(named), head_dim)


Named = list[tuple[str, tuple[int, ...]]]


def gpt2(layers: int = 12, width: int = 768, vocab: int = 50257, positions: int = 1024) -> Named:
    """GPT-2 (Radford et al., 2019) as transformers names and stores it: 148 tensors, 124,439,808 weights."""
    block: Named = [
        ("ln_1.weight", (width,)),
        ("ln_1.bias", (width,)),
        ("attn.c_attn.weight", (width, 3 * width)),
        ("attn.c_attn.bias", (3 * width,)),
        ("attn.c_proj.weight", (width, width)),
        ("attn.c_proj.bias", (width,)),
        ("ln_2.weight", (width,)),
        ("ln_2.bias", (width,)),
        ("mlp.c_fc.weight", (width, 4 * width)),
        ("mlp.c_fc.bias", (4 * width,)),
        ("mlp.c_proj.weight", (4 * width, width)),
        ("mlp.c_proj.bias", (width,)),
    ]
    named: Named = [("transformer.wte.weight", (vocab, width)), ("transformer.wpe.weight", (positions, width))]
    named += [(f"transformer.h.{layer}.{name}", shape) for layer in range(layers) for name, shape in block]
    return [*named, ("transformer.ln_f.weight", (width,)), ("transformer.ln_f.bias", (width,))]


def text(written: str) -> Named:
    """``768x3072:24,768:50`` as twenty-four matrices and fifty vectors."""
    shapes: list[tuple[int, ...]] = []
    for word in written.split(","):
        found = TEXT.fullmatch(word)
        assert found is not None
        shape, count = tuple(map(int, found["shape"].split("x"))), int(found["count"] or 1)
        if not math.prod(shape) or not count:
            raise BadInput(f"shape {word!r} has no weights: write ROWSxCOLUMNS:COUNT, such as 768x3072:24")
        shapes += [shape] * count
    return [(WEIGHTS.format(index), shape) for index, shape in enumerate(shapes)]


def checkpoint(path: Path) -> Named:
    """Names and shapes in a file or folder; weights are not read where the format allows it."""
    if not path.exists():
        raise BadInput(f"no file {path}: give a checkpoint (.safetensors, .pt), a preset, gpt2, or shapes")
    if path.is_dir():
        indices = sorted(path.glob("*.safetensors.index.json")) + sorted(path.glob("*.bin.index.json"))
        files = indices[:1] or sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
        files = files or sorted(path.glob("*.pt"))[:1]
        if not files:
            raise BadInput(f"folder {path} has no *.safetensors, pytorch_model*.bin or *.pt: name the file itself")
        return [row for file in files for row in checkpoint(file)]
    if path.name.endswith(".json"):
        return [row for file in _indexed(path) for row in checkpoint(file)]
    return _safetensors(path) if path.suffix == ".safetensors" else _state_dict(path)


def _indexed(path: Path) -> list[Path]:
    """The shards that an index of transformers names."""
    try:
        shards = dict.fromkeys(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CorruptFile(f"{path} is no index with a weight_map: name the safetensors file itself") from error
    return [path.parent / str(shard) for shard in shards]


def _safetensors(path: Path) -> Named:
    """The header: eight bytes of length, then JSON; the numbers behind it are left alone."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > HEADER_LIMIT:
                raise ValueError
            written = file.read(length)
        if len(written) < length:
            raise ValueError
        header = json.loads(written)
        header.pop("__metadata__", None)
        floats = {name: entry for name, entry in header.items() if entry["dtype"].startswith(("F", "BF"))}
        shapes = [(name, tuple(map(int, entry["shape"]))) for name, entry in floats.items()]
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged header may be anything at all
        raise CorruptFile(f"{path} is no safetensors file, or a truncated one: copy it again") from error
    return _weights(shapes)


def _state_dict(path: Path) -> Named:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error
    except Exception:  # not zipped, so not to be mapped; or damaged, which may raise anything at all
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CorruptFile(
                f"{path} is no state dictionary that torch.load(weights_only=True) reads: save model.state_dict()"
            ) from error
    for _ in INNER:  # {"model": {"module": {...}}} and the like
        inner = next((content[key] for key in INNER if isinstance(_get(content, key), Mapping)), None)
        content = content if inner is None else inner
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise BadInput(f"{path} holds no state dictionary: save model.state_dict(), alone or under 'model'")
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    owned: dict[tuple[Any, ...], str] = {}
    for name, value in tensors.items():  # a tied weight is moved once
        owned.setdefault((value.untyped_storage().data_ptr(), value.storage_offset(), *value.shape), str(name))
    return _weights(shapes_in((name, tensors[name]) for name in owned.values()))


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, Mapping) else None


def shapes_in(named: Iterable[tuple[str, Tensor]]) -> Named:
    """Name and shape of the tensors that are of floating point."""
    return [(name, tuple(tensor.shape)) for name, tensor in named if tensor.is_floating_point()]


def _weights(named: Named) -> Named:
    """Without buffers and empty tensors, and without the words that wrappers put before every name."""
    return [
        (WRAPPERS.sub("", name), shape)
        for name, shape in named
        if math.prod(shape) and not BUFFERS.search(name) and not (MASK.search(name) and len(shape) == 4)
    ]

"""What this machine offers: torch, compiler, devices, engines usable, extras installed."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
from typing import Any

SUMMARY = "torch, compiler, devices, engines usable here"

EXTRAS = {
    "lab": ("tokenizers", "datasets", "scipy", "rich", "jinja2"),
    "mirrors": ("tensorboard", "wandb"),
    "bench": ("heavyball", "pytorch_optimizer", "timm"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from steepest.cli.table import table

    told = gathered()
    if args.json:
        print(json.dumps(told, indent=1))
        return 0
    rows = [(k, v) for k, v in told.items() if not isinstance(v, dict)]
    rows += [(f"engine {name}", state) for name, state in told["engines"].items()]
    rows += [(f"extra [{name}]", state) for name, state in told["extras"].items()]
    print(table(("", "here"), rows))
    return 0


def gathered() -> dict[str, Any]:
    """Versions, devices, and what can run, JSON-able."""
    import numpy
    import torch

    from steepest import __version__
    from steepest.engines import ENGINES, why_not_compiled
    from steepest.engines.native import why_not_native
    from steepest.linalg.newton_schulz import fast_dtype

    missing = why_not_compiled()
    devices = ["cpu"] + [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    large = torch.empty(1024, 1024, device="cuda" if torch.cuda.is_available() else "cpu")
    engines = {name: f"no: {missing}" if name == "compiled" and missing else "yes" for name in ENGINES}
    slow = why_not_native()
    engines["auto"] = f"batched: {slow}" if slow else "native kernels for element rules, batched for others"
    extras = {}
    for extra, packages in EXTRAS.items():
        absent = [p for p in packages if importlib.util.find_spec(p) is None]
        extras[extra] = f"lacks {', '.join(absent)}: pip install 'steepest[{extra}]'" if absent else "installed"
    return {
        "steepest": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "devices": ", ".join(devices),
        "compiler": missing or "found",
        "newton_schulz": f"{str(fast_dtype(large)).removeprefix('torch.')} for large matrices",
        "engines": engines,
        "extras": extras,
    }

"""What a measurement was made on, for the head of every file of results."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from steepest.lab.cluster.local import cores

PACKAGES = ("numpy", "heavyball", "pytorch_optimizer", "timm", "triton")


def described(device: torch.device | str = "cpu") -> dict[str, Any]:
    """{"hardware", "versions"}: processor, cores, vector and matrix units, load, GPU; packages that count."""
    device = torch.device(device)
    hardware: dict[str, Any] = {
        "processor": processor(),
        "cores": cores(),
        "memory_gib": round(_meminfo("MemTotal") / 2**30, 1),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_tiles": torch.cpu._is_amx_tile_supported(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        hardware["gpu"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"hardware": hardware, "versions": versions}


def processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def free_memory(device: torch.device) -> float:
    """Bytes that can still be allocated on the device; infinite where the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return _meminfo("MemAvailable")


def _meminfo(key: str) -> float:
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    told = next((line.split()[1] for line in lines if line.startswith(key + ":")), None)
    return float("inf") if told is None else 1024 * float(told)

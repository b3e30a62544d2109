"""Devices: what their makers promise, how much of it a model gets, and what a step costs besides.

A device is built in, or a JSON file with these fields, which `presize calibrate` writes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from presize.errors import ConfigError
from presize.whole_file import replace_file

_BOUNDS: dict[str, tuple[float, float]] = {
    "memory_bytes": (1e6, 1e15),
    "bandwidth": (1e6, 1e16),
    "flops": (1e6, 1e19),
    "link_bandwidth": (1e3, 1e16),
    "host_bandwidth": (1e3, 1e16),
    "bytes_per_value": (0.1, 8),
    "weight_efficiency": (1e-4, 1.5),
    "kv_efficiency": (1e-4, 1.5),
    "compute_efficiency": (1e-4, 1.5),
    "prefill_attention_efficiency": (1e-4, 1.5),
    "step_s": (0, 10),
    "sequence_s": (0, 1),
    "hop_s": (0, 1),
}


@dataclass(frozen=True, kw_only=True)
class Device:
    """Bytes, bytes/s, operations/s, seconds; ``flops`` is the dense peak of the type of the values.

    Free factors, which `presize calibrate` fits: weight_efficiency and kv_efficiency, of the bandwidth;
    compute_efficiency and prefill_attention_efficiency, of the operations; step_s and sequence_s, what a step and each
    sequence in it take besides (launching kernels, sampling, the scheduler). hop_s: latency of one exchange between
    devices.
    """

    name: str
    source: str
    memory_bytes: float
    bandwidth: float
    flops: float
    link_bandwidth: float  # to another device of the group, one direction
    host_bandwidth: float  # to the host's memory, one direction
    bytes_per_value: float = 2.0
    # Assumed where nothing was measured. A GPU reads weights at about 0.8 of its bandwidth, scattered keys and values
    # at 0.6 (Nsight on an H100: 0.78 and 0.57, mikamirai.com/blog/gpu-memory-bandwidth); matrix products of a few
    # hundred rows and more get 0.6 of the peak, and attention over a prompt a third.
    weight_efficiency: float = 0.8
    kv_efficiency: float = 0.6
    compute_efficiency: float = 0.6
    prefill_attention_efficiency: float = 0.35
    step_s: float = 1.5e-3
    sequence_s: float = 5e-6
    hop_s: float = 1e-5

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise ConfigError(
                    f"device {self.name}: {name} is {value!r}; it must be a number in [{low:g}, {high:g}]"
                )


DEVICES: dict[str, Device] = {
    device.name.lower(): device
    for device in (
        Device(
            name="A100-40G",
            source="NVIDIA A100 Tensor Core GPU datasheet, SXM 40 GB: 1,555 GB/s; the rest as of 80 GB",
            memory_bytes=40e9, bandwidth=1.555e12, flops=312e12, link_bandwidth=300e9, host_bandwidth=32e9,
        ),
        Device(
            name="A100-80G",
            source="NVIDIA A100 Tensor Core GPU datasheet, SXM 80 GB: 2,039 GB/s, 312 TFLOPS bfloat16 dense, NVLink "
            "600 GB/s in both directions, PCIe 4.0 x16 64 GB/s in both",
            memory_bytes=80e9, bandwidth=2.039e12, flops=312e12, link_bandwidth=300e9, host_bandwidth=32e9,
        ),
        Device(
            name="H100",
            source="NVIDIA H100 Tensor Core GPU datasheet, SXM5 80 GB: 3.35 TB/s, 989.4 TFLOPS bfloat16 dense, NVLink "
            "900 GB/s in both directions, PCIe 5.0 x16 128 GB/s in both",
            memory_bytes=80e9, bandwidth=3.35e12, flops=989.4e12, link_bandwidth=450e9, host_bandwidth=64e9,
        ),
        Device(
            name="H200",
            source="NVIDIA H200 Tensor Core GPU datasheet, SXM: 141 GB, 4.8 TB/s; the rest as of the H100",
            memory_bytes=141e9, bandwidth=4.8e12, flops=989.4e12, link_bandwidth=450e9, host_bandwidth=64e9,
        ),
        Device(
            name="L4",
            source="NVIDIA L4 Tensor Core GPU datasheet: 24 GB, 300 GB/s, 121 TFLOPS bfloat16 dense, PCIe 4.0 x16 "
            "64 GB/s in both directions; no NVLink",
            memory_bytes=24e9, bandwidth=300e9, flops=121e12, link_bandwidth=32e9, host_bandwidth=32e9,
        ),
        Device(
            name="L40S",
            source="NVIDIA L40S datasheet: 48 GB, 864 GB/s, 362 TFLOPS bfloat16 dense, PCIe 4.0 x16 64 GB/s in both "
            "directions; no NVLink",
            memory_bytes=48e9, bandwidth=864e9, flops=362e12, link_bandwidth=32e9, host_bandwidth=32e9,
        ),
        Device(
            name="cpu-2-cores",
            source="2 cores of an AMD EPYC (Zen 4) in bfloat16, docs/log.md of 2026-11-24: 36 GB/s read, 436 GFLOP/s; "
            "attention at 28 GB/s, products at 0.85 of the peak, prefill attention and overheads assumed",
            memory_bytes=24e9, bandwidth=36e9, flops=436e9, link_bandwidth=1e9, host_bandwidth=36e9,
            weight_efficiency=0.85, kv_efficiency=0.75, compute_efficiency=0.8, prefill_attention_efficiency=0.05,
            step_s=3e-3, sequence_s=1e-4,
        ),
    )
}  # fmt: skip


def device_of(name: str) -> Device:
    """A built-in device, or one from a JSON file; ConfigError if it is neither, or a number is out of its bounds."""
    if (known := DEVICES.get(name.lower())) is not None:
        return known
    path = Path(name)
    if not path.is_file():
        names = ", ".join(device.name for device in DEVICES.values())
        raise ConfigError(
            f"device is {name!r}; it must be one of {names}, or a JSON file that `presize calibrate` wrote"
        )
    try:
        values = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ConfigError(f"device {path} can not be read: {error}") from error
    fields = {f.name: f for f in dataclasses.fields(Device)}
    if not isinstance(values, dict) or not isinstance(values.get("device"), dict):
        raise ConfigError(f"device {path} has no object `device`; `presize calibrate` writes such a file")
    found: dict[str, Any] = values["device"]
    if unknown := sorted(set(found) - set(fields)):
        raise ConfigError(f"device {path}: unknown field {unknown[0]!r}; known: {', '.join(fields)}")
    missing = [f.name for f in fields.values() if f.default is dataclasses.MISSING and f.name not in found]
    if missing or not all(isinstance(found[name], str) for name in ("name", "source")):
        raise ConfigError(f"device {path}: {', '.join(missing) or 'name and source'} must be given, names as text")
    return Device(**found)


def save_device(path: Path, device: Device, measured: dict[str, Any]) -> None:
    """Write, whole or not at all, what `device_of` reads, and what it was fitted to; ConfigError if that fails."""
    content = orjson.dumps({"device": dataclasses.asdict(device), **measured}, option=orjson.OPT_INDENT_2) + b"\n"
    try:
        replace_file(path, content, mode=0o644)
    except OSError as error:
        raise ConfigError(f"{path} can not be written: {error.strerror or error}") from error

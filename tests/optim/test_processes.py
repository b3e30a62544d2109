"""The optimizer in processes of its own: data parallel, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

_DDP = """
import os, sys, torch
import torch.distributed as dist
from torch import nn
from presize.optim import BlockLowRank
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
torch.manual_seed(rank)  # the global generators differ, as with dropout
ddp = nn.parallel.DistributedDataParallel(net)
optimizer = BlockLowRank(ddp.parameters(), rank=3, update_interval=3)
data = torch.randn(8, 4, 6, generator=torch.Generator().manual_seed(5))
for batch in data:
    optimizer.zero_grad()
    ddp(batch[2 * rank : 2 * rank + 2]).square().mean().backward()
    optimizer.step()
flat = torch.cat([p.detach().flatten() for p in net.parameters()])
both = [torch.zeros_like(flat) for _ in range(2)]
dist.all_gather(both, flat)
assert torch.equal(both[0], both[1])
torch.manual_seed(0)
alone = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
single = BlockLowRank(alone.parameters(), rank=3, update_interval=3)
for batch in data:
    single.zero_grad()
    alone(batch).square().mean().backward()
    single.step()
torch.testing.assert_close(flat, torch.cat([p.detach().flatten() for p in alone.parameters()]), rtol=1e-3, atol=1e-5)
dist.destroy_process_group()
"""


def test_two_data_parallel_processes_stay_together(tmp_path: Any) -> None:
    """And train as one process with both halves of the batch does."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _DDP, str(rank), str(tmp_path / "meet")], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def test_it_needs_torch_alone() -> None:
    code = "import sys, presize.optim; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert loaded & {"transformers", "numba", "matplotlib", "rich", "scipy", "presize.core", "presize.predict"} == set()

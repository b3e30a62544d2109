"""On a GPU, where there is one, the optimizer does what it does on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from presize.optim import BlockLowRank

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def trained(device: str, dtype: torch.dtype, core: str, tail: str, block: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shapes = [(24, 20), (20, 24), (8, 3, 2, 2), (7,)]
    params = [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype).to(device)) for shape in shapes]
    groups = [{"params": params[:2], "block": block, "heads": 4 if block == "head" else 1}, {"params": params[2:]}]
    optimizer = BlockLowRank(groups, lr=0.02, rank=4, core=core, tail=tail, weight_decay=0.1)
    for _ in range(12):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator, dtype=dtype).to(device)
        optimizer.step()
    if device == "cuda":  # what a step reads on the host stays there; all else is where the parameter is
        kinds = {(name, value.device.type) for state in optimizer.state.values() for name, value in state.items()
                 if torch.is_tensor(value)}  # fmt: skip
        assert {device for name, device in kinds if name != "step"} == {"cuda"}
        assert ("step", "cpu") in kinds
    return torch.cat([param.detach().flatten() for param in params]).cpu()


@pytest.mark.parametrize("tail", ["scalar", "diagonal"])
@pytest.mark.parametrize("block", ["row", "column", "head"])
@pytest.mark.parametrize("core", ["diagonal", "full"])
def test_a_gpu_takes_the_steps_of_the_cpu(core: str, block: str, tail: str) -> None:
    on_cpu, on_gpu = (trained(device, torch.float64, core, tail, block) for device in ("cpu", "cuda"))
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-5, atol=1e-6)  # a step is 0.02 long


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("core", ["diagonal", "full"])
def test_recorded_launches_take_the_same_steps(core: str, dtype: torch.dtype, maximize: bool) -> None:
    """While the learning rate, betas, the gradients' places and who has one change; switched off and on again."""

    def trained_with(graph: bool) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        params = [
            nn.Parameter(torch.randn(s, generator=generator).to("cuda", dtype)) for s in [(24, 20), (20, 24), (7,)]
        ]
        groups = [{"params": params[:2]}, {"params": params[2:]}]  # one of them without a matrix
        optimizer = BlockLowRank(groups, lr=0.02, rank=4, core=core, weight_decay=0.1, maximize=maximize, graph=graph)
        for step in range(60):
            for group in optimizer.param_groups:
                group["lr"] = 0.02 / (1 + step)
                group["betas"] = (0.9, 0.95) if step < 20 else (0.8, 0.9)
                group["graph"] = graph and step not in (40, 41)
            before = [param.grad for param in params]  # kept, so that the next ones lie elsewhere
            for number, param in enumerate(params):
                grad = torch.randn(param.shape, generator=generator).to("cuda", dtype)
                param.grad = None if (step, number) in {(40, 0), (45, 1), (45, 2)} else grad
            optimizer.step()
            del before
            if step in (19, 39, 59):
                assert all(plan._replays["move"].recorded == graph for plan in optimizer._plans)
        return torch.cat([param.detach().flatten() for param in params]).float().cpu()

    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-5  # in bfloat16 twice the distance of two numbers
    torch.testing.assert_close(trained_with(True), trained_with(False), rtol=0, atol=tolerance)


def test_a_step_waits_for_the_gpu_once() -> None:
    """To know whether gradients are finite; a second time would be a cost in every step."""
    param = nn.Parameter(torch.randn(64, 64, device="cuda"))
    optimizer = BlockLowRank([param])

    def step() -> None:
        param.grad = torch.ones_like(param)
        optimizer.step()

    step()
    with torch.autograd.profiler.profile() as profile:
        for _ in range(10):
            step()
    waits = [event for event in profile.function_events if event.name == "aten::_local_scalar_dense"]
    assert len(waits) == 10

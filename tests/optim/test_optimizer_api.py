"""What people expect of a torch optimizer: state, groups, closures, shapes, types, refusals, faults."""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from presize.errors import ConfigError, NumericalError
from presize.optim import BlockLowRank, param_groups, plan
from presize.optim.replay import Replay


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)]
    return nn.Sequential(*layers).to(dtype)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 1) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        inputs = torch.randn(16, 6, generator=generator).to(next(net.parameters()).dtype)
        optimizer.zero_grad()
        loss = (net(inputs) - inputs[:, :3].sin()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def weights(net: nn.Module) -> Tensor:
    return torch.cat([param.detach().flatten().float() for param in net.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("options", [{}, {"core": "full"}, {"tail": "diagonal", "grafting": "adam"}])
def test_a_restored_state_goes_on_bit_for_bit(dtype: torch.dtype, options: dict[str, Any]) -> None:
    net = model(dtype)
    optimizer = BlockLowRank(net.parameters(), rank=3, update_interval=4, **options)
    train(net, optimizer, 6)
    saved = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    train(net, optimizer, 5, seed=2)
    saved.seek(0)
    content = torch.load(saved, weights_only=True)
    other = model(dtype)
    other.load_state_dict(content["net"])
    restored = BlockLowRank(other.parameters(), lr=0.5, rank=7, **options)
    restored.load_state_dict(content["optimizer"])
    assert restored.param_groups[0]["rank"] == 3
    train(other, restored, 5, seed=2)
    assert torch.equal(weights(net), weights(other))


def test_a_state_that_is_loaded_is_a_copy() -> None:
    net = model()
    optimizer = BlockLowRank(net.parameters(), rank=3)
    train(net, optimizer, 3)
    kept = optimizer.state_dict()
    before = {k: v.clone() for k, v in kept["state"][0].items() if torch.is_tensor(v)}
    other_net = model()
    other = BlockLowRank(other_net.parameters(), rank=3)
    other.load_state_dict(kept)
    train(other_net, other, 2)
    assert all(torch.equal(kept["state"][0][name], value) for name, value in before.items())


def test_the_state_of_another_model_is_refused_and_nothing_changes() -> None:
    net = nn.Linear(6, 8)
    donor = BlockLowRank(net.parameters(), rank=3)
    net(torch.ones(2, 6)).sum().backward()
    donor.step()
    other = BlockLowRank(nn.Linear(5, 8).parameters(), rank=2)
    with pytest.raises(ConfigError, match=r"shape \(8, 5\).*another model"):
        other.load_state_dict(donor.state_dict())
    assert other.param_groups[0]["rank"] == 2
    assert not other.state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "shape",
    [(), (1,), (5,), (0,), (0, 3), (3, 0), (1, 5), (5, 1), (4, 6), (2, 2), (4, 2, 3), (4, 2, 3, 3), (1, 1, 3, 3)],
)
@pytest.mark.parametrize("options", [{}, {"core": "full"}, {"block": "column", "tail": "diagonal", "grafting": "adam"}])
def test_every_shape_and_type(shape: tuple[int, ...], dtype: torch.dtype, options: dict[str, Any]) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    param = nn.Parameter(start.clone())
    optimizer = BlockLowRank([param], lr=0.05, rank=3, update_interval=2, **options)
    for _ in range(60):
        param.grad = param.detach().clone()
        optimizer.step()
    assert param.shape == start.shape
    assert param.isfinite().all()
    assert param.dtype == dtype
    if param.numel():
        assert param.abs().sum() < 0.5 * start.abs().sum()


@pytest.mark.parametrize("options", [{"block": "row"}, {"block": "column"}, {"tail": "diagonal"}])
def test_strides_do_not_matter(options: dict[str, Any]) -> None:
    """A transposed matrix and a kernel in channels-last order move as their contiguous copies do."""
    torch.manual_seed(0)
    for tensor in (torch.randn(6, 4, dtype=torch.float64).t(), torch.randn(4, 3, 2, 2, dtype=torch.float64)):
        strided = tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        params = [nn.Parameter(strided.clone(memory_format=torch.preserve_format)), nn.Parameter(tensor.contiguous())]
        assert not params[0].is_contiguous()
        for param in params:
            optimizer = BlockLowRank([param], lr=0.1, rank=2, weight_decay=0.1, **options)
            for i in range(8):
                generator = torch.Generator().manual_seed(i)
                param.grad = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                optimizer.step()
        torch.testing.assert_close(params[0].contiguous(), params[1], rtol=1e-9, atol=1e-12)


def test_half_precision_keeps_its_state_in_float32() -> None:
    net = model(torch.bfloat16)
    optimizer = BlockLowRank(net.parameters(), rank=3)
    losses = train(net, optimizer, 200)
    assert losses[-1] < 0.3 * losses[0]
    kinds = {value.dtype for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)}
    assert kinds == {torch.float32}


def test_maximize_goes_the_other_way() -> None:
    ends = []
    for sign in (1.0, -1.0):
        param = nn.Parameter(torch.zeros(4, 5))
        optimizer = BlockLowRank([param], rank=2, maximize=sign < 0)
        for i in range(5):
            param.grad = sign * torch.randn(4, 5, generator=torch.Generator().manual_seed(i))
            optimizer.step()
        ends.append(param.detach())
    assert torch.equal(ends[0], ends[1])


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned() -> None:
    net = model()
    optimizer = BlockLowRank(net.parameters(), rank=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = net(torch.ones(2, 6)).square().sum()
        loss.backward()
        return loss

    first, second = (optimizer.step(closure).item() for _ in range(2))
    assert second < first


def test_groups_have_options_of_their_own() -> None:
    net = model()
    linears = [module for module in net if isinstance(module, nn.Linear)]
    optimizer = BlockLowRank([{"params": linears[0].parameters(), "lr": 0.0}], rank=3)
    optimizer.add_param_group({"params": linears[1].parameters(), "rank": 1})
    optimizer.add_param_group({"params": linears[2].parameters(), "precondition": False})
    before = linears[0].weight.detach().clone()
    train(net, optimizer, 3)
    assert torch.equal(linears[0].weight, before)
    assert optimizer.state[linears[1].weight]["basis"].shape[-2] == 1
    assert "exp_avg_sq" in optimizer.state[linears[2].weight]
    with pytest.raises(ConfigError, match="rank is -1"):
        optimizer.add_param_group({"params": linears[3].parameters(), "rank": -1})
    assert len(optimizer.param_groups) == 3


def test_embeddings_and_what_is_large_take_adam() -> None:
    net = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 30, bias=False))
    net[2].weight = net[0].weight  # tied: an embedding too
    optimizer = BlockLowRank(param_groups(net), rank=3, max_dim=16)
    net(torch.arange(5)).sum().backward()
    optimizer.step()
    assert "basis" not in optimizer.state[net[0].weight]
    assert "basis" in optimizer.state[net[1].weight]
    small = BlockLowRank(nn.Linear(20, 4).parameters(), max_dim=16)
    (weight, _) = small.param_groups[0]["params"]
    weight.grad = torch.ones_like(weight)
    small.step()
    assert "basis" not in small.state[weight]


def test_schedulers_and_named_parameters_work() -> None:
    net = model()
    optimizer = BlockLowRank(net.named_parameters(), lr=0.01, rank=3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=60)
    losses = []
    for i in range(60):
        losses += train(net, optimizer, 1, seed=i)
        scheduler.step()
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": -1.0}, "lr is -1"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"eps": -1e-8}, "eps"),
        ({"rank": 1.5}, "rank is 1.5; it must be a whole number"),
        ({"update_interval": 0}, "update_interval is 0"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"block": "rows"}, "known: auto, row, column, head"),
        ({"core": "half"}, "known: diagonal, full"),
        ({"tail": "full"}, "known: scalar, diagonal, none"),
        ({"grafting": "sgd"}, "known: none, adam"),
        ({"heads": 2}, "goes with 'head' only"),
        ({"block": "head"}, "goes with 'head' only"),
        ({"block": "head", "heads": 3}, "must divide the 8 rows"),
        ({"rank": 0, "tail": "none"}, "nothing would move"),
        ({"differentiable": True}, "differentiable"),
        ({"maximize": 1}, "maximize is 1"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BlockLowRank(model().parameters(), **options)


def test_complex_parameters_and_sparse_gradients_are_refused() -> None:
    with pytest.raises(ConfigError, match="complex"):
        BlockLowRank([nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64))])
    table = nn.Embedding(10, 4, sparse=True)
    optimizer = BlockLowRank(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ConfigError, match="sparse=False"):
        optimizer.step()


def test_graphs_are_refused_off_a_gpu() -> None:
    param = nn.Parameter(torch.ones(4, 4))
    optimizer = BlockLowRank([param], graph=True)
    param.grad = torch.ones(4, 4)
    with pytest.raises(ConfigError, match=r"graph is True.*cpu"):
        optimizer.step()
    assert (param == 1).all()


def test_gradients_are_let_go_of_after_a_step() -> None:
    """So that they take no memory while the next ones are computed."""
    params = [nn.Parameter(torch.ones(8, 6)), nn.Parameter(torch.ones(6))]
    optimizer = BlockLowRank(params)
    held = []
    for param in params:
        memory = np.ones(tuple(param.shape), dtype=np.float32)
        held.append(weakref.ref(memory))
        param.grad = torch.from_numpy(memory)
        del memory
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    gc.collect()
    assert all(ref() is None for ref in held)


def test_structure_can_not_change_while_training() -> None:
    net = model()
    optimizer = BlockLowRank(net.parameters(), rank=3)
    train(net, optimizer, 1)
    optimizer.param_groups[0]["rank"] = 2
    with pytest.raises(ConfigError, match="can not change"):
        train(net, optimizer, 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["0.weight", "5.bias"])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float, where: str) -> None:
    net = model()
    optimizer = BlockLowRank(net.parameters(), rank=3)
    train(net, optimizer, 2)
    before, state = weights(net), optimizer.state[net[0].weight]["core"].clone()
    dict(net.named_parameters())[where].grad.view(-1)[0] = bad
    with pytest.raises(NumericalError, match="not finite"):
        optimizer.step()
    assert torch.equal(weights(net), before)
    assert torch.equal(optimizer.state[net[0].weight]["core"], state)


def test_failed_decompositions_are_tolerated_so_often_and_then_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model()
    optimizer = BlockLowRank(net.parameters(), rank=3, core="full", update_interval=1, tolerated_failures=2)
    train(net, optimizer, 3)
    eigh, calls = torch.linalg.eigh, 0

    def fail(matrix: Tensor) -> Any:
        nonlocal calls
        calls += 1
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    losses = train(net, optimizer, 2)
    assert calls
    assert all(loss == loss for loss in losses)
    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    train(net, optimizer, 1)  # one that succeeds: counted from nothing again
    monkeypatch.setattr(torch.linalg, "eigh", fail)
    train(net, optimizer, 2)
    with pytest.raises(NumericalError, match=r"failed 3 times in a row, 2 are tolerated: did not converge"):
        train(net, optimizer, 1)
    assert weights(net).isfinite().all()


@pytest.mark.parametrize("core", ["diagonal", "full"])
def test_dead_blocks_that_come_to_life_between_refreshes_do_not_explode(core: str) -> None:
    """A root made when a row had no gradients must not meet the first gradient with 1 / eps."""
    param = nn.Parameter(torch.zeros(6, 8))
    optimizer = BlockLowRank([param], lr=1.0, rank=3, core=core, update_interval=50)
    for i in range(40):
        param.grad = torch.randn(6, 8, generator=torch.Generator().manual_seed(i))
        param.grad[0] = 0.0 if i < 35 else param.grad[0] * 100
        before = param.detach().clone()
        optimizer.step()
        assert (param.detach() - before).abs().max() < 100
    assert param[0].abs().max() > 0


def test_gradients_of_zero_move_nothing() -> None:
    param = nn.Parameter(torch.ones(4, 5))
    optimizer = BlockLowRank([param], rank=2)
    for _ in range(3):
        param.grad = torch.zeros(4, 5)
        optimizer.step()
    assert torch.equal(param.detach(), torch.ones(4, 5))


def test_a_gradient_scaler_skips_what_overflows() -> None:
    net = model()
    optimizer = BlockLowRank(net.parameters(), rank=3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for inputs in (torch.ones(2, 6), torch.full((2, 6), float("inf")), torch.ones(2, 6)):
        before = weights(net)
        optimizer.zero_grad()
        scaler.scale(net(inputs).square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(weights(net), before) == bool(inputs.isinf().any())
    assert scaler.get_scale() == 2.0**9


def test_copies_of_gradients_follow_whoever_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU records launches for, without the recording: gradients come and go, as does ``graph``."""

    class Direct(Replay):
        def __call__(self, function: Callable[[], Any], device: torch.device) -> Any:
            return function()

    monkeypatch.setattr(plan, "Replay", Direct)
    monkeypatch.setattr(plan.Plan, "_dependencies", lambda self: [param.data_ptr() for param in self._members])

    def trained(graph: bool) -> list[Tensor]:
        rng = np.random.default_rng(0)
        generator = torch.Generator().manual_seed(0)
        params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(6, 5), (5, 6), (6, 5), (4,)]]
        optimizer = BlockLowRank(params, lr=0.1, rank=2, weight_decay=0.1)
        for _ in range(40):
            recorded = bool(rng.random() < 0.7)
            optimizer.param_groups[0]["graph"] = graph and recorded
            for param in params:
                grad = torch.randn(param.shape, generator=generator)
                param.grad = grad if rng.random() < 0.8 else None
            optimizer.step()
        return [param.detach() for param in params]

    torch.testing.assert_close(trained(True), trained(False), rtol=0, atol=0)


def test_another_default_device_is_not_asked_for_what_belongs_to_the_host() -> None:
    def stepped(default: str) -> list[Tensor]:
        params = [nn.Parameter(torch.ones(8, 6)), nn.Parameter(torch.ones(6))]
        optimizer = BlockLowRank(params, lr=0.1, rank=2)
        for param in params:
            param.grad = torch.arange(1.0, param.numel() + 1).view(param.shape)
        with torch.device(default):
            optimizer.step()
        return [param.detach() for param in params]

    torch.testing.assert_close(stepped("meta"), stepped("cpu"), rtol=0, atol=0)

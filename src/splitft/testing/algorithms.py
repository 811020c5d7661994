"""The contracts of server optimizers, client objectives and client optimizers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splitft.job.algorithms import ObjectiveSettings, ServerOptimizerSettings
from splitft.job.settings import OptimizerSettings
from splitft.lora.client_optimizer import (
    OPTIMIZERS,
    MakeOptimizer,
    make_optimizer,
    restore_state,
    state_of,
    take_step,
)
from splitft.lora.objective import OBJECTIVES, ObjectiveGradient, Penalty
from splitft.lora.server_optimizer import (
    SERVER_OPTIMIZERS,
    MakeServerOptimizer,
    ServerState,
    make_server_optimizer,
    resize_state,
)
from splitft.testing.contract import contract, require

_NAME = "piece under test"


def check_server_optimizer(make: MakeServerOptimizer) -> None:
    """Check a server optimizer as it is registered: names, shapes and values over several rounds.

    Its state must go along with a block that changes its rank; a step that is repeated must be the same.
    """
    SERVER_OPTIMIZERS.register(_NAME, make)
    with contract():
        optimizer = make_server_optimizer(ServerOptimizerSettings(server_optimizer=_NAME))
        assert optimizer is not None
        state: ServerState = {}
        for round_, rank in enumerate((4, 4, 2, 4)):
            state = resize_state(state, rank, optimizer.squares)
            old, average = _block(rank, round_), _block(rank, round_ + 1)
            new, kept = optimizer.step(old, average, state)
            again, _ = optimizer.step(old, average, state)
            same = all(torch.equal(new[name], again[name]) for name in new)
            require(same, "a step that is repeated has another result: keep everything in the state")
            state = kept


def check_objective(penalty: Penalty) -> None:
    """Check an objective as it is registered: a finite scalar, with finite gradients also at the start."""
    OBJECTIVES.register(_NAME, penalty)
    start = _block(3, 0)
    for moved in (0.0, 0.1):
        values = {name: nn.Parameter(tensor + moved) for name, tensor in start.items()}
        with contract():
            ObjectiveGradient(ObjectiveSettings(objective=_NAME)).add(values, start)


def check_optimizer(make: MakeOptimizer) -> None:
    """Check an optimizer as it is registered: it steps, and goes on from a checkpoint to the same bits."""
    OPTIMIZERS.register(_NAME, make)
    settings = OptimizerSettings(optim=_NAME)
    block, resumed = _parameters(_block(3, 0)), _parameters(_block(3, 0))
    with contract():
        own, other = (_made(settings, one) for one in (block, resumed))
        for step in range(4):
            if step == 2:
                restore_state(other, resumed, state_of(_NAME, own, block))
                for name, parameter in resumed.items():
                    parameter.data.copy_(block[name].data)
            for one, optimizer in ((block, own), (resumed, other)):
                if one is resumed and step < 2:
                    continue
                for name, gradient in _block(3, step + 1).items():
                    one[name].grad = gradient
                take_step(settings, optimizer)
    for name, parameter in block.items():
        require(bool(parameter.isfinite().all()), f"{name} is infinite or not a number after four steps")
        require(torch.equal(parameter, resumed[name]), f"{name} differs after a resume: keep all in `state`")


def _made(settings: OptimizerSettings, block: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    return make_optimizer(settings, [{"params": list(block.values()), "rate": 0}])


def _parameters(block: dict[str, Tensor]) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(tensor) for name, tensor in block.items()}


def _block(rank: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "self_attn.q_proj.lora_A.weight": torch.randn(rank, 8, generator=generator),
        "self_attn.q_proj.lora_B.weight": torch.randn(6, rank, generator=generator),
    }

"""Controls of what goes wrong, of what is shown, and of callbacks. No authentication: for development only."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from simulator.calls import StateDep
from simulator.chaos import Chaos
from simulator.deliveries import Delivery
from simulator.fault_choice import FaultShare
from simulator.showing import Showing

router = APIRouter(prefix="/_simulator", tags=["control"])


class DeliveriesPage(BaseModel):
    begun: int = Field(description="All deliveries since the start or the last reset, whatever the filters.")
    forgotten: int = Field(description="Deliveries no longer kept.")
    waiting: int = Field(description="Calls with callbacks that have not ended, or whose end is still to be told.")
    sending: int = Field(description="Deliveries under way. Nothing more will come when this and `waiting` are 0.")
    chaos: Chaos
    deliveries: list[Delivery]


@router.get("/faults", summary="Which share of the creations goes wrong")
async def read_faults(state: StateDep) -> FaultShare:
    return state.faults.share


@router.put("/faults", summary="Let a share of the creations go wrong")
async def set_faults(share: FaultShare, state: StateDep) -> FaultShare:
    """From the next creation on."""
    state.faults.share = share
    return share


@router.get("/showing", summary="How calls are shown")
async def read_showing(state: StateDep) -> Showing:
    return state.showing


@router.put("/showing", summary="Show calls otherwise than they were asked for")
async def set_showing(showing: Showing, state: StateDep) -> Showing:
    """All calls, from now on. What is left out is shown as usual."""
    state.showing = showing
    return showing


@router.get("/callbacks", summary="Which callbacks were sent, and what they were answered")
async def read_callbacks(
    state: StateDep,
    call_sid: str | None = None,
    after: Annotated[int, Query(ge=0, description="Only deliveries with a higher number.")] = 0,
) -> DeliveriesPage:
    """In order of sending."""
    callbacks = state.callbacks
    return DeliveriesPage(
        begun=callbacks.deliveries.begun,
        forgotten=callbacks.deliveries.forgotten,
        waiting=callbacks.waiting,
        sending=callbacks.sending,
        chaos=callbacks.chaos,
        deliveries=[
            delivery
            for delivery in callbacks.deliveries
            if delivery.number > after and (call_sid is None or delivery.call_sid == call_sid)
        ],
    )


@router.put("/callbacks", summary="Let callbacks go wrong")
async def set_chaos(chaos: Chaos, state: StateDep) -> Chaos:
    """For callbacks whose turn comes from now on."""
    state.callbacks.chaos = chaos
    return chaos


@router.post("/callbacks/run", status_code=204, summary="Send the callbacks that are due")
async def send_due_callbacks(state: StateDep) -> None:
    """For tests with a clock of their own, where nothing is sent by itself. Answers when all were answered or have failed."""
    await state.callbacks.send_due()

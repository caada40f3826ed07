"""Control routes for faults, for how calls are shown and listed, and for callbacks.

They have no authentication, so they are for development only.
"""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from simulator.callback_faults import CallbackFaultSettings
from simulator.calls import StateDep
from simulator.deliveries import Delivery
from simulator.display_rules import DisplayRules
from simulator.fault_choice import RandomFaultSettings
from simulator.list_faults import ListFaultInjector, ListFaults

router = APIRouter(prefix="/_simulator", tags=["control"])


class DeliveriesPage(BaseModel):
    begun: int = Field(description="All deliveries since the start or the last reset, whatever the filters.")
    forgotten: int = Field(description="Deliveries that were dropped. If it is not 0, `deliveries` is incomplete.")
    waiting: int = Field(description="Calls with callbacks that have not ended, or have callbacks left to send.")
    sending: int = Field(description="Deliveries in progress. All callbacks were sent when this and `waiting` are 0.")
    chaos: CallbackFaultSettings
    deliveries: list[Delivery]


@router.get("/faults", summary="Get the share of creations with a random fault")
async def read_random_faults(state: StateDep) -> RandomFaultSettings:
    return state.faults.random_faults


@router.put("/faults", summary="Set the share of creations with a random fault")
async def set_random_faults(settings: RandomFaultSettings, state: StateDep) -> RandomFaultSettings:
    """Sets which share of creations gets a random fault, and which faults. Applies from the next creation on."""
    state.faults.random_faults = settings
    return settings


@router.get("/showing", summary="Get how calls are shown")
async def read_display_rules(state: StateDep) -> DisplayRules:
    return state.display_rules


@router.put("/showing", summary="Set how calls are shown")
async def set_display_rules(rules: DisplayRules, state: StateDep) -> DisplayRules:
    """Sets how all calls are shown from now on. Omitted members get their defaults."""
    state.display_rules = rules
    return rules


@router.get("/listing", summary="Get the faults of lists")
async def read_list_faults(state: StateDep) -> ListFaults:
    return state.list_faults.faults


@router.put("/listing", summary="Set the faults of lists")
async def set_list_faults(faults: ListFaults, state: StateDep) -> ListFaults:
    """Sets the faults of every later answer to a request that lists calls. Omitted members get their defaults."""
    state.list_faults = ListFaultInjector(faults)
    return faults


@router.get("/callbacks", summary="List the callbacks that were sent, and their answers")
async def read_callbacks(
    state: StateDep,
    call_sid: str | None = None,
    after: Annotated[int, Query(ge=0, description="Only deliveries with a higher number.")] = 0,
) -> DeliveriesPage:
    """Lists the callbacks that were sent, with their attempts, oldest first."""
    callbacks = state.callbacks
    return DeliveriesPage(
        begun=callbacks.deliveries.begun_count,
        forgotten=callbacks.deliveries.dropped_count,
        waiting=callbacks.waiting_call_count,
        sending=callbacks.unfinished_callback_count,
        chaos=callbacks.fault_settings,
        deliveries=[
            delivery
            for delivery in callbacks.deliveries.deliveries_after(after)
            if call_sid is None or delivery.call_sid == call_sid
        ],
    )


@router.put("/callbacks", summary="Set the faults of callbacks")
async def set_callback_faults(settings: CallbackFaultSettings, state: StateDep) -> CallbackFaultSettings:
    """Sets the faults of callbacks that become due from now on."""
    state.callbacks.fault_settings = settings
    return settings


@router.post("/callbacks/run", status_code=204, summary="Send the callbacks that are due")
async def send_due_callbacks(state: StateDep) -> None:
    """Sends the callbacks that are due. Answers when each of them was answered or has failed.

    If the simulator uses a test's clock, only this route sends callbacks.
    """
    await state.callbacks.send_all_due_callbacks()

"""Everything the simulator knows, in memory: accounts, calls and the ledger."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from random import Random

from simulator.accounts import Accounts
from simulator.config import SimulatorConfig
from simulator.ledger import Ledger
from simulator.lifecycle import Plan, plan_call
from simulator.parameters import CallParameters


@dataclass(slots=True)
class Call:
    sid: str
    account_sid: str
    sequence: int
    """Order of creation, over all accounts."""
    parameters: CallParameters
    plan: Plan
    deleted: bool = False


class Calls:
    """In order of creation. A deleted call keeps its place, so that a page token made of it still works."""

    def __init__(self, max_calls: int) -> None:
        self._calls: OrderedDict[str, Call] = OrderedDict()
        self._max_calls = max_calls

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Call) -> None:
        self._calls[call.sid] = call
        if len(self._calls) > self._max_calls:
            self._calls.popitem(last=False)

    def get(self, account_sid: str, sid: str) -> Call | None:
        call = self._calls.get(sid)
        return call if call is not None and call.account_sid == account_sid else None

    def newest_first(self, account_sid: str) -> Iterator[Call]:
        return (call for call in reversed(self._calls.values()) if self._is_listed(call, account_sid))

    def oldest_first(self, account_sid: str) -> Iterator[Call]:
        return (call for call in self._calls.values() if self._is_listed(call, account_sid))

    def clear(self) -> None:
        self._calls.clear()

    def _is_listed(self, call: Call, account_sid: str) -> bool:
        return call.account_sid == account_sid and not call.deleted


class State:
    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.accounts = Accounts(config.accounts, open_mode=config.open_mode)
        self.calls = Calls(config.max_calls)
        self.ledger = Ledger(config.max_calls)
        self._random = Random(config.seed)  # noqa: S311 - sids must repeat by seed; nothing here is secret
        self._created = 0

    def now(self) -> datetime:
        return self.config.clock()

    def create_call(self, account_sid: str, parameters: CallParameters, now: datetime) -> Call:
        self._created += 1
        call = Call(
            sid=f"CA{self._random.getrandbits(128):032x}",
            account_sid=account_sid,
            sequence=self._created,
            parameters=parameters,
            plan=plan_call(
                parameters.to,
                timeout_s=parameters.timeout_s,
                time_limit_s=parameters.time_limit_s,
                now=now,
                speed=self.config.speed,
                price_delay_s=self.config.price_delay_s,
                random=self._random,
            ),
        )
        self.calls.add(call)
        return call

    def reset(self) -> None:
        """Forgets calls, ledger and open accounts. Sids go on: whoever keeps records must see none twice."""
        self.calls.clear()
        self.ledger.clear()
        self.accounts.forget_unregistered()

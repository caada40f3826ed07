"""The simulator's state, all in memory: accounts, calls, ledger, faults and callbacks."""

from datetime import datetime, timedelta
from random import Random

from simulator.accounts import AccountStore
from simulator.background import BackgroundTaskSet
from simulator.callbacks import CallbackScheduler
from simulator.config import SimulatorConfig
from simulator.display_rules import DisplayRules
from simulator.fault_choice import FaultChooser
from simulator.ledger import Ledger
from simulator.lifecycle import plan_call, plan_ended_by_api
from simulator.limits import AccountLimits, AccountQueueRegistry
from simulator.list_faults import ListFaultInjector
from simulator.parameters import CallParameters
from simulator.request_counts import RequestCounts
from simulator.store import Call, CallStore
from simulator.subresources import SubresourceStore

NO_QUEUE_TIME = timedelta()


class SimulatorState:
    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.accounts = AccountStore(config.accounts, open_mode=config.open_mode)
        self.calls = CallStore(config.max_calls)
        self.limited_accounts = AccountQueueRegistry(config.limits)
        self.ledger = Ledger(config.max_calls)
        self.requests = RequestCounts()
        self.faults = FaultChooser()
        self.display_rules = DisplayRules()
        self.list_faults = ListFaultInjector()
        self.callbacks = CallbackScheduler(config, self.accounts)
        self.held_connections = BackgroundTaskSet()
        self._random = Random(config.seed)  # noqa: S311 - sids must repeat by seed; nothing here is secret
        self.subresources = SubresourceStore(self.new_sid)
        self._created = 0
        self._creations_by_destination: dict[str, int] = {}

    def now(self) -> datetime:
        return self.config.clock()

    def new_sid(self, letters: str) -> str:
        return f"{letters}{self._random.getrandbits(128):032x}"

    def count_creation(self, to: str) -> int:
        """Counts a request to create a call to this destination. Returns how many there were since the last reset.

        This request is included. Together with `to`, the number identifies a creation in the same way in every run, even with
        concurrent clients. Random faults are drawn from `to`, this number and a seed. After creations to `max_calls` other
        destinations, the count of a destination starts again.
        """
        nth = self._creations_by_destination.pop(to, 0) + 1
        self._creations_by_destination[to] = nth
        if len(self._creations_by_destination) > self.config.max_calls:
            del self._creations_by_destination[next(iter(self._creations_by_destination))]
        return nth

    def create_call(self, account_sid: str, parameters: CallParameters, now: datetime, *, nth_to_destination: int) -> Call:
        """Creates a call, which may have to wait in the account's queue. Raises error 10004 or 22005 if it exceeds a limit.

        `nth_to_destination` is the number that `count_creation` has returned.
        """
        limited_account = self.limited_accounts.get_or_create(account_sid)
        queue_time = NO_QUEUE_TIME if limited_account is None else limited_account.queue_time_of_new_call(now)
        self._created += 1
        call = Call(
            sid=self.new_sid("CA"),
            account_sid=account_sid,
            sequence=self._created,
            nth_to_destination=nth_to_destination,
            parameters=parameters,
            plan=plan_call(
                parameters.to,
                timeout_s=parameters.timeout_s,
                time_limit_s=parameters.time_limit_s,
                now=now,
                speed=self.config.speed,
                price_delay_s=self.config.price_delay_s,
                random=self._random,
                queue_time=queue_time,
                talking_s=self.config.talking_s,
            ),
            subscription=parameters.subscription,
        )
        self.calls.add(call)
        if limited_account is not None:
            limited_account.add(call)
        return call

    def end_call(self, call: Call, now: datetime) -> None:
        """Ends a call that has not ended. If it waits in its account's queue, the calls behind it leave the queue earlier."""
        call.plan = plan_ended_by_api(call.plan, now)
        limited_account = self.limited_accounts.get_or_create(call.account_sid)
        for moved in limited_account.remove_ended_call(call, now) if limited_account is not None else ():
            self.callbacks.schedule_callbacks(moved)

    def set_account_limits(self, account_sid: str, limits: AccountLimits, now: datetime) -> None:
        """Sets the limits of an account. Existing calls stay. Calls that wait in the queue are dialled at the new rate."""
        concurrent = [call for call in self.calls.newest_first(account_sid) if not call.plan.has_ended(now)]
        for moved in self.limited_accounts.change_limits(account_sid, limits, concurrent, now):
            self.callbacks.schedule_callbacks(moved)

    def reset(self) -> None:
        """Removes calls, subresources, ledger, counts, callbacks, faults and the accounts that open mode has created.

        Registered accounts stay. Restores the configured limits and the default display rules. The sids of new calls still
        differ from all earlier sids, because clients may have kept records of earlier calls.
        """
        self.calls.clear()
        self.limited_accounts = AccountQueueRegistry(self.config.limits)
        self.subresources.clear()
        self.ledger.clear()
        self.requests.clear()
        self.accounts.reset()
        self.faults.reset()
        self.display_rules = DisplayRules()
        self.list_faults = ListFaultInjector()
        self.callbacks.reset()
        self._creations_by_destination.clear()

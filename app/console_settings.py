"""The settings of the console, a part of all settings (app/settings.py)."""

from pydantic import Field
from pydantic_settings import BaseSettings

from app.setting_values import seconds

_DAY_S = 86_400


class ConsoleSettings(BaseSettings):
    console: bool = Field(True, description="Whether `callgate serve` serves the console, `/console`.")
    console_idle_timeout: float = seconds(
        3600.0, "Seconds without a request after which a session of the console ends.", maximum=_DAY_S
    )
    console_session_timeout: float = seconds(
        43_200.0, "Seconds after its login at which a session of the console ends, used or not.", maximum=30 * _DAY_S
    )

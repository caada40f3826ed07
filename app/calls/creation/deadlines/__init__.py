"""SQL for scheduled calls that may be in Twilio's queue at their `ring_by`, the latest time at which they may begin to ring."""

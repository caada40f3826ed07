"""What Twilio has below a call (recordings, streams, payments …), passed through with the tenant's credentials."""

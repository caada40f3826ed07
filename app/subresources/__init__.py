"""The subresources of a call at Twilio (recordings, streams, payments …), forwarded with the tenant's credentials."""

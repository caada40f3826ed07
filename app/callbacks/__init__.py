"""What Twilio tells us of a call's progress; what we tell the tenant."""

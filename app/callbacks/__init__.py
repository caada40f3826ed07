"""What Twilio tells us of a call's progress."""

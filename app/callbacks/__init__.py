"""Status callbacks: Twilio's requests that report the progress of a call."""

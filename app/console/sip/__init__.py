"""The page that takes a SIP address apart."""

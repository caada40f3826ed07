"""The page that parses a SIP address, and shows its parts and what is wrong with it."""

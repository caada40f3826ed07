"""What an operator can get wrong. The message says what to do; it is shown on the command line, never to a caller."""


class OperatorError(Exception):
    pass
